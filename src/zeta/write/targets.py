"""Whether values can be written to a tensor: it has memory, of a weight's dtype, that no other parameter shares."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.distributed import is_sharded, local
from zeta.base.modules import parameters_of, tensors_of
from zeta.base.tensors import attributes, extent, has_address, is_freed, nbytes_of, overlaps
from zeta.errors import TargetError
from zeta.resolve.plans import Entry
from zeta.resolve.resolver import UNRULED
from zeta.resolve.slots import Slot, any_parametrized
from zeta.rules import Kind
from zeta.write.placeholders import runtime_problem

_MATERIALIZE: Final = "zeta.materialize_(model, plan) gives memory and values to what is on meta"
_FREED: Final = "has a storage that was freed or made smaller; give its memory back first"
#: the addresses of the first byte and after the last, the tensor, and its name
_Extent = tuple[int, int, Tensor, str]


def shared(written: Sequence[tuple[str, Tensor]], slots: Collection[Slot], plan: Iterable[Entry] = ()) -> list[str]:
    """Different tensors with an element in the same memory: to write one would change the other.

    Those of which at least one is written; ``written`` has their memory here, with the canonical name: several of a
    weight that is computed from them. A weight that is not written counts with all that it is computed from. A buffer
    that is not written may be a view of a parameter, and follows it, unless the plan keeps it on purpose. It does not
    follow another buffer.
    """
    memory, names = [*written], {name for name, _ in written}
    buffers: set[str] = set()
    followers: set[str] = set()
    if len(names) < len(slots) or any_parametrized(slots):
        apart = _unfollowing(plan)
        known = {*(id(slot.tensor) for slot in slots if slot.name in names), *(id(tensor) for _, tensor in written)}
        buffers = {slot.name for slot in slots if slot.kind is Kind.BUFFER}
        followers = set() if buffers.isdisjoint(names) else buffers - {*names, *apart}
        for slot in slots:
            if slot.kind is Kind.BUFFER and slot.name not in apart and slot.name not in followers:
                continue
            for stored in _computed_from(slot):
                if id(stored) not in known:
                    known.add(id(stored))
                    if (tensor := memory_of(stored)) is not None:
                        memory.append((slot.name, tensor))
    if _apart(memory):
        return []

    def matters(name: str, owner: str) -> bool:
        both = {name, owner}
        return not both.isdisjoint(names) and (both.isdisjoint(followers) or both <= buffers)

    return [
        f"{name}: is computed from tensors that share memory; give each its own"
        if name == owner
        else f"{name}: shares the memory of {owner}, but is another tensor of the model; tie them by assigning the "
        "same Parameter, or give one its own memory"
        for name, owner in meeting(memory, matters)
    ]


def _computed_from(slot: Slot) -> list[Tensor]:
    """The tensor; of a parametrized weight, all that it is computed from."""
    module = slot.parametrization
    return [slot.tensor] if module is None else [*tensors_of(module), *(tensor for _, tensor in attributes(module))]


def _apart(memory: Iterable[tuple[str, Tensor]]) -> bool:
    """Whether no two tensors overlap, whatever their devices are; on meta, nobody can tell so quickly."""
    end = 0
    for begin, nbytes in sorted([(t.data_ptr(), t.nbytes if t.is_contiguous() else nbytes_of(t)) for _, t in memory]):
        if begin < end or (nbytes and not begin):
            return False
        end = begin + nbytes
    return True


def _unfollowing(plan: Iterable[Entry]) -> set[str]:
    """The buffers that must not follow a parameter: a rule keeps them, or they have values of their own."""
    return {e.name for e in plan if e.kind is Kind.BUFFER and not (e.kept and e.rule in UNRULED)}


def meeting(memory: Iterable[tuple[str, Tensor]], matters: Callable[[str, str], bool]) -> Iterator[tuple[str, str]]:
    """The names of each two tensors that have an element in common and that matter; first the one that begins later."""
    by_memory: dict[object, list[_Extent]] = {}
    for name, tensor in memory:
        (where, begin), nbytes = place_of(tensor), nbytes_of(tensor)
        if nbytes and (begin or tensor.is_meta):
            by_memory.setdefault(where, []).append((begin, begin + nbytes, tensor, name))
    for extents in by_memory.values():
        extents.sort(key=operator.itemgetter(0))
        end = 0
        overlapping: list[_Extent] = []  # those up to here of which each begins before the end of one before it
        for found in extents:
            begin, until, tensor, name = found
            if begin >= end:
                overlapping, end = [found], until
                continue
            yield from (
                (name, owner_name)
                for other_begin, other_end, owner, owner_name in overlapping
                if other_end > begin and matters(name, owner_name) and _meet(owner, tensor, begin - other_begin)
            )
            overlapping.append(found)
            end = max(end, until)


def memory_of(tensor: Tensor) -> Tensor | None:
    """What is here of a tensor, or ``None`` if that has no memory; on meta, the memory that it will have."""
    if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided:
        return None
    here = local(tensor)
    return here if here.is_meta or has_address(here) else None


def place_of(tensor: Tensor) -> tuple[object, int]:
    """Which memory a tensor looks into, and the byte there at which its first element begins."""
    if tensor.is_meta:
        return tensor.untyped_storage()._cdata, int(tensor.storage_offset()) * tensor.itemsize
    return tensor.device, tensor.data_ptr()


def _meet(first: Tensor, second: Tensor, shift: int) -> bool:
    """Whether two tensors whose extents overlap have an element in common; the second begins ``shift`` bytes later."""
    size = first.element_size()
    if second.element_size() != size or shift % size:
        return True
    marks = torch.zeros(max(extent(first), shift // size + extent(second)), dtype=torch.bool, device="cpu")
    marks.as_strided(first.shape, first.stride()).fill_(True)
    return bool(marks.as_strided(second.shape, second.stride(), shift // size).any())


def is_usual(slot: Slot) -> bool:
    """Whether this is a weight in memory of its own, as nearly all are: then no check of memory refuses it.

    One after the other, all those checks of a small tensor take longer than to write it.
    """
    tensor = slot.tensor
    try:
        return (
            type(tensor) in _PLAIN
            and slot.parametrization is None
            and tensor.layout is torch.strided
            and tensor.dtype in dtypes.DRAWABLE
            and tensor.is_contiguous()
            and not tensor.is_neg()
            and (tensor.data_ptr() != 0 or not (tensor.numel() or tensor.is_meta))
            and tensor.untyped_storage().nbytes() >= (tensor.numel() + tensor.storage_offset()) * tensor.itemsize
            and runtime_problem(slot) is None
        )
    except RuntimeError:  # it has no storage
        return False


#: the classes of tensors that are nothing but an array in memory
_PLAIN: Final = frozenset([nn.Parameter, Tensor])


def check_target(entry: Entry, slot: Slot) -> None:
    """Raise ``TargetError`` if this tensor's memory cannot hold the entry's values; no usual one is refused."""
    check_memory(slot)
    if not entry.kept:
        check_writable(slot)
    elif is_freed(local(slot.tensor)):
        raise TargetError(_FREED)


def check_memory(slot: Slot, advice: str = _MATERIALIZE) -> None:
    """Raise ``TargetError`` if the tensor has no memory yet, or stands for memory elsewhere.

    ``advice`` is what to do with one on meta.
    """
    tensor = slot.tensor
    if nn.parameter.is_lazy(tensor):
        raise TargetError("is lazy and has no shape yet; run one forward pass first")
    if slot.kind is not Kind.BUFFER and (elsewhere := runtime_problem(slot)) is not None:
        raise TargetError(elsewhere)
    if tensor.is_meta:
        raise TargetError(f"is on the meta device and has no memory; {advice}")


def check_stored(tensor: Tensor) -> None:
    """Raise ``TargetError`` if autograd has computed the tensor: nothing would use the new values but what holds it.

    The weight of a parametrized layer is one. Views of what is stored are not.
    """
    base = tensor._base if tensor._is_view() else tensor
    if base is not None and base.grad_fn is not None:
        raise TargetError(
            f"is computed ({type(base.grad_fn).__name__}), as a parametrized weight is; initialize the layer that "
            "computes it with zeta.utils or zeta.init_, or fill what it is computed from"
        )


def check_writable(slot: Slot) -> None:
    """Raise ``TargetError`` if the tensor's memory is not that of a floating-point weight or of parts of one."""
    tensor = local(slot.tensor)
    if slot.parametrization is not None and any(map(is_sharded, parameters_of(slot.parametrization))):
        raise TargetError(
            "is parametrized, and its stored tensors are sharded, which no right_inverse can work on; initialize "
            "before sharding"
        )
    if tensor.layout is not torch.strided:
        raise TargetError(
            f"has layout {str(tensor.layout).removeprefix('torch.')}; initialize the dense model and make it sparse "
            "afterwards, or use Keep()"
        )
    if not tensor.is_meta and not has_address(tensor):
        if is_freed(tensor):
            raise TargetError(_FREED)
        raise TargetError(
            f"is a {type(tensor.data).__name__} without memory of its own; initialize the plain tensor and wrap it "
            "afterwards, or use Keep()"
        )
    if slot.kind is not Kind.BUFFER and not dtypes.is_drawable(tensor.dtype):
        raise TargetError(
            f"has dtype {dtypes.name_of(tensor.dtype)}; initialize the floating-point model and quantize it "
            "afterwards, or use Keep()"
        )
    check_negated(tensor)
    check_apart(slot)


def check_apart(slot: Slot) -> None:
    """Raise ``TargetError`` if elements of the tensor share memory, which would get several values."""
    tensor = slot.tensor
    if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided or slot.parametrization is not None:
        return
    if overlaps(local(tensor)):
        raise TargetError(
            f"has overlapping memory (strides {local(tensor).stride()}); give it memory of its own with .contiguous() "
            "or .clone()"
        )


def check_negated(tensor: Tensor) -> None:
    """Raise ``TargetError`` for a negated view of 8-bit floating-point numbers, which torch cannot negate."""
    if tensor.is_neg() and tensor.is_floating_point() and tensor.itemsize == 1:
        raise TargetError(
            f"is a negated view of {dtypes.name_of(tensor.dtype)}, which torch cannot negate; use the tensor that it "
            "is a view of"
        )
