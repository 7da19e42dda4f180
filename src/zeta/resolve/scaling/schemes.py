"""The schemes, readable side by side with the papers: factors of a parameter, relative to the base, by its class.

A scheme has a function for each column of its paper's table. Each function takes a :class:`Size` and returns the factor
by which the number of the target differs from that of the base. Where nothing grows, every factor is 1. An absolute
scheme (``umup``) returns numbers of the target itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final

from msgspec import Meta, Struct

from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.fans import Fans
from zeta.rules.match import Role


class Class(StrEnum):
    """How a parameter takes part in the width of its network (Yang et al. 2022, section 4 and appendix B)."""

    INPUT = "input"  # from a fixed size to a width: embeddings, positions, the first layer
    HIDDEN = "hidden"  # inside of the network; it sums over a width
    OUTPUT = "output"  # sums over a width and leads out: read-outs and routers
    VECTOR = "vector"  # one element for each unit of a width: biases, norms, layer scales
    FIXED = "fixed"  # no width


#: a ratio of sizes, small enough for powers of it to be finite
Ratio = Annotated[float, Meta(ge=2.0**-63, le=2.0**63)]


class Size(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a scheme sees of a parameter: its class, and the ratios of the target's sizes to the base's.

    ``width_in`` and ``width_out`` are the ratios of the fans (of a vector, ``width_out`` is that of its length);
    ``depth`` is that of the number of layers, for what lies in a layer; ``layers`` is that number in the target, or 0
    if it is not known.
    """

    group: Class
    width_in: Ratio = 1.0
    width_out: Ratio = 1.0
    depth: Ratio = 1.0
    layers: Annotated[int, Meta(ge=0, le=2**31)] = 1
    role: Role | None = None
    base: Fans | None = None
    target: Fans | None = None
    #: layers in the residual branch that it is in, for ``fixup``
    branch: Annotated[int, Meta(ge=1, le=2**31)] = 2

    @property
    def narrows(self) -> bool:
        """Whether it leads from a width to a size that stays, and lies inside: keys that all queries share, LoRA A."""
        return self.group is Class.HIDDEN and self.width_in > 1 and self.width_out == 1

    @property
    def width(self) -> float:
        """The width that its gradient shrinks with: that of what it is summed over, or else of what it leads to."""
        if self.narrows:
            return 1.0
        return self.width_in if self.group in (Class.HIDDEN, Class.OUTPUT) else self.width_out


Factor = Callable[[Size], float]


def _one(size: Size) -> float:
    return 1.0


def _power(number: float, exponent: float) -> float:
    return math.pow(number, exponent)


class Scheme(Struct, frozen=True, kw_only=True):
    """A table of factors: of std, learning rates, eps, and multipliers in the forward pass."""

    summary: str
    #: of the initial std
    std: Factor = _one
    #: of an absolute scheme, which weights have std 1, whatever the scale of their law; its factors are not relative
    unit: Callable[[Size], bool] | None = None
    #: of what the module of a weight gets as its input
    inputs: Factor = _one
    #: the same, of a read-out whose weight is that of a table
    tied: Factor | None = None
    #: of the learning rate, under Adam and its kin
    adam: Factor = _one
    #: of the learning rate, under SGD
    sgd: Factor = _one
    #: of the size of Muon's steps, which are orthogonal: their spectral norm is this times that at the base
    muon: Factor = _one
    #: of Adam's eps
    eps: Factor = _one
    #: of the weight decay, given that of the learning rate: torch's decay is the product of both
    decay: Callable[[Size, float], float] = lambda size, rate: 1 / rate
    #: of what a residual branch adds
    branch: Factor = _one
    #: whether attention divides by the size of a head, and not by its square root
    attention: bool = True
    #: whether the laws are those of the base's depth, so that what depends on the depth is in the factors
    at_base_depth: bool = False
    #: whether the model's own laws at the target stay
    own: bool = False
    #: the only optimizers that it has rates for; without any, those that zeta knows
    optimizers: tuple[str, ...] = ()


def _spectral_step(size: Size) -> float:
    """A step whose spectral norm is sqrt(out/in) changes outputs as much at every width (Yang et al. 2023)."""
    return _power(size.width_out / size.width_in, 0.5)


# -- muP: Yang et al. 2022 (arXiv:2203.03466), table 8 -----------------------------------------------------------------


def _mup_std(size: Size) -> float:
    """Variance 1/fan_in of hidden weights; of all others it does not depend on the width.

    A weight that narrows has 1/fan_in^2, as a read-out whose multiplier it takes in: with 1/fan_in, the root of the
    width of what it sums over follows the few directions of its gradient, and its outputs grow by that in training.
    """
    if size.narrows:
        return 1 / size.width_in
    return _hidden_std(size)


def _hidden_std(size: Size) -> float:
    return _power(size.width_in, -0.5) if size.group is Class.HIDDEN else 1.0


def _mup_inputs(size: Size) -> float:
    return 1 / size.width_in if size.group is Class.OUTPUT else 1.0


