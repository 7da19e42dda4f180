"""Every name of every parameter and buffer of a model, whatever wraps or parametrizes it.

``resolver.groups`` finds the names of one tensor, and which of them is canonical.

Wrappers (``torch.compile``, DistributedDataParallel, checkpoint and FSDP wrappers) do not show in a name, and a
parametrized weight goes by the name of the weight.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from zeta.base.distributed import is_fsdp
from zeta.base.parametrizations import following, hooked, originals, parametrized_shape, stored_names
from zeta.errors import TargetError
from zeta.resolve.kinds import kind_by_class, kind_of
from zeta.rules import Kind

_WRAPPED: Final = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_PACKED: Final = ("_packed_params", "_all_weight_values", "_packed_weight_ih")
#: the class of ``torch.nn.parameter.is_lazy``, which takes longer to ask
LAZY: Final[Any] = nn.parameter.UninitializedTensorMixin  # type: ignore[attr-defined]
_PARALLEL: Final = (nn.parallel.DistributedDataParallel, nn.DataParallel)


class Slot(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """One name of one parameter or buffer.

    ``tensor`` is what is stored: for a parametrized weight its first original tensor, and ``parametrization`` the list
    that makes the weight out of it. ``shape`` is the weight's own.
    """

    name: str
    local_name: str
    module: nn.Module
    tensor: Tensor
    shape: tuple[int, ...]
    kind: Kind
    persistent: bool = True
    parametrization: parametrize.ParametrizationList | None = None

    @property
    def padding_idx(self) -> int | None:
        """The row that an embedding keeps at zero."""
        if self.kind is Kind.EMBEDDING and len(self.shape) == 2:
            row = getattr(self.module, "padding_idx", None)
            return row if isinstance(row, int) else None
        return None


def any_parametrized(slots: Iterable[Slot]) -> bool:
    """Whether one of the tensors is the first original of a parametrized weight."""
    return any(map(_PARAMETRIZATION, slots))


_PARAMETRIZATION: Final = operator.attrgetter("parametrization")


def type_name(module: nn.Module) -> str:
    """The name of the module's class, as it was before a parametrization or ``fully_shard`` put one in front of it."""
    kinds = list(type(module).__mro__)
    if is_fsdp(module):
        fsdp = sys.modules["torch.distributed.fsdp"].FSDPModule
        kinds = [kind for kind in kinds if not issubclass(kind, fsdp)]
    made = parametrize.is_parametrized(module) and kinds[0].__module__ == parametrize.__name__
    return kinds[1 if made else 0].__name__


def unwrap(module: nn.Module, *, gathering: bool = False) -> nn.Module:
    """Return the module inside any wrappers; ``TargetError`` for those that cut its parameters into shards.

    ``gathering``: keep a wrapper that ``fully_shard`` was applied to, whose call gathers the parameters.
    """
    while not (gathering and is_fsdp(module)):
        if isinstance(module, torch.jit.ScriptModule):
            _refuse_script(module)
        inner = _inside(module) if module._modules else None
        if inner is None:
            break
        module = inner
    return module


def _refuse_script(module: torch.jit.ScriptModule) -> None:
    raise TargetError(
        f"{module.original_name} is a ScriptModule, whose layers cannot be told apart. Initialize the model before "
        "torch.jit.script or trace"
    )


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps. A wrapper holds nothing else: a module with more is walked like any other."""
    if module._modules.get("_fsdp_wrapped_module") is not None:
        _refuse_shards(module)
    if len(module._modules) != 1 or module._parameters or module._buffers:
        return None
    [(name, inner)] = module._modules.items()
    return inner if name in _WRAPPED or (name == "module" and isinstance(module, _PARALLEL)) else None


def _refuse_shards(module: nn.Module) -> None:
    """FSDP1's parameters are 1-D pieces of the real ones, unless nothing is sharded or they are summoned."""
    strategy, state = getattr(module, "sharding_strategy", None), getattr(module, "training_state", None)
    if getattr(strategy, "name", "NO_SHARD") != "NO_SHARD" and getattr(state, "name", "") != "SUMMON_FULL_PARAMS":
        raise TargetError(
            f"FSDP1 has sharded the parameters of {type(module._modules['_fsdp_wrapped_module']).__name__}. "
            "Initialize before wrapping, or inside FullyShardedDataParallel.summon_full_params(model)"
        )


