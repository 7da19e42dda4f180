"""The results of a check: plain frozen data, read by all output formats (terminal, HTML, JSON, SARIF, TensorBoard)."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Severity(enum.Enum):
    """The severity of a finding."""

    FAIL = "fail"  #: the network, or a part of it, cannot learn from its initial values, or differs from the plan
    WARN = "warn"  #: it may learn, but worse or more slowly than necessary
    NOTE = "note"  #: looks unusual but is harmless, with the reason


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One problem that a check looks for. The first digit of the id is its group: 1 memory, 2 plan, 3 symmetry, ..."""

    id: str  #: ``Z301``
    name: str  #: ``duplicated-units``
    severity: Severity  #: the worst severity of its findings
    summary: str  #: one sentence: what it means
    advice: str  #: one sentence: what to do
    source: str  #: the paper or the reason, short


@dataclass(frozen=True, kw_only=True)
class Consequence:
    """What follows from a finding: it goes away with its cause."""

    rule: str  #: the id
    severity: Severity
    place: str  #: a parameter or a layer
    message: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem that was found at one place.

    ``parameter`` is a canonical name, ``layer`` the ``Layer.name`` of a use of a module; either may be missing.
    ``value`` is the measured value and ``limit`` the threshold that it passed, if these are numbers.
    """

    rule: Rule
    severity: Severity
    parameter: str | None = None
    layer: str | None = None
    message: str  #: one sentence: what is wrong here, with the numbers
    advice: str  #: one sentence: what to do about it
    value: float | None = None
    limit: float | None = None
    consequences: tuple[Consequence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts in bins of equal width; values outside are in the first and last bin."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Statistics of all elements of a tensor; complex values by their absolute value."""

    count: int
    mean: float
    std: float
    low: float
    high: float
    zeros: float  #: fraction of exact zeros
    nonfinite: int
    histogram: Histogram | None = None

    @property
    def rms(self) -> float:
        """The square root of the mean square."""
        return math.hypot(self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One use of a module, or one functional call, in the order of the forward pass."""

    name: str  #: ``blocks.0.mlp.fc1``; further uses of the same module ``...#2``; calls ``blocks.0.mlp:relu``
    kind: str  #: ``Linear``, ``relu``, ``scaled_dot_product_attention``
    parameters: tuple[str, ...]  #: canonical names of its own parameters
    output: Stats  #: of its output
    gradient: Stats | None  #: of the gradient of the loss with respect to the output; None if there is none
    factor: float | None = None  #: mean square of the output over that of the input
    dead: float | None = None  #: fraction of an activation's units that are off for the whole batch
    saturated: float | None = None  #: fraction of an activation's outputs at its bounds
    entropy: float | None = None  #: attention: mean entropy over ln(number of keys attended to)
    largest_logit: float | None = None  #: attention: largest absolute score before the softmax
    #: attention: of the head with the median entropy, a row of digits for each of some queries. A digit is ten times
    #: the square root of the weight of one key, or of a group of neighbouring keys
    attended: tuple[str, ...] | None = None
    singular: tuple[float, float] | None = None  #: full level: mean square and largest singular value of its Jacobian
    block: bool = False  #: whether it is one of a numbered sequence of blocks; its inner layers come before it


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter or buffer, planned and measured."""

    name: str
    ties: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    buffer: bool
    initializer: str | None  #: the planned initializer as text; None without a plan
    planned_mean: float | None
    planned_std: float | None
    values: Stats
    gradient: Stats | None
    units: int | None = None  #: the number of output units (rows), if it has units
    distinct: int | None = None  #: the number of units that differ by weight or by gradient
    update: float | None = None  #: rms of the first optimizer step over the rms of the values
    spectral: tuple[float, float] | None = None  #: full level: spectral norm, measured and of a Gaussian matrix


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss on the batch, and what it would be for random labels: the chance level, and what the logits add."""

    value: float
    expected: float | None  #: for random labels: ``chance`` plus ``spread``
    classes: int | None

    @property
    def chance(self) -> float | None:
        """The chance level: the loss of equal logits, ln(classes)."""
        return math.log(self.classes) if self.classes is not None and self.classes > 0 else None

    @property
    def spread(self) -> float | None:
        """What logits that differ add to the chance level, for random labels."""
        return None if self.expected is None or self.chance is None else max(self.expected - self.chance, 0.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Full level: one quantity at one width or depth, of a model that a factory built."""

    factory: str  #: ``width`` or ``depth``
    #: of width, the class of its weight, as in ``zeta.scale``: input, hidden, output, vector, fixed, or no parameters.
    #: Of depth, in blocks or outside; nothing for the gradient norm
    group: str
    size: int
    layer: str  #: a layer's name; over depth with a star for the number of its block, or ``gradient norm``
    step: int  #: optimizer steps taken before
    value: float


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Full level: how the outputs of the layers of one class grow over the sizes of a factory: rms as size^exponent."""

    factory: str  #: ``width`` or ``depth``
    group: str  #: the class, as in ``Point``
    layers: int
    exponents: tuple[float, ...]  #: the mean over the layers: at the start, and after each step of training
    layer: str  #: the layer that grows most
    step: int  #: after how many steps it does
    steepest: float  #: its exponent there
    verdict: str  #: ``flat``, ``grows`` (a layer, at some step) or ``shrinks`` (the mean, after the last step)


@dataclass(frozen=True, kw_only=True)
class Results:
    """All measurements and findings of a check; ``CheckReport`` adds the output formats."""

    model: str  #: its class
    level: str  #: ``fast`` or ``full``
    findings: tuple[Finding, ...]  #: worst first, then in the order of the rules and of the model
    suppressed: tuple[Finding, ...]  #: found, but suppressed by the user
    layers: tuple[Layer, ...]  #: in the order of the forward pass
    parameters: tuple[Parameter, ...]  #: in the order of the model; buffers too
    loss: Loss | None
    points: tuple[Point, ...] = ()
    slopes: tuple[Slope, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()  #: rules that could not be applied, and why
    sampled: tuple[str, ...] = ()  #: full level: what was measured in part only, which part, and why
    seconds: float
    versions: tuple[tuple[str, str], ...]  #: of zeta and torch
    device: str
    seed: int | None = None  #: the seed of the plan, if one was checked

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.severity is not Severity.FAIL for finding in self.findings)