def _mup_adam(size: Size) -> float:
    return 1 / size.width_in if size.group is Class.HIDDEN else 1.0


def _mup_sgd(size: Size) -> float:
    match size.group:
        case Class.INPUT | Class.VECTOR:
            return size.width_out
        case Class.HIDDEN:
            return size.width_out / size.width_in
        case Class.OUTPUT:
            return size.width_in
    return 1.0


# -- muP as Megatron has it (transformer_config.py, optimizer/__init__.py) ---------------------------------------------


def _megatron_sgd(size: Size) -> float:
    return 1.0 if size.group is Class.HIDDEN else _mup_sgd(size)


def _megatron_eps(size: Size) -> float:
    return 1 / size.width_in if size.group is Class.HIDDEN else 1.0


# -- CompleteP: Dey et al. 2025 (arXiv:2505.01618), table 1 and equation 40 --------------------------------------------


def _completep(alpha: float) -> Scheme:
    def adam(size: Size) -> float:
        return _mup_adam(size) * _power(size.depth, alpha - 1)

    def sgd(size: Size) -> float:
        # the gradient of a branch carries its multiplier, which SGD's step squares with the branch's own
        return _mup_sgd(size) * _power(size.depth, 2 * alpha - 1)

    def eps(size: Size) -> float:
        return _power(size.depth, -alpha) / size.width

    def decay(size: Size, rate: float) -> float:
        return _power(size.depth, alpha - 1) / rate  # of the widths alone

    return Scheme(
        summary="muP over width, and residual branches times depth^-alpha",
        std=_mup_std,
        inputs=_mup_inputs,
        adam=adam,
        sgd=sgd,
        muon=lambda size: _spectral_step(size) * _power(size.depth, alpha - 1),
        eps=eps,
        decay=decay,
        branch=lambda size: _power(size.depth, -alpha),
        at_base_depth=True,
    )


# -- the spectral condition: Yang, Simon & Bernstein 2023 (arXiv:2310.17813) -------------------------------------------


def _spectral_norm(fans: Fans) -> float:
    """The std of a matrix whose spectral norm is sqrt(out/in), up to a constant."""
    into, out = max(fans.fan_in, 1), max(fans.fan_out, 1)
    return _power(into, -0.5) * min(1.0, _power(out / into, 0.5))


def _spectral_std(size: Size) -> float:
    if size.group in (Class.VECTOR, Class.FIXED) or size.width_in == size.width_out == 1:
        return 1.0
    if size.base is None or size.target is None:
        raise SpecError("needs its fan_in and fan_out for the spectral norm, and zeta.register_fans says them")
    return _spectral_norm(size.target) / _spectral_norm(size.base)


def _spectral_adam(size: Size) -> float:
    """Entries of one size and rank one: the update's spectral norm is sqrt(in out), so that the rate is 1/in."""
    return 1 / size.width_in if size.group in (Class.HIDDEN, Class.OUTPUT) else 1.0


def _spectral_sgd(size: Size) -> float:
    return size.width_out / size.width_in


# -- u-muP: Blake et al. 2024 (arXiv:2407.17465), table 2 and appendix G, and the unit-scaling package -----------------

_TABLES: Final = (Role.EMBEDDING, Role.POSITION, Role.CLASS_TOKEN)


def leads_out(size: Size) -> bool:
    """Whether a weight is a read-out or a router, also where no width grows."""
    return size.group is Class.OUTPUT or (size.group is Class.FIXED and size.role in (Role.READOUT, Role.ROUTER))


def _umup_unit(size: Size) -> bool:
    """Tables and matrices; vectors have no fans. ``SpecError`` for a weight whose fans are not known."""
    if size.target is None and size.group not in (Class.VECTOR, Class.FIXED):
        raise SpecError(
            "its fans are not known, and umup needs them; zeta.register_fans says which dimensions they are"
        )
    return size.target is not None and size.role is not Role.RELATIVE_POSITION


def _umup_inputs(size: Size) -> float:
    if size.target is None or size.role in (*_TABLES, Role.RELATIVE_POSITION):
        return 1.0
    return _power(size.target.fan_in, -1.0 if leads_out(size) else -0.5)


def _umup_adam(size: Size) -> float:
    """The paper has the depth for matrices, and no vectors; the package has it for all that lies in a layer."""
    deep = _power(size.layers, -0.5)
    if size.target is None or not _umup_unit(size) or leads_out(size):
        return deep
    return deep * _power(size.target.fan_out if size.role in _TABLES else size.target.fan_in, -0.5)


# -- rules for depth that go with a scheme for width -------------------------------------------------------------------

_INTO_BRANCH: Final = (Role.VALUE, Role.ATTENTION_OUTPUT, Role.MLP_UP, Role.MLP_GATE, Role.MLP_GATE_UP, Role.MLP_DOWN)


