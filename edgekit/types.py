"""The nouns of edgekit as frozen dataclasses; all of them are plain JSON in manifest.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgekit.agent.protocol import (
    Conditions,
    Energy,
    Job,
    JobResult,
    Machine,
    ModelledCycles,
    OperatorTime,
    Profile,
    Runtime,
    Signature,
    TensorSpec,
    Timing,
)

if TYPE_CHECKING:
    import numpy as np


__all__ = [
    "BACKENDS",
    "BASELINE",
    "CALIBRATIONS",
    "FORMATS",
    "FREE_DIMENSION",
    "METHODS",
    "PRECISIONS",
    "PRUNINGS",
    "AccuracyRecord",
    "Artifact",
    "Candidate",
    "Code",
    "Conditions",
    "Energy",
    "Explanation",
    "Feed",
    "Histogram",
    "Job",
    "JobResult",
    "LatencyRecord",
    "LayerError",
    "Machine",
    "ModelledCycles",
    "Notice",
    "OperatorTime",
    "OutputParity",
    "ParityRecord",
    "Profile",
    "ProfileRecord",
    "Progress",
    "Pruning",
    "Quantization",
    "Runtime",
    "SearchRecord",
    "Signature",
    "Source",
    "Step",
    "TensorSpec",
    "Timing",
    "Tolerance",
]

Feed = dict[str, "np.ndarray"]
"""Arrays by Keras name, never by position; the first axis of each is the row."""

FORMATS = ("tflite", "onnx", "tfjs")
PRECISIONS = ("fp32", "fp16", "dynamic", "int8", "int16x8")
CALIBRATIONS = ("minmax", "percentile", "entropy")
METHODS = ("ptq", "qat")
"""Quantization after training, and training on for it."""
PRUNINGS = ("structured", "sparse", "cluster")
"""In the order in which they go together: channels that go, weights that become 0, few values."""
BACKENDS = ("converter", "litert")
"""What quantizes TFLite: TensorFlow's converter, or Google's newer litert-quantizer (an extra)."""
LOCAL = "local"
"""The target that is this machine."""
BASELINE = "keras"
"""The artifact id under which records of the Keras model itself are kept."""

FREE_DIMENSION = 16
"""Length given to a dimension that a model leaves open, in random rows."""

Progress = Callable[[str], None]
"""Told in one line what is being done now."""


class Notice(str):
    """A text for `Progress` that ends no step: what the user has to do meanwhile, or did."""


@dataclass(frozen=True)
class Code:
    """Python code of the user's: a path or a module's name, perhaps with ":function" behind it."""

    name: str
    sha256: str | None = None
    """Of the file, once it was read."""


@dataclass(frozen=True)
class Source:
    """A trained model as it comes, and what else it takes to load it."""

    path: str
    """A .keras, .h5 or weights file, or a SavedModel folder."""
    family: str
    """Which loader fits: "keras" (3), "tf-keras" (Keras 2) or "saved-model"."""
    custom_objects: Code | None = None
    """The module with the classes and functions that the model uses."""
    builder: Code | None = None
    """The function that builds the model, of which the file has the weights."""
    from_layer: str | None = None
    """The first layer of the part that is wanted; None: from the model's inputs."""
    until_layer: str | None = None
    """The last layer of that part; None: until the model's outputs."""

    def of_itself(self, path: str) -> Source:
        """A file that holds such a model whole, which no builder builds; its module has classes."""
        objects = self.custom_objects
        if self.builder is not None and objects is None:
            objects = replace(self.builder, name=self.builder.name.rpartition(":")[0])
        return replace(self, path=path, builder=None, custom_objects=objects)


@dataclass(frozen=True)
class Quantization:
    """How an int8 or int16x8 file is quantized."""

    calibration: str = "minmax"
    """How the range of an activation is found: one of CALIBRATIONS."""
    percentile: float = 99.99
    """Share of the values, in percent, that "percentile" keeps."""
    keep_float: tuple[str, ...] = ()
    """Patterns of Keras layer names ("head/*") that stay in float."""
    correct_bias: bool = True
    """Whether the mean error of each channel is taken off its bias, which costs nothing."""
    equalize: bool = False
    """Whether the ranges of channels are evened out between layers, which changes no output."""
    compact: bool = False
    """Whether the scales of weights are such that gzip makes a file of few or equal weights small;
    they are coarser then than each channel's own would be."""
    backend: str = "converter"
    """What quantizes TFLite: one of BACKENDS."""


