"""Layer-level functions: initialize the weights and biases of one layer, or of a whole model, in place.

    >>> layer = nn.Linear(10, 5)
    >>> init_zero_(layer).bias
    Parameter containing:
    tensor([0., 0., 0., 0., 0.], requires_grad=True)

Every function takes a ``torch.nn.Module`` and fills all parameters that it owns, at any depth: weights by the scheme,
biases with ``bias`` (``None`` leaves them). It returns the module. Device, dtype, memory format, strides,
``requires_grad``, ``.grad``, the identity of every ``Parameter``, tied weights and buffers stay as they are. A module
without parameters is left alone, so ``model.apply(init_zero_)`` works. An embedding's padding row stays zero.
Parametrized layers get the *effective* weight; the buffers that belong to it, as spectral norm's vectors, follow.

Zeros, ones and constants are set everywhere. All other schemes are for weights that map inputs to outputs, and set a
norm's scale to 1 and a ``PReLU``'s slope to torch's 0.25.

The random ones take ``generator=`` or ``seed=``; with neither, torch's global generator decides, so
``torch.manual_seed`` works. Values depend on seed and name: two separate layers, each with a ``weight``, get the same
values from the same ``seed``, and a ``ZetaNotice`` says so. For a whole model, call the function once on the model; or
give each layer its name in the model, ``name="layers.0"``: then it gets exactly the values that the one call gives it.
Where ``torch.nn.init`` has a function of the same name, the arguments come in the same order.

In a constructor that :func:`zeta.record` runs they are recorded like any other write. The seed is then the one that the
plan is applied with; ``generator=``, ``seed=`` and ``name=`` have no effect.

All of them raise, before anything is written: ``LayerTypeError`` if the argument is not a module (:func:`zeta.fill_`
fills a tensor), ``TargetError`` for parameters that cannot be written (lazy, on meta, quantized, integer, parametrized
so that the value is impossible), ``PlanError`` for parameters that the scheme does not fit, ``SpecError`` for arguments
that are not allowed.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import torch
from msgspec.structs import replace
from torch import nn

from zeta import recipes
from zeta.base.modules import check_module
from zeta.gains import Activation
from zeta.initializers import (
    Constant,
    Dirac,
    Identity,
    Initializer,
    Keep,
    Mode,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    xavier_normal,
    xavier_uniform,
)
from zeta.resolve.planning import planned
from zeta.rules import Kind, Match, Rule, Rules, glob, kind, module
from zeta.write.apply import check_parameters, prepare, write
from zeta.write.guards import note, on_values_or_recorded, recording_here
from zeta.write.repeats import note_repeated
from zeta.write.seeds import check_name, chosen_seed

__all__ = [
    "exists",
    "init_constant_",
    "init_default_",
    "init_dirac_",
    "init_eye_",
    "init_identity_",
    "init_kaiming_normal_",
    "init_kaiming_uniform_",
    "init_lecun_normal_",
    "init_lecun_uniform_",
    "init_normal_",
    "init_ones_",
    "init_orthogonal_",
    "init_sparse_",
    "init_trunc_normal_",
    "init_uniform_",
    "init_xavier_normal_",
    "init_xavier_uniform_",
    "init_zero_",
    "init_zeros_",
]

Module = TypeVar("Module", bound=nn.Module)


def exists(value: object, name: str | None = None) -> bool:
    """Return whether a value, or an object's attribute, exists and is not ``None``.

    ``exists(value)`` is ``value is not None``; ``exists(obj, name)`` is true if ``obj`` has the attribute and it is not
    ``None``.

    >>> (
    ...     exists(0),
    ...     exists(None),
    ...     exists(nn.Linear(1, 1, bias=False), "weight"),
    ...     exists(nn.Linear(1, 1, bias=False), "bias"),
    ... )
    (True, False, True, False)
    """
    return (value if name is None else getattr(value, name, None)) is not None


def init_zero_(layer: Module) -> Module:
    """Set all weights and biases to zero. Under ``weight_norm`` the magnitude becomes zero and the direction is kept.

    >>> model = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
    >>> for layer in model:
    ...     if exists(layer, "weight"):
    ...         _ = init_zero_(layer)
    >>> any(p.any() for p in model.parameters())
    False
    """
    return _write(layer, _ALL_ZERO, None, 0, None)


def init_constant_(layer: Module, value: float, *, bias: float | None = 0.0) -> Module:
    """Set all weights to ``value``."""
    return _fill(layer, Constant(value), bias=bias, seed=0)


def init_ones_(layer: Module, *, bias: float | None = 0.0) -> Module:
    """Set all weights to one."""
    return _fill(layer, Ones(), bias=bias, seed=0)


def init_uniform_(
    layer: Module,
    low: float = 0.0,
    high: float = 1.0,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights uniformly from ``[low, high]``; mean ``(low + high)/2``, std ``(high - low)/sqrt(12)``."""
    return _fill(layer, Uniform(low, high), bias=bias, generator=generator, seed=seed, name=name)