class DepthRule(Struct, frozen=True, kw_only=True):
    """How the number of layers changes the std of weights and what a residual branch adds."""

    summary: str
    std: Factor
    branch: Factor = _one


def _deepnorm_std(size: Size) -> float:
    """Of beta = (8 L)^(-1/4) (Wang et al. 2022, arXiv:2203.00555, figure 2)."""
    if size.role is Role.QUERY_KEY_VALUE and size.depth != 1:
        raise SpecError(
            "packs queries, keys and values, and DeepNorm scales the values alone; use separate projections, or "
            "init=Rules([...]) at the target with zeta.recipes.deepnorm"
        )
    return _power(size.depth, -0.25) if size.role in _INTO_BRANCH else 1.0


def _fixup_std(size: Size) -> float:
    """Of L^(-1/(2m - 2)) in a branch of m layers (Zhang, Dauphin & Ma 2019, arXiv:1901.09321, section 3)."""
    if size.branch < 2 or size.group is not Class.HIDDEN:
        return 1.0
    return _power(size.depth, -1 / (2 * size.branch - 2))


DEPTH_RULES: Final[Mapping[str, DepthRule]] = MappingProxyType(
    {
        "deepnorm": DepthRule(
            # LayerNorm(alpha x + f(x)) is LayerNorm(x + f(x)/alpha): the factor of the skip moves to the branch
            summary="std of values, attention outputs and MLPs times depth^-1/4, post-norm branches likewise",
            std=_deepnorm_std,
            branch=lambda size: _power(size.depth, -0.25),
        ),
        "fixup": DepthRule(summary="std inside of a branch of m layers times depth^(-1/(2m-2))", std=_fixup_std),
    }
)

_MUP: Final = Scheme(
    summary="maximal update parametrization, table 8",
    std=_mup_std,
    inputs=_mup_inputs,
    adam=_mup_adam,
    sgd=_mup_sgd,
    muon=_spectral_step,
)
_SCHEMES: Final[Mapping[str, Callable[[float], Scheme]]] = MappingProxyType(
    {
        "sp": lambda alpha: Scheme(summary="the model's own initialization, and one rate", attention=False, own=True),
        "mup": lambda alpha: _MUP,
        "completep": _completep,
        "megatron-mup": lambda alpha: Scheme(
            summary="muP as Megatron has it: eps follows the rate, and weight decay does not",
            std=_hidden_std,
            inputs=_mup_inputs,
            adam=_mup_adam,
            sgd=_megatron_sgd,
            muon=_spectral_step,
            eps=_megatron_eps,
            decay=lambda size, rate: 1.0,
        ),
        "spectral": lambda alpha: Scheme(
            summary="weights and updates of spectral norm sqrt(fan_out/fan_in)",
            std=_spectral_std,
            tied=_mup_inputs,  # entries of a table have one size, and a read-out's are 1/in times it
            adam=_spectral_adam,
            sgd=_spectral_sgd,
            muon=_spectral_step,
        ),
        "umup": lambda alpha: Scheme(
            summary="unit-scaled muP, as a parametrization: weights of std 1, and numbers of the size itself",
            unit=_umup_unit,
            inputs=_umup_inputs,
            adam=_umup_adam,
            # the rule of appendix G, with both of its ratios 1, before a norm: see tests/scaling/test_umup.py
            branch=lambda size: _power(size.layers, -0.5),
            optimizers=("adam", "adamw", "lion"),
        ),
    }
)
#: the names of the schemes
NAMES: Final = tuple(_SCHEMES)


def scheme_of(name: str, alpha: float) -> Scheme:
    """The scheme of this name; ``SpecError`` if there is none, or ``alpha`` makes no sense."""
    if not isinstance(name, str) or name not in _SCHEMES:
        raise SpecError(f"how must be one of {', '.join(NAMES)}, got {shown(name)}")
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or not 0.5 <= alpha <= 1:
        raise SpecError(f"alpha, the exponent of the depth, must be a number from 0.5 to 1, got {shown(alpha)}")
    if alpha != 1 and name != "completep":
        raise SpecError(f"alpha is the depth exponent of completep, and {name} has none; leave it out")
    return _SCHEMES[name](float(alpha))


def is_absolute(name: str) -> bool:
    """Whether the numbers of a scheme are those of the target itself; ``SpecError`` if there is none of this name."""
    return scheme_of(name, 1.0).unit is not None


def depth_rule(name: str | None, scheme: str) -> DepthRule | None:
    """The rule for depth of this name; ``SpecError`` if there is none, or the scheme has its own."""
    if name is None:
        return None
    if not isinstance(name, str) or name not in DEPTH_RULES:
        raise SpecError(f"depth must be None or one of {', '.join(DEPTH_RULES)}, got {shown(name)}")
    if scheme in ("completep", "umup", "sp"):
        reason = "changes nothing" if scheme == "sp" else "has its own rule for depth"
        raise SpecError(f"depth={name!r} goes with mup, megatron-mup or spectral; {scheme} {reason}")
    return DEPTH_RULES[name]