@dataclass(frozen=True)
class Pruning:
    """What a model is to have less of."""

    kind: str
    """One of PRUNINGS: whole channels go, single weights become 0, or all weights of a layer share
    a few values."""
    amount: float
    """The share of the channels or weights of each layer that goes, or the number of values."""
    pattern: str = ""
    """How zeros lie: "2:4", two of four neighbours among a kernel's inputs; "4x1", blocks of 4
    inputs and 1 output; "": anywhere."""
    layers: tuple[tuple[str, float], ...] = ()
    """Patterns of Keras layer names with amounts of their own; the last that fits counts, and 0
    leaves a layer as it is."""
    skip_first: bool = False
    """Whether the first layer that could be pruned is left as it is."""
    skip_last: bool = False

    @property
    def variant(self) -> str:
        """What such a model is called: "sparse80", "structured50", "cluster16"."""
        number = self.amount if self.kind == "cluster" else 100 * self.amount
        return f"{self.kind}{number:.0f}"


@dataclass(frozen=True)
class Step:
    """How an artifact was made."""

    verb: str
    options: Mapping[str, Any]
    parent: str
    """SHA-256 of the model it was made from."""
    tools: Mapping[str, str]
    time: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class Artifact:
    """One deployable file (or folder, for TF.js) of a workspace."""

    id: str
    """"<variant>.<format>", for example int8.tflite."""
    path: str
    """Relative to the workspace."""
    sha256: str
    size_bytes: int
    signature: Signature
    step: Step

    @property
    def variant(self) -> str:
        return self.id.rpartition(".")[0]

    @property
    def precision(self) -> str:
        """The last part of the variant: "int8" of sparse80-int8."""
        return self.variant.rpartition("-")[2]

    @property
    def model(self) -> str | None:
        """The Keras model it is made from: "sparse80" of sparse80-int8; None: the source."""
        return self.variant.rpartition("-")[0] or None

    @property
    def keeps_float(self) -> bool:
        """Whether layers of an integer file were asked to stay float."""
        return "keep_float" in self.step.options

    @property
    def format(self) -> str:
        return self.id.rpartition(".")[2]


@dataclass(frozen=True)
class Histogram:
    """How many values lie where: `counts` has one more than `edges`.

    Its first are below the first edge, its last from the last edge on, the others between two.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class OutputParity:
    """How far one output is from the Keras model's, over all rows.

    `scale` is the largest absolute value of the Keras output; `max_rel` = max_abs / scale.
    `sqnr_db` = 10 log10(variance of the Keras output over rows / mean squared difference).
    `top1_agreement` is set where the output decides between classes. Elsewhere, channels (last
    axis) are looked at one by one, since a large one hides a small one: `channel_sqnr_db` is the
    worst channel's, `dead_channels` the share of channels that vary in the Keras model and carry
    nothing here: they are constant, or their typical noise is larger than 10 dB. `typical_noise`
    is the error as a share of the variation, both of the median row, in the median channel: unlike
    a variance it is not made by a few rows of huge values. None: the output is bounded by 1
    (probabilities, masks), where values near a bound are all alike.
    `errors` are the absolute differences of all values as shares of `scale`.
    """

    name: str
    max_abs: float
    mean_abs: float
    scale: float
    max_rel: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None = None
    channel_sqnr_db: float | None = None
    dead_channels: float | None = None
    typical_noise: float | None = None
    errors: Histogram | None = None


@dataclass(frozen=True)
class Tolerance:
    """What parity asks of a precision; None = not asked."""

    max_rel: float | None = None
    min_sqnr_db: float | None = None
    min_top1: float | None = None
    min_channel_sqnr_db: float | None = None
    max_dead_channels: float | None = None
    max_drop: float | None = None
    """Largest allowed loss on the recipe's metric, as a share of the Keras model's figure."""


@dataclass(frozen=True)
class ParityRecord:
    """An artifact against the Keras model, on the runtime that ran it."""

    artifact: str
    sha256: str
    rows: int
    data: str
    """Where the rows came from: "recipe", "samples" or "synthetic"."""
    outputs: tuple[OutputParity, ...]
    tolerance: Tolerance
    failures: tuple[str, ...]
    runtime: Runtime
    machine: Machine
    target: str = LOCAL

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True)
class RowScores:
    """A metric by row, or by group of rows, so that two files can be compared row by row."""

    metric: str
    higher_is_better: bool
    dtype: str
    """"bit" where each row is right or wrong, else "float32"."""
    count: int
    data: str
    """The scores in base64; the first bit of a byte is the largest."""


@dataclass(frozen=True)
class AccuracyRecord:
    """The recipe's metrics over a whole split."""

    artifact: str
    sha256: str
    split: str
    rows: int
    metrics: Mapping[str, float]
    target: str = LOCAL
    scores: tuple[RowScores, ...] = ()
    """Of the metrics that a file is judged by."""


