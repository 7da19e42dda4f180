"""Tensors as Python objects: swap or view their memory, find them in plain attributes, check what memory they have."""

from __future__ import annotations

import ctypes
import operator
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base.distributed import is_sharded
from zeta.base.modules import named_modules_of
from zeta.base.parametrizations import hooked
from zeta.base.reading import shown
from zeta.errors import SpecError

# the attributes of a tensor with its hooks
_HOOKS: Final = ("_backward_hooks", "_post_accumulate_grad_hooks")


def swap(tensor: Tensor, other: Tensor) -> None:
    """Swap storage and metadata of two tensors. The Python objects stay: identity, class, attributes and hooks.

    ``torch.utils.swap_tensors`` also swaps class and attributes, and it refuses a tensor that has weak references, as
    recurrent layers keep. Part of the hooks is stored with the metadata, so hooks are set again. A ``DTensor`` is a
    wrapper around a local tensor and a specification, which are swapped too. Needed until torch has a public function
    that swaps the content only.
    """
    Swaps([(tensor, other)]).make()


class Swaps:
    """Tensors that are swapped with others, as ``swap`` does, and swapped back."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._pairs = [(tensor, other, _home(tensor), _wrapped(tensor), _wrapped(other)) for tensor, other in pairs]

    def make(self) -> None:
        """Swap all of them."""
        for tensor, other, _, mine, theirs in self._pairs:
            torch._C._swap_tensor_impl(tensor, other)
            _settle(tensor, theirs)
            _settle(other, mine)

    def undo(self) -> None:
        """Swap back those that are swapped. It may be called again after it was interrupted, and after ``make`` was."""
        for tensor, other, home, mine, theirs in self._pairs:
            if _home(other) == home:
                torch._C._swap_tensor_impl(tensor, other)
            _settle(other, theirs)
            _settle(tensor, mine)


def _home(tensor: Tensor) -> int:
    """Where torch keeps the tensor's metadata and its reference to memory, which are what is swapped."""
    return int(tensor._cdata)


def _wrapped(tensor: Tensor) -> dict[str, Any]:
    """What a ``DTensor`` wraps."""
    return {name: getattr(tensor, name) for name in ("_local_tensor", "_spec")} if is_sharded(tensor) else {}


def _settle(tensor: Tensor, wrapped: dict[str, Any]) -> None:
    """Give a tensor what it wraps, and set its hooks again."""
    for name, value in wrapped.items():
        setattr(tensor, name, value)
    for name in _HOOKS:
        if getattr(tensor, name, None):
            setattr(tensor, name, getattr(tensor, name))


class SavedAttributes:
    """The attributes and the hooks of a tensor as they are now, and what is in its lists, sets and dictionaries."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._attributes = None if is_sharded(tensor) else content_of(vars(tensor))
        hooks = [(name, getattr(tensor, name, None)) for name in _HOOKS] if tensor.is_leaf else []
        self._hooks = [(name, table, content_of(table or {})) for name, table in hooks]
        values = () if self._attributes is None else tuple(vars(tensor).values())
        self._contents = [(found, content_of(found)) for _, found in inside(values) if isinstance(found, REFILLED)]

    def restore(self) -> None:
        """Give the tensor what it had. What did not change is not written."""
        for container, content in self._contents:
            refill(container, content)
        if self._attributes is not None:
            refill(vars(self._tensor), self._attributes)
        for name, table, entries in self._hooks:
            current = getattr(self._tensor, name)
            if current is not table and current is not None:
                current.clear()  # torch goes on calling what is in it, even when the tensor has another one
            if table is not None:
                refill(table, entries)
            if current is not table:
                setattr(self._tensor, name, table)


#: containers whose content can be given back
REFILLED: Final = (list, set, dict, deque)


def content_of(container: Any) -> list[Any]:
    """What is in a list, deque, set or dictionary now; of a dictionary each key and its value in turn."""
    kind = _kind_of(container)
    if issubclass(kind, dict):
        return [part for pair in kind.items(container) for part in pair]
    return list(kind.__iter__(container))


def refill(container: Any, content: list[Any]) -> None:
    """Give a container what :func:`content_of` returned for it; nothing is written if it has it."""
    now = content_of(container)
    if len(now) == len(content) and all(map(operator.is_, now, content)):
        return
    kind = _kind_of(container)
    kind.clear(container)
    if issubclass(kind, dict):
        kind.update(container, zip(content[::2], content[1::2], strict=True))
    else:
        (kind.update if kind is set else kind.extend)(container, content)


def _kind_of(container: Any) -> Any:
    """The class whose methods read and write a container: those of a class derived from it may do more."""
    return next(kind for kind in (OrderedDict, *REFILLED) if isinstance(container, kind))


#: types of attributes that cannot contain a tensor
_PLAIN: Final = frozenset([bool, int, float, str, type(None)])
_CONTAINERS: Final = (tuple, *REFILLED)


def attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a module's plain attributes, and in lists, tuples and dictionaries there, with its place.

    Without the weights that deprecated hooks compute before each forward pass.
    """
    return (found for name, module in named_modules_of(model) for found in attributes_here(module, name))


def attributes_here(module: nn.Module, name: str) -> Iterator[tuple[str, Tensor]]:
    """Those of one module, without its submodules."""
    computed = {id(vars(module).get(weight)) for weight in hooked(module)}  # an LSTM keeps it in a list too
    for key, value in vars(module).items():
        if key in ("_parameters", "_buffers", "_modules") or type(value) in _PLAIN:
            continue
        if isinstance(value, Tensor) or (isinstance(value, _CONTAINERS) and value):
            for path, found in inside(value):
                if isinstance(found, Tensor) and id(found) not in computed:
                    yield f"{name}.{key}".lstrip(".") + "".join(f"[{part!r}]" for part in path), found


