"""The only place that computes ``fan_in`` and ``fan_out``.

``fan_in`` is the number of products that are summed into one output; ``fan_out`` is the number of outputs that one
input contributes to. Both follow from the *roles* of a weight's dimensions, which depend on the module and not on the
shape alone; :class:`Axes` describes them. The roles are known for torch's layers. For other modules they are derived
from the products in the source of ``forward``, if that is unambiguous (``base/usage``). If several maps are packed into
one weight (grouped convolutions, attention's q/k/v, recurrent gates, experts), the fans are those of one map.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import nn
from torch.nn.utils import parametrize

from zeta.base.modules import named_parameters_of
from zeta.base.parametrizations import parametrized_shape
from zeta.base.process.callable import make_callable
from zeta.base.reading import shown, suggestion
from zeta.base.usage import uses
from zeta.errors import FanError, SpecError


@dataclass(frozen=True, kw_only=True)
class Fans:
    """``fan_in`` and ``fan_out`` of one map: integers, except effective fans if a stride does not divide the kernel."""

    fan_in: int | float
    fan_out: int | float


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The role of each dimension of a weight; every dimension has exactly one role.

    ``fan_in`` and ``fan_out`` list the dimensions whose extents multiply into each fan; a dimension in both is a
    kernel (receptive field). ``batch`` dimensions index independent maps. ``lookup`` dimensions select a row instead
    of being summed over (an embedding): they are in no fan. ``blocks`` are ``(dimension, n)`` pairs: along the
    dimension, ``n`` independent maps are packed one after the other. ``stride_in`` and ``stride_out`` are pairs too:
    only every ``n``-th position of that kernel dimension contributes to one output, or gets one input; only effective
    fans use them.

    Dimensions may be negative. Raises ``SpecError`` when built with overlapping or repeated roles.

    >>> Axes(fan_in=(1, 2, 3), fan_out=(0, 2, 3), blocks=((0, 64),)).fans((64, 1, 3, 3))  # a depthwise convolution
    Fans(fan_in=9, fan_out=9)
    """

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    batch: tuple[int, ...] = ()
    lookup: tuple[int, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    stride_in: tuple[tuple[int, int], ...] = ()
    stride_out: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for role in ("fan_in", "fan_out", "batch", "lookup"):
            object.__setattr__(self, role, _dimensions(role, getattr(self, role)))
        for role in _PAIRS:
            object.__setattr__(self, role, _pairs(role, getattr(self, role)))
        alone = (*self.batch, *self.lookup)
        if len(set(alone)) != len(alone) or set(alone) & {*self.fan_in, *self.fan_out}:
            raise SpecError(f"Axes: a batch or lookup dimension cannot have a second role: {shown(self)}")

    def resolved(self, shape: Sequence[int]) -> Axes:
        """Return these axes for a tensor of ``shape``: no negative dimension, every dimension with a role.

        Raises ``FanError`` if a dimension is out of range or without a role, or a block number does not divide.
        """
        return _resolved(self, tuple(shape))

    def fans(self, shape: Sequence[int], *, effective: bool = False) -> Fans:
        """Return the fans of one map inside a weight of ``shape``.

        ``effective`` ones count the positions of a kernel that meet one output, or one input, on average.
        """
        axes = self.resolved(shape)
        extent = list(shape)
        for dim, n in axes.blocks:
            extent[dim] //= n

        def product(dims: tuple[int, ...], strides: tuple[tuple[int, int], ...]) -> int | float:
            whole = math.prod(extent[dim] for dim in dims)
            skipped = math.prod(n for _, n in strides) if effective else 1
            return whole / skipped if whole % skipped else whole // skipped

        return Fans(fan_in=product(axes.fan_in, axes.stride_in), fan_out=product(axes.fan_out, axes.stride_out))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back exactly."""
        return {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Axes:
        """Build axes from ``to_json``'s dictionary; ``SpecError`` if it is not one."""
        if not isinstance(data, Mapping):
            raise SpecError(f'axes are written as {{"fan_in": [...], "fan_out": [...]}}, got {shown(data)}')
        known = {field.name for field in fields(cls)}
        if set(data) - known:
            unknown = sorted(map(str, set(data) - known))
            raise SpecError(f"Axes: unknown {shown(unknown)}; expected some of {sorted(known)}")
        return cls(**{"fan_in": (), "fan_out": (), **data})


@functools.lru_cache(maxsize=4096)
def _resolved(given: Axes, shape: tuple[int, ...]) -> Axes:
    ndim = len(shape)

    def absolute(dims: tuple[int, ...]) -> tuple[int, ...]:
        if any(not -ndim <= dim < ndim for dim in dims):
            raise FanError(f"{shown(given)} names a dimension that a weight of shape {shape} does not have")
        return tuple(dim % ndim for dim in dims)

    axes = Axes(
        fan_in=absolute(given.fan_in),
        fan_out=absolute(given.fan_out),
        batch=absolute(given.batch),
        lookup=absolute(given.lookup),
        **{role: tuple((absolute((dim,))[0], n) for dim, n in getattr(given, role)) for role in _PAIRS},
    )
    kernel = {*axes.fan_in} & {*axes.fan_out}
    if not {dim for dim, _ in (*axes.stride_in, *axes.stride_out)} <= kernel:
        raise FanError(f"{shown(given)} gives a stride to a dimension that is not a kernel's, in and out")
    missing = set(range(ndim)) - {*axes.fan_in, *axes.fan_out, *axes.batch, *axes.lookup}
    if missing:
        raise FanError(f"{shown(given)} gives no role to dimension {sorted(missing)} of a weight of shape {shape}")
    for dim, n in axes.blocks:
        if shape[dim] % n:
            raise FanError(f"{n} blocks do not divide dimension {dim} of a weight of shape {shape}")
    return axes


#: the fields that are (dimension, number) pairs
_PAIRS: Final = ("blocks", "stride_in", "stride_out")


def _pairs(role: str, given: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple((int(operator.index(dim)), int(operator.index(n))) for dim, n in given)
    except (TypeError, ValueError):
        raise SpecError(f"Axes: {role} must be (dimension, number) pairs, got {shown(given)}") from None
    if any(n < 1 for _, n in pairs) or len({dim for dim, _ in pairs}) != len(pairs):
        raise SpecError(f"Axes: {role} must name each dimension once, with a number of at least 1, got {shown(pairs)}")
    return pairs


def _dimensions(role: str, given: Any) -> tuple[int, ...]:
    try:
        dims: tuple[Any, ...] = (given,) if isinstance(given, int) else tuple(given)
    except TypeError:
        dims = (given,)
    if any(isinstance(dim, bool) or not isinstance(dim, int) for dim in dims) or len(set(dims)) != len(dims):
        raise SpecError(f"Axes: {role} must be distinct dimension numbers, got {shown(dims)}")
    return dims


def torch_axes(ndim: int) -> Axes:
    """The roles that ``torch.nn.init`` assumes for any weight: dimension 0 is out, 1 is in, the rest is a kernel."""
    if ndim < 2:
        raise FanError(f"torch defines no fans for a tensor of {ndim} dimension(s); at least 2 are needed")
    kernel = tuple(range(2, ndim))
    return Axes(fan_in=(1, *kernel), fan_out=(0, *kernel))


#: axes that are found for a layer: the same object for the same roles, so that what is made of them is made once
_shared: Final = functools.lru_cache(maxsize=4096)(Axes)

AxesOf = Callable[[nn.Module, str, torch.Size], Axes]
_REGISTERED: dict[type[nn.Module], dict[str, Axes | AxesOf]] = {}


def register_fans(module_type: type[nn.Module], axes: Mapping[str, Axes | AxesOf]) -> None:
    """Register the roles of the dimensions of a module class's weights, for this process.

    Args:
        module_type: the class; subclasses inherit it, and a later registration for the same class replaces it.
        axes: from a local parameter name or glob (``"weight"``, ``"w*"``) to :class:`Axes`, or to a function
            ``(module, name, shape) -> Axes``.

    >>> class Mixer(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.kernel = nn.Parameter(torch.zeros(32, 8))  # stored as in x out
    >>> register_fans(Mixer, {"kernel": Axes(fan_in=(0,), fan_out=(1,))})
    >>> fans(Mixer(), "kernel")
    Fans(fan_in=32, fan_out=8)
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise SpecError(f"register_fans needs a subclass of torch.nn.Module, got {shown(module_type)}")
    for name, value in axes.items():
        if not isinstance(value, Axes) and not callable(value):
            raise SpecError(f"register_fans: {name!r} must map to Axes or to a function, got {shown(value)}")
    _REGISTERED[module_type] = dict(axes)
    _known.cache_clear()


def fans(
    target: nn.Module | torch.Tensor | Sequence[int],
    name: str = "weight",
    *,
    axes: Axes | None = None,
    torch_compatible: bool = False,
    effective: bool = False,
) -> Fans:
    """Return ``fan_in`` and ``fan_out`` of a module's parameter, or of a bare shape.

    Args:
        target: the module that owns the parameter; or a 2-D tensor or shape, taken as ``(out, in)``.
        name: the parameter's local name in that module, or its dotted name, ``"blocks.0.fc.weight"``. A layer with
            packed or several weights has no ``weight``: ``fans(nn.LSTM(8, 2), "weight_ih_l0")``.
        axes: the roles of the dimensions, if they are not known for the module.
        torch_compatible: return the numbers of ``torch.nn.init``, which uses the shape alone.
        effective: for a module with a stride, count the products that are actually summed, on average over the outputs.
            In a transposed convolution only one in ``stride`` positions of the kernel meets an input, along each
            dimension, so that ``fan_in`` is ``in_channels / groups * prod(kernel / stride)``; in a convolution the same
            holds for ``fan_out``. The usual definition, the default, counts the whole kernel: with ``stride=2`` in two
            dimensions and variance ``1/fan_in``, the output has a quarter of the input's variance.

    Raises:
        FanError: the parameter is missing or has no fans (a bias, a norm's scale), or its roles are unknown.

    >>> fans(nn.ConvTranspose2d(64, 16, 3)), fans(nn.ConvTranspose2d(64, 16, 3), torch_compatible=True)
    (Fans(fan_in=576, fan_out=144), Fans(fan_in=144, fan_out=576))
    >>> fans(nn.ConvTranspose2d(64, 16, 4, stride=2)), fans(nn.ConvTranspose2d(64, 16, 4, stride=2), effective=True)
    (Fans(fan_in=1024, fan_out=256), Fans(fan_in=256, fan_out=256))
    """
    module = target if isinstance(target, nn.Module) else None
    if module is not None:
        module, name = _owner(module, name)
        shape = _shape_in(module, name)
    else:
        assert not isinstance(target, nn.Module)
        shape = target.shape if isinstance(target, torch.Tensor) else _size(target)
    if torch_compatible:
        axes = torch_axes(len(shape))
    elif axes is None:
        axes = axes_of(module, name, shape)
    return axes.fans(shape, effective=effective)


def _size(shape: Sequence[int]) -> torch.Size:
    try:
        return torch.Size(shape)
    except TypeError:
        raise FanError(f"fans needs a module, a tensor or a shape, got {shown(shape)}") from None


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that a dotted name is in, and the rest of the name; a name without dots is the module's own."""
    path, dot, local = name.rpartition(".")
    if not dot:
        return module, name
    try:
        return module.get_submodule(path), local
    except AttributeError:
        known = [full for full, _ in named_parameters_of(module)]
        raise FanError(f"{type(module).__name__} has no module {path!r}{suggestion(name, known)}") from None


def _shape_in(module: nn.Module, name: str) -> torch.Size:
    if parametrize.is_parametrized(module, name):
        # not module.weight: computing it may change the state of the parametrization
        plist = module.get_submodule(f"parametrizations.{name}")
        assert isinstance(plist, parametrize.ParametrizationList)
        return torch.Size(parametrized_shape(plist))
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor):
        known = [full for full, _ in named_parameters_of(module)]
        give = f" (give the name of one, as in zeta.fans(module, {known[0]!r}))" if known else ""
        raise FanError(f"{type(module).__name__} has no tensor {name!r}{give}{suggestion(name, known)}")
    if nn.parameter.is_lazy(weight):
        raise FanError(f"{type(module).__name__}.{name} is lazy and has no shape yet; run one forward pass first")
    return weight.shape


@functools.lru_cache(maxsize=4096)
def _known(module_type: Any, name: str) -> Axes | AxesOf | None:
    """The axes registered or built in for a parameter name, for the class or its nearest base class."""
    for cls in module_type.__mro__:
        for pattern, known in (*_REGISTERED.get(cls, {}).items(), *_BUILT_IN.get(cls, {}).items()):
            if fnmatch.fnmatchcase(name, pattern):
                return known
    return None


def axes_of(module: nn.Module | None, name: str, shape: tuple[int, ...]) -> Axes:
    """Return the roles of the dimensions of parameter ``name`` (of ``shape``) in ``module``.

    Raises ``FanError`` if they are unknown; the message says how to give them.
    """
    known = known_axes(module, name, shape)
    if known is not None:
        return known
    owner = "a bare tensor" if module is None else f"{type(module).__name__}.{name}"
    if len(shape) < 2:
        raise FanError(
            f"{owner} of shape {tuple(shape)} has no fans: a bias or a scale is not a map. "
            "Give it an initializer that does not depend on fans (Zeros(), Ones(), Normal(...))"
        )
    places = "" if module is None else " to the rule, or register_fans(...) for the module"
    raise FanError(
        f"{owner} of shape {tuple(shape)}: it is not known which dimensions are in and out. "
        f"Pass axes=Axes(fan_in=..., fan_out=..., batch=...){places}"
    )


def known_axes(module: nn.Module | None, name: str, shape: tuple[int, ...]) -> Axes | None:
    """``axes_of``, or ``None`` if they are unknown."""
    if module is not None:
        layer: Any = type(module)  # mypy takes its __hash__ for that of an instance
        known = _known(layer, name)
        if known is not None:
            return known if isinstance(known, Axes) else known(module, name, torch.Size(shape))
        # transformers' Conv1D, known by its shape attributes, so that transformers need not be imported
        if (
            type(module).__name__ == "Conv1D"
            and name == "weight"
            and shape == (getattr(module, "nx", None), getattr(module, "nf", None))
        ):
            return Axes(fan_in=(0,), fan_out=(1,))
    if len(shape) < 2:
        return None
    seen = None if module is None else _experts(module, name, shape) or _in_forward(module, name, shape)
    return _PLAIN if seen is None and len(shape) == 2 else seen


def _divides(use: Any, dim: int, n: int, shape: tuple[int, ...]) -> bool:
    return dim in (*use.fan_in, *use.fan_out) and shape[dim] % n == 0


def _convolution(module: nn.Module, name: str, shape: torch.Size) -> Axes:
    kernel = tuple(range(2, len(shape)))
    return _shared(
        fan_in=(1, *kernel), fan_out=(0, *kernel), blocks=_blocks(0, module.groups), stride_out=_strides(module, kernel)
    )


def _transposed_convolution(module: nn.Module, name: str, shape: torch.Size) -> Axes:
    kernel = tuple(range(2, len(shape)))
    return _shared(
        fan_in=(0, *kernel), fan_out=(1, *kernel), blocks=_blocks(0, module.groups), stride_in=_strides(module, kernel)
    )


def _strides(module: nn.Module, kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((dim, int(n)) for dim, n in zip(kernel, module.stride, strict=False) if int(n) > 1)  # type: ignore[arg-type]


def _blocks(dim: int, n: Any) -> tuple[tuple[int, int], ...]:
    return ((dim, int(n)),) if int(n) > 1 else ()


def _experts(module: nn.Module, name: str, shape: tuple[int, ...]) -> Axes | None:
    """Transformers' experts, whose class has attributes for the layout: ``(E, in, out)`` or ``(E, out, in)``."""
    transposed, gated, whole = (
        getattr(module, each, None) for each in ("is_transposed", "has_gate", "is_concatenated")
    )
    if len(shape) != 3 or None in (transposed, gated, whole) or name not in ("gate_up_proj", "up_proj", "down_proj"):
        return None
    into, out = (1, 2) if transposed else (2, 1)
    packed = 2 if name == "gate_up_proj" and whole else 1
    return _shared(fan_in=(into,), fan_out=(out,), batch=(0,), blocks=_blocks(out, packed))


def _in_forward(module: nn.Module, name: str, shape: tuple[int, ...]) -> Axes | None:
    """The axes derived from the products in ``forward``, if all products agree."""
    found = uses(module, name, len(shape))
    products = found.products
    if found.lost or len({(use.fan_in, use.fan_out, use.lookup) for use in products}) != 1:
        return None
    use = max(products, key=lambda use: len(use.blocks))
    if not (use.fan_in or use.lookup) or not all(_divides(use, dim, n, shape) for dim, n in use.blocks):
        return None
    rest = set(range(len(shape))) - {*use.fan_in, *use.fan_out, *use.lookup}
    return _shared(
        fan_in=use.fan_in, fan_out=use.fan_out, lookup=use.lookup, batch=tuple(sorted(rest)), blocks=use.blocks
    )


_GATES: Final = {nn.RNN: 1, nn.RNNCell: 1, nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
_PLAIN: Final = Axes(fan_in=(1,), fan_out=(0,))

_BUILT_IN: Final[dict[type[nn.Module], dict[str, Axes | AxesOf]]] = {
    nn.Linear: {"weight": _PLAIN},
    **{layer: {"weight": _convolution} for layer in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},
    **{
        layer: {"weight": _transposed_convolution}
        for layer in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    },
    # y_k = x1^T W_k x2: one output sums in1 * in2 products, and each product reaches every output.
    nn.Bilinear: {"weight": Axes(fan_in=(1, 2), fan_out=(0,))},
    # A lookup sums nothing: the output is one row, whatever the number of rows (fan_in 1, fan_out embedding_dim).
    **{layer: {"weight": Axes(fan_in=(), fan_out=(1,), lookup=(0,))} for layer in (nn.Embedding, nn.EmbeddingBag)},
    nn.MultiheadAttention: {
        "in_proj_weight": Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 3),)),
        "[qkv]_proj_weight": _PLAIN,
    },
    **{
        cell: {
            "weight_[ih]h*": Axes(fan_in=(1,), fan_out=(0,), blocks=_blocks(0, gates)),
            "weight_hr_l*": _PLAIN,
        }
        for cell, gates in _GATES.items()
    },
}  # fmt: skip


make_callable(__name__, fans)