@dataclass(frozen=True)
class Candidate:
    """One file that a search tried."""

    label: str
    """What is particular about it, in words: "int8, percentile"."""
    precision: str
    quantization: Quantization
    size_bytes: int
    figure: float | None
    """What it reached on the validation rows; None: it was not equal enough to be measured."""
    lost: float | None
    """Against the Keras model, in the unit of the budget."""
    holds: bool
    p50_ns: float | None = None
    """Of one invocation on this machine, in one thread."""
    failure: str | None = None
    """Why it could not be made, or does not hold at all."""


@dataclass(frozen=True)
class SearchRecord:
    """What a search for the smallest file within a budget saw, in the order of its trials."""

    format: str
    method: str
    """"ptq" or "qat"."""
    budget: str
    """As it was given: "1%" or "0.5pt"."""
    measure: str
    """What the budget is of: the recipe's metric, "top-1 agreement" or "noise"."""
    rows: int
    """Validation rows that decided."""
    baseline: float
    """The Keras model's own figure on them."""
    candidates: tuple[Candidate, ...]
    chosen: int | None
    """Index in `candidates`; None: nothing held."""
    final: float | None = None
    """What the chosen one lost on the test rows, which took no part in the search."""
    chance: float = 0.0
    """Of that, what two standard errors of a difference on these rows may explain."""
    holds: bool = False
    """Whether the chosen one holds there, too, but for chance, and was published."""

    def loss(self, value: float | None) -> str:
        """A loss in the unit of the budget."""
        if value is None:
            return "an unknown amount"
        return f"{100 * value:.2f} %" if self.budget.endswith("%") else f"{100 * value:.2f} pt"


@dataclass(frozen=True)
class LayerError:
    """The error that a layer adds, given the inputs that it has in the file."""

    layers: tuple[str, ...]
    """Keras layers that the file computes as one, in their order."""
    sqnr_db: float
    """Signal-to-noise ratio of what it gives, over channels, so that a large one hides no other."""
    cumulative_sqnr_db: float
    """That of its output against the Keras model's, with all errors before it."""
    cause: str
    detail: str
    """The figures that show it."""
    fix: str
    """What to try."""
    keep: tuple[str, ...] = ()
    """The layers that have to stay float for the error to go: this one and, as far as an outlier
    goes on, those that read it."""


@dataclass(frozen=True)
class Explanation:
    """Where a file departs from the Keras model."""

    artifact: str
    rows: int
    layers: tuple[LayerError, ...]
    """The worst first."""
    notes: tuple[str, ...] = ()
    quantization: Quantization = field(default_factory=Quantization)
    """How the file was made that was looked into, and not published."""


@dataclass(frozen=True)
class LatencyRecord:
    """Raw latency samples of one artifact on one machine, one Timing per process."""

    artifact: str
    sha256: str
    target: str
    threads: int
    rows: int
    """Rows per invocation (the batch)."""
    timings: tuple[Timing, ...]
    runtime: Runtime
    machine: Machine
    warnings: tuple[str, ...] = field(default=())
    conditions: tuple[tuple[Conditions, ...], ...] = ()
    """What the machine said of its state before and after each process, where it does."""
    pinned: bool = False
    """Whether the processes were kept on as many cores as they have threads."""
    began: str = ""
    """When the measurement did, ISO 8601, UTC: the same in all records that were made in turns."""


@dataclass(frozen=True)
class InstructionRecord:
    """How many instructions an artifact takes on an emulated machine: exact, and no time."""

    artifact: str
    sha256: str
    target: str
    rows: int
    """Rows per invocation (the batch)."""
    counts: tuple[int, ...]
    """Of one invocation after the other; the k-th of two measurements can be compared."""
    runtime: Runtime
    machine: Machine
    modelled: ModelledCycles | None = None
    """Of the first of these counts, where it was asked for."""


@dataclass(frozen=True)
class ProfileRecord:
    """The operators of one artifact on one machine, in a run of its own: profiling costs time."""

    artifact: str
    sha256: str
    target: str
    threads: int
    rows: int
    """Rows per invocation (the batch)."""
    profile: Profile
    operators_ns: float
    """All operators together."""
    p50_ns: float | None
    """One invocation when nobody asks for operators: what `operators_ns` is to be held against."""
    runtime: Runtime
    machine: Machine
