"""The facts about wiring: what is not registered, not optimized, cut off from the loss, or connected to too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Stray:
    """A trainable tensor that the loss depends on and that is not in ``model.parameters()``."""

    place: str | None  #: the attribute that holds it, or a tensor computed from it
    module: str | None  #: the module in which it was used
    shape: tuple[int, ...]
    of_loss: bool  #: whether only the loss function uses it


@dataclass(frozen=True, kw_only=True)
class Wires:
    """What the first pass shows about wiring."""

    strays: tuple[Stray, ...] = ()
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  #: the shape of each output, by its place
    offsets: frozenset[int] = frozenset()  #: by how many places a cross entropy's targets are ahead of the tokens
    guessed: bool = False  #: whether the next-token loss is the check's own choice
    ignored: bool = False  #: whether the model takes the targets, and gave no loss for them


@dataclass(frozen=True, kw_only=True)
class Break:
    """The operation at which the graph ends, and the module whose code calls it."""

    operation: str
    module: str
    explicit: bool  #: whether it asks for no gradient, as detach() and no_grad() do


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Parameters without a gradient, or with one of exactly zero, that the loss depends on, and what cuts them off."""

    at: Break
    parameters: tuple[str, ...]
    handed: bool  #: whether values were handed to Python, from where nothing can be followed to the loss
    moved: float | None  #: the relative change of the loss when they change; None if it was not measured


@dataclass(frozen=True, kw_only=True)
class Reach:
    """A change of one sample, or of later tokens, that reached what it must not reach."""

    module: str | None  #: the first module where it happens; None if it is not known
    code: bool  #: whether it happens in the code of that module, between its submodules
    moved: float  #: the change of the output over its rms


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What two samples show, of which one changes between two passes in eval mode."""

    mixing: Reach | None = None
    leak: Reach | None = None
    masked: bool = False  #: with a leak: whether anything masks later positions
    encoded: bool = False  #: with a leak: whether its modules are called encoder and decoder
    copies: bool = False  #: whether earlier outputs depend on their own token, and on no later one
    constant: Reach | None = None  #: where the output stops to depend on the sample
    skipped: tuple[tuple[str, str], ...] = ()  #: rules that could not be applied, and why


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Which trainable parameters an optimizer has."""

    given: bool  #: whether it is the optimizer itself, and not one that a function made
    missing: tuple[str, ...]
    foreign: int  #: the number of its tensors that are not of this model
    partial: bool  #: whether the optimizer's class refuses some of the missing ones, so that another one must have them
    decayed: tuple[str, ...]  #: scales and biases with weight decay