def init_normal_(
    layer: Module,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights from ``N(mean, std^2)``. ``mean`` comes first, as in torch.

    >>> layer = init_normal_(nn.Linear(4, 2), std=0.02, seed=7, name="head")
    >>> model = init_normal_(nn.ModuleDict({"head": nn.Linear(4, 2)}), std=0.02, seed=7)
    >>> torch.equal(layer.weight, model["head"].weight)
    True
    """
    return _fill(layer, Normal(std, mean), bias=bias, generator=generator, seed=seed, name=name)


def init_trunc_normal_(
    layer: Module,
    mean: float = 0.0,
    std: float = 1.0,
    low: float | None = None,
    high: float | None = None,
    *,
    cutoff: float | None = None,
    correct_std: bool = False,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights from ``N(mean, std^2)`` cut at absolute bounds or at ``cutoff`` sigmas (default 2).

    See :class:`~zeta.initializers.TruncatedNormal`. The order is torch's, ``mean, std, a, b``; but torch's bounds are
    ±2 by default, which cuts nothing at std 0.02.
    """
    spec = TruncatedNormal(std, mean, cutoff=cutoff, low=low, high=high, correct_std=correct_std)
    return _fill(layer, spec, bias=bias, generator=generator, seed=seed, name=name)


def init_xavier_uniform_(
    layer: Module,
    gain: float = 1.0,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights uniformly from ``±gain sqrt(6 / (fan_in + fan_out))`` (Glorot & Bengio 2010)."""
    return _fill(layer, xavier_uniform(gain), bias=bias, generator=generator, seed=seed, name=name)


def init_xavier_normal_(
    layer: Module,
    gain: float = 1.0,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights from ``N(0, 2 gain^2 / (fan_in + fan_out))`` (Glorot & Bengio 2010)."""
    return _fill(layer, xavier_normal(gain), bias=bias, generator=generator, seed=seed, name=name)


def init_kaiming_uniform_(
    layer: Module,
    a: float | None = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str | Activation = "leaky_relu",
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights uniformly from ``±gain sqrt(3 / fan)``, with the nonlinearity's gain (He et al. 2015).

    The order is torch's. ``a`` is the slope of ``leaky_relu``; with the default, 0, that is ``relu``.
    """
    return _fill(
        layer,
        kaiming_uniform(mode, nonlinearity, _slope(a, nonlinearity)),
        bias=bias,
        generator=generator,
        seed=seed,
        name=name,
    )


def init_kaiming_normal_(
    layer: Module,
    a: float | None = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str | Activation = "leaky_relu",
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights from ``N(0, gain^2 / fan)``, with the nonlinearity's gain (He et al. 2015).

    The order is torch's. ``a`` is the slope of ``leaky_relu``; with the default, 0, that is ``relu``.
    """
    return _fill(
        layer,
        kaiming_normal(mode, nonlinearity, _slope(a, nonlinearity)),
        bias=bias,
        generator=generator,
        seed=seed,
        name=name,
    )


def init_lecun_uniform_(
    layer: Module,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights uniformly from ``±sqrt(3 / fan_in)`` (LeCun et al. 1998)."""
    return _fill(layer, lecun_uniform(), bias=bias, generator=generator, seed=seed, name=name)


def init_lecun_normal_(
    layer: Module,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights from ``N(0, 1 / fan_in)`` (LeCun et al. 1998)."""
    return _fill(layer, lecun_normal(), bias=bias, generator=generator, seed=seed, name=name)


def init_orthogonal_(
    layer: Module,
    gain: float = 1.0,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Make each weight ``gain`` times a random (semi-)orthogonal matrix (Saxe et al. 2014)."""
    return _fill(layer, Orthogonal(gain), bias=bias, generator=generator, seed=seed, name=name)


def init_identity_(layer: Module, gain: float = 1.0, *, bias: float | None = 0.0) -> Module:
    """Make each weight ``gain`` times the identity matrix; in a packed weight, each gate or projection separately."""
    return _fill(layer, Identity(gain), bias=bias, seed=0)


def init_dirac_(layer: Module, *, gain: float = 1.0, bias: float | None = 0.0) -> Module:
    """Make each convolution pass its input channels through, times ``gain``; each of the layer's groups separately."""
    return _fill(layer, Dirac(gain), bias=bias, seed=0)


def init_sparse_(
    layer: Module,
    sparsity: float,
    std: float = 0.01,
    *,
    bias: float | None = 0.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Draw weights from ``N(0, std^2)`` with a fraction ``sparsity`` of every column set to zero (Martens 2010)."""
    return _fill(layer, Sparse(sparsity, std), bias=bias, generator=generator, seed=seed, name=name)


def init_default_(
    layer: Module,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    """Initialize torch's layers with the distributions of their ``reset_parameters``, drawn from zeta's stream.

    Parameters of other modules are kept, as torch has no default for them; an embedding that is also an output layer
    is drawn as an embedding.
    """
    check_module(layer)
    return _write(layer, recipes.rules_for("torch", layer), generator, seed, name)


init_zeros_ = init_zero_  # torch's names
init_eye_ = init_identity_


# -- implementation: a few rules, then the same plan and write as for a whole model ------------------------------------


def _fill(
    layer: Module,
    weight: Initializer,
    *,
    bias: float | None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Module:
    check_module(layer)
    return _write(layer, _rules(weight, bias), generator, seed, name)


def _rules(weight: Initializer, bias: float | None) -> Rules:
    of_bias = _BIAS_ZERO if type(bias) is float and str(bias) == "0.0" else Keep() if bias is None else Constant(bias)
    key = weight.exact, of_bias.exact
    rules = _MADE.get(key)
    if rules is None:
        others = (_PARAMETRIZATIONS,) if isinstance(weight, Constant) else (_PARAMETRIZATIONS, *_SCALES)
        rules = Rules((Rule(_BIASES, of_bias, optional=True), *others, Rule(_ALL, weight, optional=True)))
        if len(_MADE) >= _MOST_MADE:
            _MADE.clear()
        _MADE[key] = rules
    return rules


def _slope(a: float | None, nonlinearity: str | Activation) -> float | None:
    """The slope for ``zeta.gain``. 0, the default in torch's order, says nothing of a nonlinearity without a slope."""
    return None if isinstance(a, int | float) and a == 0 and nonlinearity != "leaky_relu" else a


def _initial_slope(match: Match) -> Initializer:
    from zeta.recipes.general.frameworks import initial_slope  # recipes take a third of the time of this import

    return initial_slope(match)


_BIASES, _ALL = kind("bias"), glob("*")
_BIAS_ZERO: Final = Constant(0.0)
_PARAMETRIZATIONS: Final = Rule(kind("parametrization"), Keep(), optional=True)
_SCALES: Final = (
    Rule(kind("norm_scale"), Ones(), optional=True),
    Rule(module(nn.PReLU), _initial_slope, optional=True),
)
#: by the initializers of weights and of biases
_MADE: Final[dict[tuple[Any, ...], Rules]] = {}
_MOST_MADE: Final = 256
_ALL_ZERO: Final = Rules((_PARAMETRIZATIONS, Rule(_ALL, Zeros(), optional=True)))


@on_values_or_recorded
def _write(
    layer: Module, rules: Rules, generator: torch.Generator | None, seed: int | None, name: str | None
) -> Module:
    if name is not None:
        check_name(name, "layers.0")
    number = chosen_seed(layer, generator, seed)
    recorder = recording_here()
    of_layer = planned(layer, rules, check=check_parameters if recorder is None else None, named=False)
    wanted = replace(of_layer, entries=[entry for entry in of_layer.entries if entry.kind is not Kind.BUFFER])
    if recorder is not None:
        note(recorder, wanted)
        return layer
    write(prepare(wanted.within(name) if name else wanted, number, checked=True), number)
    if name is None and seed is not None:
        note_repeated(layer, number, wanted.entries)
    return layer
