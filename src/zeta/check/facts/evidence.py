"""The evidence: all measurements of a check, as input for its rules."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zeta.check.facts.results import Layer, Loss, Point, Stats
from zeta.check.facts.thresholds import Thresholds
from zeta.check.facts.wiring import Cut, Membership, Pairs, Wires
from zeta.fans import Axes
from zeta.report.measuring import Measured
from zeta.resolve.plans import Entry
from zeta.resolve.slots import Slot
from zeta.rules import Kind


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of one weight.

    Each unit that has the same weights as another one is counted once: in ``same`` if the gradients are equal and not
    zero, in ``idle`` if both gradients are zero, in ``apart`` if the gradients differ. The first unit of each group of
    equal ones is not counted.
    """

    count: int
    same: int
    idle: int
    apart: int
    example: tuple[int, int] | None  #: two units with the same weights and gradient

    @property
    def distinct(self) -> int:
        """The number of units that differ by weight or by gradient."""
        return self.count - self.same - self.idle


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Hashes of a weight's rows along dimension 0: of the first ones, and how many differ."""

    count: int
    distinct: int
    first: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One parameter or buffer, by all that is known of it before its values are."""

    slot: Slot
    ties: tuple[str, ...]
    trainable: bool
    entry: Entry | None
    axes: Axes | None

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.slot.name

    @property
    def planned_std(self) -> float | None:
        """The planned std of all its elements; ``None`` if the plan has none, or is of a part of them."""
        return None if self.entry is None or self.entry.section is not None else self.entry.std

    @property
    def buffer(self) -> bool:
        """Whether it is a buffer."""
        return self.slot.kind is Kind.BUFFER

    @property
    def is_weight(self) -> bool:
        """Whether it has two dimensions or more and is no buffer, nor a bias or a scale of such a shape."""
        scale = self.slot.kind in (Kind.BIAS, Kind.NORM_SCALE, Kind.OTHER)
        return not (self.buffer or scale) and len(self.slot.shape) >= 2 and min(self.slot.shape) > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What the rules need of a tensor's values and gradient, measured once, while these are in memory."""

    dtype: torch.dtype  #: of the values as measured: real, dequantized
    stats: Stats
    sample: Tensor  #: some values, at equal distances
    rows: Rows | None  #: of random weights
    gradient_sample: Tensor | None  #: some of the gradient, at equal distances, of random weights
    measured: Measured | None  #: the moments compared with the plan's
    gradient_stats: Stats | None
    units: Units | None  #: of trainable weights with a gradient
    still_units: Tensor | None  #: which units are zero and have a zero gradient, while others do not


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorFacts(Subject, Reading):
    """The facts about one parameter or buffer: its global values, its gradient, its plan."""

    used: bool  #: whether the forward pass of its module ran
    detached: bool  #: whether a tensor that was computed from it was detached
    read: Callable[[], Tensor]  #: the global values, which may have to be computed again

    @property
    def values(self) -> Tensor:
        """The global values. They may have to be computed again: rules look at them where they suspect something."""
        return self.read()

    @property
    def zero(self) -> bool:
        """Whether every element is exactly zero."""
        return self.stats.zeros == 1.0

    @property
    def still(self) -> bool:
        """Whether it got a gradient that is exactly zero."""
        return self.gradient_stats is not None and self.gradient_stats.zeros == 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Use:
    """One use of a module, or one functional call: the reported ``layer``, and facts that only the rules need."""

    layer: Layer
    module: str
    norm: bool
    weighted: bool
    activation: str | None
    samples: int
    attached: bool
    signal: float  #: the variance between samples, averaged over units
    input_signal: float | None
    input_square: float | None
    input_nonfinite: int
    masked: int  #: minus infinities in its output that can be a mask
    head: bool  #: whether it makes the logits, or else the output
    before: str | None  #: the layer or normalization that precedes it on the longest path, by name
    cosines: bool  #: whether an attention's queries and keys have unit length, so that its scale alone makes the scores
    scored: bool  #: whether its output becomes scores of attention
    steps: int | None  #: of a recurrent module, if known
    gates: bool  #: whether it is a sigmoid whose output multiplies another tensor
    resolution: float  #: the distance from 1 to the next number of its output's dtype
    fed_by: str | None = None  #: the weighted layer whose output goes, through views, here and nowhere else
    input_mean: float | None = None
    idle: bool = False  #: whether nothing uses its output: not the loss, not an output, and not a decision

    @property
    def block(self) -> bool:
        """Whether it is a block of a numbered sequence."""
        return self.layer.block

    @property
    def square(self) -> float:
        """The mean square of the output."""
        return self.layer.output.rms**2


@dataclass(frozen=True, kw_only=True)
class Later:
    """The parameters whose gradient was zero, after a few steps of gradient descent on a copy."""

    steps: int
    still: frozenset[str]  #: those whose gradient stayed zero
    parts: Mapping[str, int] = field(default_factory=dict)  #: by weight, the number of its units that stayed zero
    skipped: str | None = None  #: why no steps were taken