class _Place(Struct, frozen=True, kw_only=True, eq=False):
    """A module on the walk: what its tensors' names begin with, and whether it is part of a parametrization."""

    module: nn.Module
    prefix: str
    inside: bool = False


def walk(model: nn.Module) -> list[Slot]:
    """Every name of every parameter and buffer, in registration order; shared ones once per name."""
    # in a loop: Python ends calls within calls a thousand levels down
    found: list[Slot] = []
    pending: list[Slot | _Place | int] = [_Place(module=unwrap(model), prefix="")]  # the next one last
    above: set[int] = set()  # the modules that hold what is next
    while pending:
        item = pending.pop()
        if isinstance(item, Slot):
            found.append(item)
            continue
        if isinstance(item, int):  # all that this module holds is found
            above.remove(item)
            continue
        module = item.module
        if not item.prefix.isascii():
            _refuse_no_text(item.prefix)
        if id(module) in above:
            raise TargetError(f"module {item.prefix.rstrip('.')!r} contains itself")
        layer: Any = type(module)  # mypy takes its __hash__ for that of an instance
        traits = _traits(layer)
        if not traits.usual:
            if traits.is_list:
                continue  # reached on its own, as by Module.apply: its tensors are the layer's business
            if isinstance(module, torch.jit.ScriptModule):
                _refuse_script(module)
            if traits.quantized:
                _refuse_quantized(module, item.prefix)
        _find_own(item, found)
        if module._modules:
            above.add(id(module))
            pending.append(id(module))
            pending += reversed(_held(item))
    return found


def _find_own(place: _Place, found: list[Slot]) -> None:
    """Add the parameters and buffers of one module itself."""
    module, prefix, inside = place.module, place.prefix, place.inside
    layer: Any = type(module)
    for local, parameter in module._parameters.items():
        if parameter is not None:
            shape, ndim = _shape(parameter, prefix, local)
            kind, known = kind_by_class(layer, local, ndim)
            if inside:
                kind = Kind.PARAMETRIZATION
            elif not known:
                kind = kind_of(module, local, ndim)
            name = prefix + local
            found.append(Slot(name=name, local_name=local, module=module, tensor=parameter, shape=shape, kind=kind))
    for local, buffer in module._buffers.items():
        if buffer is not None:
            shape, _ = _shape(buffer, prefix, local)
            found.append(
                Slot(
                    name=prefix + local,
                    local_name=local,
                    module=module,
                    tensor=buffer,
                    shape=shape,
                    kind=Kind.BUFFER,
                    persistent=local not in module._non_persistent_buffers_set,
                )
            )


def _shape(tensor: Tensor, prefix: str, local: str) -> tuple[tuple[int, ...], int | None]:
    """The shape and the number of dimensions, which a lazy tensor has not yet.

    Raises ``TargetError`` for a name that is no text, and for foreign storage.
    """
    if not local.isascii():
        _refuse_no_text(prefix + local)
    if tensor.is_nested or "_is_flat_param" in tensor.__dict__:
        _refuse_unknown_storage(tensor, prefix, local)
    if isinstance(tensor, LAZY):
        return (), None
    shape = tuple(tensor.shape)
    return shape, len(shape)


def _held(place: _Place) -> list[Slot | _Place]:
    """What the walk meets at the modules that a module holds."""
    module, prefix = place.module, place.prefix
    held: list[Slot | _Place] = []
    for local, child in module._modules.items():
        if child is None:
            continue
        if local == "parametrizations" and parametrize.is_parametrized(module):
            held += _met_parametrized(module, child, prefix)
        else:
            inner = unwrap(child) if child._modules else child
            held.append(_Place(module=inner, prefix=f"{prefix}{local}.", inside=place.inside))
    return held


def _met_parametrized(module: nn.Module, lists: nn.Module, prefix: str) -> Iterator[Slot | _Place]:
    for local, plist in lists.named_children():
        assert isinstance(plist, parametrize.ParametrizationList)
        shape = parametrized_shape(plist)
        yield Slot(
            name=prefix + local,
            local_name=local,
            module=module,
            tensor=originals(plist)[0],
            shape=shape,
            kind=kind_of(module, local, len(shape)),
            parametrization=plist,
        )
        for number, part in plist.named_children():
            yield _Place(module=part, prefix=f"{prefix}parametrizations.{local}.{number}.", inside=True)


