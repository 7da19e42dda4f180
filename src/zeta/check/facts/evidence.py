"""What a check has seen, as the rules look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from zeta.check.facts.results import Layer, Loss, Point, Stats
from zeta.check.facts.thresholds import Thresholds
from zeta.fans import Axes
from zeta.resolve.plans import Entry
from zeta.resolve.slots import Slot
from zeta.rules import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """One parameter or buffer: its global values, and the gradient that reached it."""

    slot: Slot
    ties: tuple[str, ...]
    values: Tensor
    stats: Stats
    gradient: Tensor | None
    gradient_stats: Stats | None
    trainable: bool
    used: bool  #: whether the forward pass of its module ran
    detached: bool  #: whether it went into a tensor that was detached
    entry: Entry | None
    axes: Axes | None

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.slot.name

    @property
    def buffer(self) -> bool:
        """Whether it is a buffer."""
        return self.slot.kind is Kind.BUFFER

    @property
    def is_weight(self) -> bool:
        """Whether it is a map of some kind, and not a bias, a scale or a table of one row."""
        return not self.buffer and self.values.ndim >= 2 and min(self.values.shape) > 0

    @property
    def zero(self) -> bool:
        """Whether every element is exactly zero."""
        return self.stats.zeros == 1.0

    @property
    def still(self) -> bool:
        """Whether a gradient arrived that is exactly zero."""
        return self.gradient_stats is not None and self.gradient_stats.zeros == 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Use:
    """One use of a module or one call: what is reported of it, and what only the rules need."""

    layer: Layer
    module: str
    norm: bool
    weighted: bool
    activation: str | None
    samples: int
    attached: bool
    signal: float  #: the part of the variance that differs between samples
    input_signal: float | None
    input_square: float | None
    masked: int  #: minus infinities in its output
    head: bool  #: whether the loss or the output is made of it by operations on single elements at most

    @property
    def block(self) -> bool:
        """Whether it is a block of a numbered sequence."""
        return self.layer.block

    @property
    def square(self) -> float:
        """The mean square of the output."""
        return self.layer.output.rms**2


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of one weight.

    ``same``: units with the weights and the gradient of another one, which is not zero. ``idle``: with its weights, and
    no gradient at all. ``apart``: with its weights, and another gradient. One unit of each kind is not counted.
    """

    count: int
    same: int
    idle: int
    apart: int
    example: tuple[int, int] | None  #: two units that are the same

    @property
    def distinct(self) -> int:
        """How many differ by weight or by gradient."""
        return self.count - self.same - self.idle


@dataclass(frozen=True, kw_only=True)
class Later:
    """What became of parameters whose gradient was zero, after a few steps of gradient descent on a copy."""

    steps: int
    still: frozenset[str]  #: their gradient stayed zero, and so did they
    parts: Mapping[str, int] = field(default_factory=dict)  #: so many units of a weight were zero and stayed so
    skipped: str | None = None  #: why nothing is known


@dataclass(frozen=True, kw_only=True)
class Update:
    """The first step of an optimizer."""

    size: float  #: its rms over that of the values
    group: str | None  #: which of the optimizer's groups took it, where it has several


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Layers each of which takes what the one before put out, and the mean square singular value of each Jacobian."""

    layers: tuple[str, ...]
    squares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """What one forward and one backward pass showed."""

    uses: tuple[Use, ...]
    gradients: Mapping[int, Tensor]  #: of the stored tensors, by their ``id``
    used: frozenset[str]  #: the modules whose forward ran
    detached: frozenset[str]  #: the parameters that went into a tensor that was detached from the graph
    head: frozenset[str]  #: the parameters that make the logits, or else the output
    loss: Loss
    paired: bool  #: whether the class of sample i is i, as in contrastive losses
    squashed: bool  #: whether a loss that takes logits gets probabilities
    surrogate: bool  #: whether the loss is a mere projection of the outputs
    differentiable: bool  #: whether the loss depends on any trainable parameter
    batch_signal: float | None  #: how the input varies between samples, over its mean square
    output_nonfinite: int  #: values of the output that are NaN or infinite, without those that a mask makes


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence(Pass):
    """Everything that the rules look at: the pass, the parameters, and what was measured beyond it."""

    held: tuple[Held, ...]
    thresholds: Thresholds
    later: Later | None = None
    unwritten: Mapping[str, float] = field(default_factory=dict)  #: fraction of a tensor that was never written
    updates: Mapping[str, Update] = field(default_factory=dict)
    spectral: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    jacobians: tuple[Chain, ...] = ()
    units: Mapping[str, Units] = field(default_factory=dict)
    sampled: tuple[str, ...] = ()  #: what the full level looked at in part
