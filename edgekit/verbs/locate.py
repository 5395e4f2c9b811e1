"""What a user names on the command line: a workspace, an artifact of one, or a plain model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import formats
from edgekit.agent.protocol import Signature
from edgekit.errors import SourceError
from edgekit.formats.description import FileDescription
from edgekit.hashing import sha256
from edgekit.manifest import MANIFEST
from edgekit.targets import Target
from edgekit.types import FORMATS, Artifact, Progress
from edgekit.workspace import Workspace


@dataclass(frozen=True)
class Located:
    """A model file; `workspace` is None for one that belongs to none."""

    id: str
    path: Path
    precision: str
    sha256: str
    signature: Signature
    workspace: Workspace | None = None
    model: str | None = None
    """The Keras model it is held against: a variant of the workspace's; None: the source."""
    keeps_float: bool = False


def locate(source: Path) -> list[Located]:
    """All artifacts of the workspace `source`, or the one file that it names.

    Raises:
        SourceError: it is neither.
        WorkspaceError: an artifact is missing or was changed.
    """
    if (source / MANIFEST).is_file():
        workspace = Workspace.open(source)
        if not workspace.manifest.artifacts:
            raise SourceError(
                f"{source} has no artifacts yet", hint=f"make some with: edgekit export {source}"
            )
        return [of_workspace(workspace, artifact) for artifact in workspace.manifest.artifacts]
    if not source.exists():
        raise SourceError(f"there is no file {source}")
    if (source.parent / MANIFEST).is_file():
        workspace = Workspace.open(source.parent)
        for artifact in workspace.manifest.artifacts:
            if artifact.path == source.name:
                return [of_workspace(workspace, artifact)]
    return [_plain(source)]


def runnable(items: Sequence[Located], place: Target, progress: Progress) -> list[Located]:
    """Those of a format that `place` has a runtime for; the others are told.

    Raises:
        SourceError: there is none.
    """
    found = [item for item in items if item.id.rpartition(".")[2] in place.formats]
    left = [item.id for item in items if item not in found]
    if not found:
        raise SourceError(
            f"{place.uri} runs {' and '.join(place.formats)}, not {', '.join(left)}",
            hint="take the target local",
        )
    if left:
        progress(f"left out, since {place.uri} has no runtime for it: {', '.join(left)}")
    return found


def of_workspace(workspace: Workspace, artifact: Artifact) -> Located:
    """An artifact of a workspace, after its hash was compared."""
    path = workspace.artifact_path(artifact)
    return Located(
        artifact.id,
        path,
        artifact.precision,
        artifact.sha256,
        artifact.signature,
        workspace,
        artifact.model,
        artifact.keeps_float,
    )


def _plain(path: Path) -> Located:
    found = formats.describe(path)
    if found.format not in FORMATS:
        raise SourceError(
            f"{path} is a {found.format} file, not an exported one",
            hint=f"export it first: edgekit export {path}",
        )
    folder = path.parent if path.name == "model.json" else path
    id = f"{folder.stem}.{found.format}"
    return Located(id, folder, _precision(found), sha256(folder), found.signature)


def _precision(found: FileDescription) -> str:
    """What a file of unknown origin can be held to, by the types of its weights."""
    weights = {group.dtype for group in found.groups if group.role == "weights"}
    if weights & {"int8", "uint8", "int4"}:
        return "dynamic" if found.float_tensors else "int8"
    return "fp16" if "float16" in weights else "fp32"
