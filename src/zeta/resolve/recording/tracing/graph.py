"""The graph of recorded values, and for each storage its present node.

A node is a value that never changes. An in-place operation makes a new node for the storage that it writes; the old
node may be an operand of it. Nodes that no final value depends on are ignored. Strides and offsets exist only here: a
tensor's view of its storage is expressed as operations of the closed language.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base.language.evaluation import compute
from zeta.base.language.layouts import Box, box_of, shape_for
from zeta.base.language.operations import Attributes, Operand
from zeta.base.language.state import fixed_state, outside_of_modes
from zeta.base.tensors import extent, overlaps
from zeta.errors import RecordingError
from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.resolve.recording.sources import Source

#: bytes of the largest constant tensor in a plan
LARGEST_DATA: Final = 2**22
#: the reason for a tensor that was on meta before the recording
UNTOUCHED: Final = "has only what was there before the recording began, which no plan can give it"
_SERIAL = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Random:
    """A random draw: a solved initializer, and the axes that it needs."""

    initializer: Initializer
    axes: Axes | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True, weakref_slot=True)
class Node:
    """One value: an operation of the language on ``operands``, which are nodes and numbers.

    Additional operations, with their ``content``: ``random`` (a :class:`Random`), ``data`` (a real tensor), ``unknown``
    (a reason), ``uninitialized``, and ``copy`` (the operand's value, made at another line).
    """

    op: str
    operands: tuple[Operand, ...] = ()
    attributes: Attributes = ()
    content: Any = None
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: Source | None = None
    serial: int = field(default_factory=lambda: next(_SERIAL))

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes that this one uses."""
        return (operand for operand in self.operands if isinstance(operand, Node))

    def attribute(self, name: str) -> Any:
        """The attribute called ``name``, ``None`` if it was left out."""
        return dict(self.attributes).get(name)


def reachable(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots depend on, operands first: the order of creation."""
    found: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node.serial not in found:
            found[node.serial] = node
            waiting.extend(node.nodes)
    return [found[serial] for serial in sorted(found)]


# -- nodes of single operations; an operation without effect returns its operand ---------------------------------------


def make(op: str, *operands: Operand, like: Node, of: Sequence[int] | None = None, **attributes: Any) -> Node:
    """A node with the dtype and source of ``like``, and with its shape unless ``of`` gives another."""
    named = tuple(sorted(attributes.items()))
    shape = like.shape if of is None else tuple(of)
    return Node(op=op, operands=operands, attributes=named, shape=shape, dtype=like.dtype, source=like.source)


def full(value: Any, shape: Sequence[int], dtype: torch.dtype, source: Source | None) -> Node:
    """The same number in every element."""
    size = tuple(shape)
    named = (("size", size), ("value", value))
    return Node(op="full", attributes=named, shape=size, dtype=dtype, source=source)


def unknown(reason: str, tensor: Tensor, source: Source | None) -> Node:
    """An unknown value, and the reason."""
    return Node(op="unknown", content=reason, shape=tuple(tensor.shape), dtype=tensor.dtype, source=source)


def cast(node: Node, dtype: torch.dtype, source: Source | None = None) -> Node:
    """The values in another dtype."""
    if node.dtype is dtype:
        return node
    return Node(op="cast", operands=(node,), shape=node.shape, dtype=dtype, source=source or node.source)


def reshape(node: Node, shape: Sequence[int]) -> Node:
    """The elements in row-major order in another shape."""
    shape = tuple(shape)
    if node.shape == shape:
        return node
    source = node.operands[0] if node.op == "reshape" else node
    return source if source.shape == shape else make("reshape", source, like=node, of=shape, shape=shape)


def permute(node: Node, dims: Sequence[int]) -> Node:
    """The dimensions in another order."""
    dims = tuple(dims)
    if node.op == "permute":
        inner = node.attribute("dims")
        node, dims = node.operands[0], tuple(inner[dim] for dim in dims)
    moved = [dim for dim in dims if node.shape[dim] > 1]
    if moved == sorted(moved):  # only dimensions of extent 1 move
        return reshape(node, [node.shape[dim] for dim in dims])
    return make("permute", node, like=node, of=[node.shape[dim] for dim in dims], dims=dims)


def expand(node: Node, shape: Sequence[int]) -> Node:
    """Broadcast to a shape."""
    shape = tuple(shape)
    return node if node.shape == shape else make("expand", node, like=node, of=shape, shape=shape)


def cut(node: Node, box: Box) -> Node:
    """The elements of a box."""
    if box.sizes == node.shape:
        return node
    return make("slice", node, like=node, of=box.sizes, starts=box.starts, sizes=box.sizes, steps=box.steps)


def viewed(base: Node, shape: Sequence[int], strides: Sequence[int], offset: int) -> Node:
    """A strided view of row-major values."""
    shape = tuple(shape)
    if any(stride == 0 and size > 1 for stride, size in zip(strides, shape, strict=True)):
        once = tuple(1 if stride == 0 else size for stride, size in zip(strides, shape, strict=True))
        return expand(viewed(base, once, strides, offset), shape)
    if math.prod(shape) == 0:
        return full(0, shape, base.dtype, base.source)
    for inner in _shapes(base, shape, strides):
        box = box_of(inner, shape, strides, offset)
        if box is not None:
            return reshape(permute(cut(reshape(base, inner), box), box.permutation), shape)
    return make("strided", base, like=base, of=shape, shape=shape, strides=tuple(strides), offset=offset)


def updated(base: Node, value: Node, strides: Sequence[int], offset: int, source: Source | None) -> Node:
    """Row-major values, with ``value`` written to a strided view of them."""
    if value.numel == 0:
        return base
    for inner in _shapes(base, value.shape, strides):
        box = box_of(inner, value.shape, strides, offset)
        if box is None:
            continue
        order = box.permutation
        laid = reshape(value, [box.sizes[dim] for dim in order])
        turned = permute(laid, [order.index(dim) for dim in range(len(order))])
        target = reshape(base, inner)
        if box.sizes == target.shape:
            return reshape(turned, base.shape)
        node = Node(
            op="update",
            operands=(target, turned),
            attributes=(("starts", box.starts), ("steps", box.steps)),
            shape=target.shape,
            dtype=base.dtype,
            source=source,
        )
        return reshape(node, base.shape)
    named = (("offset", offset), ("strides", tuple(strides)))
    operands = (base, value)
    return Node(
        op="strided_update", operands=operands, attributes=named, shape=base.shape, dtype=base.dtype, source=source
    )


def _shapes(base: Node, shape: Sequence[int], strides: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Shapes of the same elements in which a view may be a box: the base's own, then one made from the strides."""
    yield base.shape
    other = shape_for(base.numel, shape, strides)
    if other is not None and other != base.shape:
        yield other


# -- memory ----------------------------------------------------------------------------------------------------------


class Cell:
    """One storage: its present values as a contiguous node, and the device that it claims to be on."""

    def __init__(self, *, node: Node, storage: torch.UntypedStorage, device: torch.device) -> None:
        self.node = node
        self.storage = storage  # kept alive, so that no other storage gets its address
        self.device = device


class Graph:
    """The cells of all storages seen so far, by address."""

    def __init__(self) -> None:
        self.cells: dict[int, Cell] = {}
        #: by their address, real memories and those on meta that stand for them
        self.adopted: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def cell(self, tensor: Tensor) -> Cell:
        """The cell of a meta tensor; a new one has an unknown value."""
        with torch._C.DisableTorchFunctionSubclass():  # of what is lazy, which refuses to be asked
            storage = tensor.untyped_storage()
        cell = self.cells.get(storage._cdata)
        if cell is None:
            whole = tensor.is_contiguous() and tensor.nbytes == storage.nbytes()
            shape = tuple(tensor.shape) if whole else (storage.nbytes() // tensor.element_size(),)
            node = Node(op="unknown", content=UNTOUCHED, shape=shape, dtype=tensor.dtype)
            cell = self.cells[storage._cdata] = Cell(node=node, storage=storage, device=torch.device("cpu"))
        return cell

    def create(self, tensor: Tensor, node: Node, device: torch.device) -> None:
        """Record the value of a new tensor."""
        storage = tensor.untyped_storage()
        extent = storage.nbytes() // tensor.element_size()
        if not (tensor.is_contiguous() and tensor.numel() == extent):
            empty = Node(op="uninitialized", shape=(extent,), dtype=node.dtype, source=node.source)
            if node.op == "data":  # there is something between, which no tensor sees
                empty = full(0, (extent,), node.dtype, node.source)
            node = updated(empty, node, tensor.stride(), int(tensor.storage_offset()), node.source)
        self.cells[storage._cdata] = Cell(node=node, storage=storage, device=device)

    def duplicate(self, tensor: Tensor, memo: dict[int, torch.UntypedStorage], source: Source | None) -> Tensor:
        """A tensor that looks into a copy of another's memory, which is made once for each ``memo``."""
        cell = self.cell(tensor)
        storage = memo.get(cell.storage._cdata)
        if storage is None:
            storage = memo[cell.storage._cdata] = torch.UntypedStorage(cell.storage.nbytes(), device="meta")  # type: ignore[no-untyped-call]
            node = replace(make("copy", cell.node, like=cell.node), source=source)
            self.cells[storage._cdata] = Cell(node=node, storage=storage, device=cell.device)
        twin = torch.empty(0, dtype=tensor.dtype, device="meta")
        return twin.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())

    def adopt(self, real: torch.UntypedStorage, dtype: torch.dtype, source: Source | None) -> torch.UntypedStorage:
        """The memory on meta that holds what a real one does; one for each, so that views of it stay views.

        Its values are read when they are needed: torch makes tensors before it fills them when it loads some files.
        """
        known = self.adopted.get(real._cdata)
        if known is None:
            content = everything_in(real, dtype)
            storage = torch.UntypedStorage(real.nbytes(), device="meta")  # type: ignore[no-untyped-call]
            shape = tuple(content.shape)
            node = Node(op="data", content=content, shape=shape, dtype=content.dtype, source=source)
            self.cells[storage._cdata] = Cell(node=node, storage=storage, device=torch.device("cpu"))
            known = self.adopted[real._cdata] = (real, storage)  # kept, so that no other memory gets its address
        return known[1]

    def read(self, tensor: Tensor) -> Node:
        """The present node of a tensor."""
        node = self.cell(tensor).node
        if _is_all_of(tensor, node):
            return node
        base = _as_dtype(node, tensor.dtype)
        node = viewed(base, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        if tensor.is_conj():
            node = make("conj_physical", node, like=node)
        return make("neg", node, like=node) if tensor.is_neg() else node

    def write(self, tensor: Tensor, value: Node, source: Source | None) -> None:
        """Record that ``value``, with the tensor's shape and dtype, is written to the tensor."""
        cell = self.cell(tensor)
        if _is_all_of(tensor, cell.node):
            cell.node = value
            return
        if _has_overlap(tensor):
            if not _is_uniform(value):
                reason = "was written to in elements that share memory, where the order of the writes decides"
                self.spoil(tensor, f"{reason}; clone() it before ({source})", source)
                return
            once = tuple(1 if stride == 0 else n for stride, n in zip(tensor.stride(), tensor.shape, strict=True))
            value = cut(value, replace(Box.whole(value.shape), sizes=once))
        if tensor.is_conj():
            value = make("conj_physical", value, like=value)
        if tensor.is_neg():
            value = make("neg", value, like=value)
        base = _as_dtype(cell.node, tensor.dtype)
        new = updated(base, value, tensor.stride(), int(tensor.storage_offset()), source)
        cell.node = _as_dtype(new, cell.node.dtype)

    def spoil(self, tensor: Tensor, reason: str, source: Source | None) -> None:
        """Record that a tensor's storage now has an unknown value, and why."""
        cell = self.cell(tensor)
        cell.node = Node(op="unknown", content=reason, shape=cell.node.shape, dtype=cell.node.dtype, source=source)


def everything_in(storage: torch.UntypedStorage, dtype: torch.dtype) -> Tensor:
    """All of a memory as one row: of this dtype, or of bytes where it does not fit."""
    dtype = torch.uint8 if storage.nbytes() % dtype.itemsize else dtype
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, (storage.nbytes() // dtype.itemsize,), (1,))


def _is_all_of(tensor: Tensor, node: Node) -> bool:
    """Whether a tensor is exactly its storage's node, without a view. This is the usual case."""
    same = node.shape == tensor.shape and node.dtype is tensor.dtype and not tensor.is_conj() and not tensor.is_neg()
    return same and tensor.is_contiguous() and tensor.storage_offset() == 0


def _has_overlap(tensor: Tensor) -> bool:
    """Whether two elements share memory."""
    if not overlaps(tensor):
        return False
    if tensor.numel() > extent(tensor):
        return True
    with outside_of_modes():
        places = torch.arange(extent(tensor), device="cpu").as_strided(tensor.shape, tensor.stride())
        return bool(places.flatten().sort().values.diff().eq(0).any())


def _is_uniform(node: Node) -> bool:
    """Whether all elements are certainly the same."""
    while node.op in ("copy", "cast"):
        node = node.operands[0]
    return node.op == "full" or (node.op == "expand" and node.operands[0].numel == 1)


def _as_dtype(node: Node, dtype: torch.dtype) -> Node:
    """The same storage, with its bits reinterpreted as another dtype."""
    if node.dtype is dtype:
        return node
    if node.op == "bits" and node.operands[0].dtype is dtype:
        return node.operands[0]  # type: ignore[no-any-return]
    flat = reshape(node, (node.numel,))
    shape = (node.numel * node.dtype.itemsize // dtype.itemsize,)
    return Node(op="bits", operands=(flat,), shape=shape, dtype=dtype, source=node.source)


# -- computing values --------------------------------------------------------------------------------------------------


_COMPUTED: Final[weakref.WeakKeyDictionary[Node, Tensor]] = weakref.WeakKeyDictionary()


def concrete(root: Node, purpose: str) -> Tensor:
    """The value of a node that depends on no random number, computed on the CPU.

    Raises ``RecordingError`` if it does, or if the value is unknown.
    """
    order = _uncomputed(root)
    for node in order:
        if node.op == "random":
            raise RecordingError(f"{purpose} depends on random values ({node.content.initializer}, {node.source})")
        if node.op == "uninitialized":
            raise RecordingError(f"{purpose} depends on uninitialized memory ({node.source})")
        if node.op == "unknown":
            raise RecordingError(f"{purpose} depends on a tensor that {node.content}")
    values: dict[int, Tensor] = {}
    for node in order:
        known = _COMPUTED.get(node)
        result = value_of(node, values) if known is None else known
        values[node.serial] = result
        if result.nbytes <= LARGEST_DATA:
            _COMPUTED[node] = result
    return values[root.serial]


def _uncomputed(root: Node) -> list[Node]:
    """As ``reachable``, without the operands of nodes whose value is computed already."""
    found: dict[int, Node] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.serial not in found:
            found[node.serial] = node
            if node not in _COMPUTED:
                waiting.extend(node.nodes)
    return [found[serial] for serial in sorted(found)]


def value_of(node: Node, values: dict[int, Tensor]) -> Tensor:
    """Compute a deterministic node from the values of its operands."""
    if node.op == "data":
        return node.content  # type: ignore[no-any-return]
    if node.op == "copy":
        return values[node.operands[0].serial]
    operands = [values[item.serial] if isinstance(item, Node) else item for item in node.operands]
    with fixed_state():
        return compute(node.op, operands, node.attributes, node.dtype)