@dataclass(frozen=True, kw_only=True)
class Update:
    """The first step of an optimizer."""

    size: float  #: its rms over that of the values
    group: str | None  #: the optimizer's parameter group, if it has several
    rounded: float = 0.0  #: fraction of the elements that the step leaves as they are, though they have a gradient
    eps: float | None = None  #: the number that the optimizer adds to the size of a gradient before dividing by it


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Consecutive layers (each takes the output of the one before), and each Jacobian's mean square singular value."""

    layers: tuple[str, ...]
    squares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the range and the scale of an output fit those of its target."""

    activation: str | None  #: the last operation of the output, if it bounds the output
    low: float  #: of the target
    high: float
    beyond: float  #: mean squared distance of the target to the output's range, over the target's variance
    target_rms: float
    output_rms: float


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One call of a loss function, or one difference of a prediction and its target outside of the model."""

    function: str
    shape: tuple[int, ...]  #: of the prediction
    target: tuple[int, ...]
    falling: int = 0  #: samples for which the final loss falls if the prediction moves toward its target
    rising: int = 0
    constant: bool = False  #: whether all targets are equal
    broadcast: tuple[int, ...] | None = None  #: the shape of the comparison, if it is larger than both by accident
    fit: Fit | None = None
    holds: str | None = None  #: ``probabilities`` or ``logits``, where the loss expects something else
    crossed: int | None = None  #: the dimension over which probabilities sum to one, if it is not that of the classes
    range: tuple[float, float] | None = None  #: of binary targets
    counted: float = 1.0  #: the fraction of labels that count
    uncounted: str = ""  #: why the others do not
    weightless: tuple[int, ...] = ()  #: classes in the batch whose weight is zero


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Some of the sequences that one ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` got."""

    module: str
    recurrent: nn.RNNBase
    inputs: Tensor  #: steps, samples, features
    steps: int  #: of the whole sequence


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """One layer and direction of a recurrent module, run again step by step on some sequences."""

    module: str
    kind: str  #: ``LSTM``
    weight: str  #: the name of its recurrent weight
    steps: int
    saturated: tuple[tuple[str, float], ...]  #: the fraction at its bounds, of each part in which that is harmful
    kept: float | None  #: mean forget gate of an LSTM, mean update gate of a GRU
    written: float | None  #: mean input gate of an LSTM, mean of 1 - update gate of a GRU
    factor: float | None  #: by which a small change of the state grows from one step to the next
    radius: float  #: spectral radius of the recurrent weight (of the candidate's, for gates)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One selection in a module of the largest or smallest entries in each row, by ``topk``, ``argmin`` or ``min``."""

    module: str
    function: str
    rows: int
    entries: int
    chosen: int  #: entries selected in each row
    common: float  #: the fraction of all selections that the most frequent ``chosen`` entries have


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """The observations of one forward and one backward pass."""

    uses: tuple[Use, ...]
    gradients: Mapping[int, Tensor]  #: of the stored tensors, by their ``id``
    used: frozenset[str]  #: the modules whose forward ran
    detached: frozenset[str]  #: the parameters that went into a tensor that was detached from the graph
    touched: Mapping[str, bool]  #: for parameters that calls of torch took: whether a result had a graph
    reached: Callable[[Tensor], Tensor | None]  #: the elements of a stored tensor that calls took, if not all
    head: frozenset[str]  #: the parameters that make the logits, or else the output
    loss: Loss
    paired: bool  #: whether the class of sample i is i, as in contrastive losses
    compared: bool  #: whether the logits are distances, cosines or products of two layers' outputs
    surrogate: bool  #: whether the loss is a fixed projection of the outputs
    differentiable: bool  #: whether the loss depends on any trainable parameter
    batch_size: int | None  #: the first dimension of the input
    batch_zero: bool  #: whether all floating-point inputs are zero everywhere
    batch_signal: float | None  #: variance of the input between samples over its mean square
    output_nonfinite: int  #: values of the output that are NaN or infinite, except the minus infinities of masks
    varies: bool  #: whether an output with one row for each sample differs between samples
    wires: Wires = field(default_factory=Wires)
    objective: float = math.nan  #: the scalar whose gradients these are; ``loss`` may be a cross entropy in it
    criteria: tuple[Criterion, ...] = ()
    sequences: tuple[Sequences, ...] = ()
    choices: tuple[Choice, ...] = ()
    #: the largest probability of the dropout in each module that has some, which a check leaves out
    dropping: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence(Pass):
    """All measurements of a check: those of the pass, of the tensors, and of what the full level adds."""

    tensors: tuple[TensorFacts, ...]
    thresholds: Thresholds
    later: Later | None = None
    cuts: tuple[Cut, ...] = ()
    pairs: Pairs = field(default_factory=Pairs)
    membership: Membership | None = None  #: with an optimizer
    unwritten: Mapping[str, float] = field(default_factory=dict)  #: fraction of a tensor that was never written
    updates: Mapping[str, Update] = field(default_factory=dict)
    unmoved: str | None = None  #: why the optimizer took no step
    spectral: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    jacobians: tuple[Chain, ...] = ()
    recurrent: tuple[Recurrent, ...] = ()
    sampled: tuple[str, ...] = ()  #: what the full level measured in part

    @functools.cached_property
    def live(self) -> tuple[Use, ...]:
        """The uses whose output something uses: of others, nothing can go wrong."""
        return tuple(use for use in self.uses if not use.idle)

    @functools.cached_property
    def units(self) -> Mapping[str, Units]:
        """The units of every trainable weight that has a gradient, by name."""
        return {one.name: one.units for one in self.tensors if one.units is not None}