def _refuse_no_text(name: str) -> None:
    """A name decides values by its UTF-8, and is written to files."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise TargetError(
            f"{name!r} is not valid Unicode ({error.reason}); give the module or tensor another name"
        ) from None


def _refuse_quantized(module: nn.Module, prefix: str) -> None:
    if callable(getattr(type(module), "weight", None)) or any(hasattr(module, name) for name in _PACKED):
        raise TargetError(
            f"{_where(prefix)}: {type(module).__name__} is quantized, its weights are packed integers. "
            "Initialize the floating-point model and quantize it afterwards"
        )


def _refuse_unknown_storage(tensor: Tensor, prefix: str, local: str) -> None:
    """Raise ``TargetError`` for a tensor that is not one array, or whose memory FSDP1 has cut."""
    if tensor.is_nested:
        raise TargetError(f"{prefix}{local}: is a nested tensor, which has no one shape; keep its parts apart")
    # FlatParameter makes plain Parameters and marks them
    if vars(tensor).get("_is_flat_param", False):
        raise TargetError(
            f"{_where(prefix)}: FSDP1 has flattened the parameters. Initialize before wrapping, or use fully_shard "
            "(FSDP2)"
        )


def _where(prefix: str) -> str:
    return f"{prefix}*" if prefix else "the model"


class _Traits(Struct, frozen=True, kw_only=True):
    """What the walk asks of a module's class; a class is usual unless its modules may have to be refused."""

    usual: bool
    is_list: bool
    quantized: bool


@functools.lru_cache(maxsize=4096)
def _traits(layer: Any) -> _Traits:
    is_list = issubclass(layer, parametrize.ParametrizationList)
    quantized = layer.__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"))
    usual = not (is_list or quantized or issubclass(layer, torch.jit.ScriptModule))
    return _Traits(usual=usual, is_list=is_list, quantized=quantized)


_NO_MODULE: Final = nn.Module()


def slot_of(tensor: Tensor, name: str) -> Slot:
    """A tensor that no module holds, by the name that it shall have."""
    shape, _ = _shape(tensor, "", "the tensor")
    return Slot(name=name, local_name=name, module=_NO_MODULE, tensor=tensor, shape=shape, kind=Kind.OTHER)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its canonical name, each once, the model itself as ``""``; wrappers do not show.

    >>> list(named_modules(nn.Sequential(nn.Linear(1, 1))))
    ['', '0']
    """
    found: dict[str, nn.Module] = {}
    known: set[int] = set()
    pending = [("", unwrap(model))]
    while pending:
        prefix, module = pending.pop()
        if id(module) in known or isinstance(module, parametrize.ParametrizationList):
            continue
        known.add(id(module))
        found[prefix.rstrip(".")] = module
        children = [
            (f"{prefix}{local}.", unwrap(child))
            for local, child in module._modules.items()
            if child is not None and not (local == "parametrizations" and parametrize.is_parametrized(module))
        ]
        pending += reversed(children)
    return found


def hook_problem(slot: Slot) -> str | None:
    """Why no rule can give a parameter its value that a deprecated hook computes the weight from, or ``None``."""
    for name, hook in hooked(slot.module).items():
        if slot.local_name in stored_names(hook):
            kind = "spectral_norm" if isinstance(hook, SpectralNorm) else "weight_norm"
            return (
                f"is what the deprecated torch.nn.utils.{kind} computes {name} from, and not {name} itself; use "
                f"torch.nn.utils.parametrizations.{kind}, record the model (zeta.record), or leave it with Keep()"
            )
    return None


def changed_with(written: Iterable[Slot]) -> set[int]:
    """The ``id`` of each buffer that gets a new value because a parametrized weight among these is written."""
    lists = [slot.parametrization for slot in written]
    return {id(buffer) for plist in lists if plist is not None for buffer in following(plist)}


def without_value(slots: Iterable[Slot], kept: Collection[str]) -> list[Slot]:
    """The slots on meta that have no value if these names are kept: no written weight gives them one either."""
    slots = list(slots)
    follow = changed_with(slot for slot in slots if slot.name not in kept)
    return [slot for slot in slots if slot.tensor.is_meta and slot.name in kept and id(slot.tensor) not in follow]


def is_norm_statistic(slot: Slot) -> bool:
    """Whether a buffer is one of torch's running statistics, whose starting value is known."""
    return isinstance(slot.module, nn.modules.batchnorm._NormBase) and slot.local_name in (
        "running_mean",
        "running_var",
        "num_batches_tracked",
    )
