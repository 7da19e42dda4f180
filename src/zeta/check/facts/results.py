"""What a check found: plain frozen data, which the terminal, HTML, JSON, SARIF and TensorBoard outputs only read."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Severity(enum.Enum):
    """How bad a finding is."""

    FAIL = "fail"  #: the network, or part of it, cannot learn from here, or is not what was planned
    WARN = "warn"  #: it may learn, worse or later than it need
    NOTE = "note"  #: looks odd and is benign, with the reason


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that is looked for. The first digit of the id is its group: 1 memory, 2 plan, 3 symmetry, ..."""

    id: str  #: ``Z301``
    name: str  #: ``duplicated-units``
    severity: Severity  #: the worst that it gives
    summary: str  #: one sentence: what it means
    advice: str  #: one sentence: what to do
    source: str  #: the paper or the reason, short


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found at one place.

    ``parameter`` is a canonical name, ``layer`` the ``Layer.name`` of a use of a module; either may be missing.
    ``value`` is what was measured and ``limit`` the threshold that it passed, where these are numbers.
    """

    rule: Rule
    severity: Severity
    parameter: str | None = None
    layer: str | None = None
    message: str  #: one sentence: what is the matter here, with its numbers
    advice: str  #: one sentence: what to do about it
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between equally spaced edges; values outside are in the first and last bin."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Of all elements of a tensor (over every batch that went through); complex values by their absolute value."""

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
    output: Stats  #: of what it puts out
    gradient: Stats | None  #: of the loss by that; None where none arrived
    factor: float | None = None  #: mean square of the output over that of the input
    dead: float | None = None  #: fraction of an activation's units that are off for the whole batch
    saturated: float | None = None  #: fraction of an activation's outputs at its bounds
    entropy: float | None = None  #: attention: mean entropy over ln(number of keys attended to)
    largest_logit: float | None = None  #: attention: largest absolute score before the softmax
    singular: tuple[float, float] | None = None  #: full level: mean square and largest singular value of its Jacobian
    block: bool = False  #: one of a numbered sequence of blocks, whose own layers come before it


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter or buffer, planned and measured."""

    name: str
    ties: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    buffer: bool
    initializer: str | None  #: what the plan says, as text; None without a plan
    planned_mean: float | None
    planned_std: float | None
    values: Stats
    gradient: Stats | None
    units: int | None = None  #: how many output units (rows) it has, where it has such
    distinct: int | None = None  #: how many of them differ by weight or by gradient
    update: float | None = None  #: rms of the first optimizer step over the rms of the values
    spectral: tuple[float, float] | None = None  #: full level: spectral norm, measured and as a Gaussian would have


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss on the batch, and what a head without opinion would have."""

    value: float
    expected: float | None  #: ln(classes), with the logits' spread taken into account
    classes: int | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """Full level: one quantity at one width or depth, of the models that the factories built."""

    factory: str  #: ``width`` or ``depth``
    size: int
    layer: str  #: a layer's name, or ``gradient norm`` over depth
    step: int  #: optimizer steps taken before
    value: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that a check measured and found; ``CheckReport`` adds the ways out."""

    model: str  #: its class
    level: str  #: ``fast`` or ``full``
    findings: tuple[Finding, ...]  #: worst first, then in the order of the rules and of the model
    suppressed: tuple[Finding, ...]  #: found, and asked not to be reported
    layers: tuple[Layer, ...]  #: in the order of the forward pass
    parameters: tuple[Parameter, ...]  #: in the order of the model; buffers too
    loss: Loss | None
    points: tuple[Point, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()  #: rules that could not be applied, and why
    sampled: tuple[str, ...] = ()  #: full level: what was looked at in part, in which, and why
    seconds: float
    versions: tuple[tuple[str, str], ...]  #: of zeta and torch
    device: str
    seed: int | None = None  #: of the plan, where one was checked

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.severity is not Severity.FAIL for finding in self.findings)
