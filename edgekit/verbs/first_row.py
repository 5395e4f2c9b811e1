"""One row to call a model with."""

from __future__ import annotations

import contextlib
import tempfile

import numpy as np

from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import Signature
from edgekit.samples import read_npz
from edgekit.types import FREE_DIMENSION, TensorSpec
from edgekit.workspace import Workspace


def first_row(
    signature: Signature, workspace: Workspace | None, stack: contextlib.ExitStack
) -> dict[str, str]:
    """One row as .npy files: of the workspace's own, or random for a file that comes alone."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
    path = workspace.data_path("verification") if workspace else None
    if path is not None:
        feed = {name: value[:1] for name, value in read_npz(path).items()}
        return save_arrays({s.name: feed[s.name] for s in signature.inputs}, folder)
    random = np.random.default_rng(0)
    return save_arrays({s.name: _random_row(s, random) for s in signature.inputs}, folder)


def _random_row(spec: TensorSpec, random: np.random.Generator) -> np.ndarray:
    shape = [1, *(FREE_DIMENSION if d is None else d for d in spec.shape[1:])]
    if np.dtype(spec.dtype).kind == "f" or spec.scale is not None:
        return random.random(shape).astype(np.float32)
    return np.zeros(shape, spec.dtype)  # indices and flags: 0 is always one