def inside(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """A value, and what is in it if it is a list, tuple, set, dictionary or deque, at any depth, each with its indices.

    Each container is named once, so that one may contain itself. Numbers and texts in them are left out.

    >>> list(inside({"a": [(), 1]}))
    [((), {'a': [(), 1]}), (('a',), [(), 1]), (('a', 0), ())]
    """
    known: set[int] = set()
    pending: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while pending:
        path, value = pending.pop()
        if not isinstance(value, _CONTAINERS):
            yield path, value
        elif id(value) not in known:
            known.add(id(value))
            yield path, value
            if value:
                items = value.items() if isinstance(value, dict) else enumerate(value)
                pending += reversed([((*path, key), item) for key, item in items if type(item) not in _PLAIN])


_META: Final = torch.device("meta")


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """The storage with the tensor's memory; ``None`` for a tensor that wraps others, a fake, a sparse or an opaque one.

    It may be smaller than the tensor needs: see ``is_freed``.
    """
    try:
        storage = tensor.untyped_storage()
        known = storage.device != _META and (storage.data_ptr() != 0 or storage.nbytes() == 0)
    except RuntimeError:
        return None
    return storage if known else None


def has_address(tensor: Tensor) -> bool:
    """Whether all of the tensor has an address in memory, so that it can be read and written there."""
    return not tensor.numel() or ((storage := storage_of(tensor)) is not None and _within(tensor, storage))


def is_freed(tensor: Tensor) -> bool:
    """Whether the tensor's storage was resized to less than the tensor needs, as offloading does: never read it."""
    return tensor.numel() > 0 and (storage := storage_of(tensor)) is not None and not _within(tensor, storage)


def _within(tensor: Tensor, storage: torch.UntypedStorage) -> bool:
    return storage.nbytes() >= tensor.storage_offset() * tensor.itemsize + nbytes_of(tensor)


def nbytes_of(tensor: Tensor) -> int:
    """The number of bytes from the tensor's first element in memory to the last, both included."""
    nbytes: int = tensor.nbytes if tensor.is_contiguous() else extent(tensor) * tensor.itemsize
    return -(-nbytes // _PACKED[tensor.dtype]) if tensor.dtype in _PACKED else nbytes


#: elements in a byte, of dtypes for which torch counts each as an element
_PACKED: Final = {torch.quint4x2: 2, torch.quint2x4: 4}


def extent(tensor: Tensor) -> int:
    """The number of elements from the first in memory to the last, both included; 0 without elements."""
    if tensor.is_contiguous():
        return tensor.numel()
    if not tensor.numel():
        return 0
    return 1 + sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def overlaps(tensor: Tensor) -> bool:
    """Whether two elements may share memory."""
    if tensor.is_contiguous() or not tensor.numel():
        return False
    reach = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


#: bytes of the largest memory in which single elements are told apart
_LARGEST_MASK: Final = 2**28


def covered(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether each element of a tensor is an element of one of ``others``, which look into the same memory.

    ``False`` where that memory is too large to tell, and no single one of them is all of it.

    >>> rows = torch.zeros(4, 2)
    >>> covered(rows[1:3], [rows[:2], rows[2:]]), covered(rows, [rows[::2]])
    (True, False)
    """
    others = list(others)
    form = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.itemsize)
    if any((o.storage_offset(), o.shape, o.stride(), o.itemsize) == form for o in others):
        return True
    size = tensor.untyped_storage().nbytes()
    if not tensor.numel() or any(o.is_contiguous() and o.nbytes == size for o in others):
        return True
    mask = _mask(size, others)
    return mask is not None and bool(_in_mask(mask, tensor).all())


def meets(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether an element of a tensor is an element of one of ``others``, which look into the same memory.

    ``True`` where that memory is too large to tell.
    """
    mask = _mask(tensor.untyped_storage().nbytes(), others)
    return mask is None or bool(_in_mask(mask, tensor).any())


def _mask(size: int, tensors: Iterable[Tensor]) -> Tensor | None:
    """Which bytes of a memory of this size the tensors look into; ``None`` if it is too large."""
    if size > _LARGEST_MASK:
        return None
    mask = torch.zeros(size, dtype=torch.bool, device="cpu")
    for tensor in tensors:
        _in_mask(mask, tensor).fill_(True)
    return mask


def _in_mask(mask: Tensor, tensor: Tensor) -> Tensor:
    """The part of a mask over bytes that belongs to a tensor's elements."""
    width = tensor.itemsize
    strides = [stride * width for stride in tensor.stride()]
    return mask.as_strided((*tensor.shape, width), (*strides, 1), int(tensor.storage_offset()) * width)


def with_memory(device: Any) -> torch.device:
    """The device that an argument ``device=`` means; ``SpecError`` if torch cannot allocate memory there.

    >>> with_memory("cpu")
    device(type='cpu')
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch raises many classes of errors for devices that it does not know or have
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SpecError(
            f"device must be one that torch has here, such as 'cpu' or 'cuda', got {shown(device)}: {reason}"
        ) from error
    if found.type == "meta":
        raise SpecError("values need memory; device must not be meta")
    return found


def bytes_view(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy. Valid as long as the tensor exists."""
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
