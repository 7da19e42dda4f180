"""What was done to tensors without memory: a graph of operations, and for each memory the node that it holds now.

A node is a value that never changes. An operation in place makes a new node for the memory that it writes to, of
which the old one may be a part; what no final value leads back to is never looked at again.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from zeta import operations
from zeta.errors import RecordingError
from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.operations import strides_of
from zeta.tracing.sources import Source

#: the largest constant tensor that a plan may hold
LARGEST_DATA: Final = 2**20
#: why a tensor that the recording found on meta has no value
UNTOUCHED: Final = "was there, on meta, before the recording began, so it has no value"
_SERIAL = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Random:
    """What is drawn: a solved initializer, and the axes that it needs."""

    initializer: Initializer
    axes: Axes | None = None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True, weakref_slot=True)
class Node:
    """One value: ``op`` of ``args``, in which other nodes may occur.

    Beside torch's operations there are ``random`` (its one argument a :class:`Random`), ``data`` (a real tensor),
    ``read`` and ``write`` of a strided view, ``item`` of a tuple, ``uninitialized``, and ``unknown`` with a reason.
    """

    op: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
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
        yield from nodes_in(self.args)
        if self.kwargs:
            yield from nodes_in(tuple(self.kwargs.values()))


def nodes_in(value: Any) -> Iterator[Node]:
    """Every node in nested tuples and lists."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from nodes_in(item)


def reachable(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots lead back to, arguments first. The order of creation is such an order."""
    found: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node.serial not in found:
            found[node.serial] = node
            waiting.extend(node.nodes)
    return [found[serial] for serial in sorted(found)]


class Cell:
    """One memory: what it holds now, as a contiguous node, and on which device it claims to be."""

    def __init__(self, *, node: Node, storage: torch.UntypedStorage, device: torch.device) -> None:
        self.node = node
        self.storage = storage  # kept, so that no other memory gets its address
        self.device = device


class Graph:
    """The memories that were seen, by their address."""

    def __init__(self) -> None:
        self.cells: dict[int, Cell] = {}

    def cell(self, tensor: Tensor) -> Cell:
        """The memory of a meta tensor; one that was not seen before holds an unknown value."""
        storage = tensor.untyped_storage()
        cell = self.cells.get(storage._cdata)
        if cell is None:
            whole = tensor.is_contiguous() and tensor.nbytes == storage.nbytes()
            shape = tuple(tensor.shape) if whole else (storage.nbytes() // tensor.element_size(),)
            node = Node(op="unknown", args=(UNTOUCHED,), shape=shape, dtype=tensor.dtype)
            cell = self.cells[storage._cdata] = Cell(node=node, storage=storage, device=torch.device("cpu"))
        return cell

    def create(self, tensor: Tensor, node: Node, device: torch.device) -> None:
        """Note what a new tensor holds."""
        storage = tensor.untyped_storage()
        if not tensor.is_contiguous():
            node = _in_memory_order(tensor, node)
        self.cells[storage._cdata] = Cell(node=node, storage=storage, device=device)

    def read(self, tensor: Tensor) -> Node:
        """The node that a tensor holds now."""
        base = self.cell(tensor).node
        shape = tuple(tensor.shape)
        if base.shape == shape and base.dtype is tensor.dtype and tensor.is_contiguous():
            return base
        return self._viewed(_as_dtype(base, tensor.dtype), tensor)

    @staticmethod
    def _viewed(base: Node, tensor: Tensor) -> Node:
        strides, offset, shape = tensor.stride(), tensor.storage_offset(), tuple(tensor.shape)
        if any(stride == 0 and size > 1 for stride, size in zip(strides, shape, strict=True)):
            once = tuple(1 if stride == 0 else size for stride, size in zip(strides, shape, strict=True))
            inner = Node(
                op="read", args=(base, once, strides, offset), shape=once, dtype=base.dtype, source=base.source
            )
            return Node(
                op="aten.expand.default", args=(inner, shape), shape=shape, dtype=base.dtype, source=base.source
            )
        if base.numel == tensor.numel() and offset == 0 and tensor.is_contiguous():
            return Node(op="aten.view.default", args=(base, shape), shape=shape, dtype=base.dtype, source=base.source)
        return Node(op="read", args=(base, shape, strides, offset), shape=shape, dtype=base.dtype, source=base.source)

    def write(self, tensor: Tensor, value: Node, source: Source | None) -> None:
        """Note that a tensor's memory now holds ``value``, which has its shape and dtype."""
        cell = self.cell(tensor)
        shape = tuple(tensor.shape)
        if cell.node.shape == shape and cell.node.dtype is tensor.dtype and tensor.is_contiguous():
            cell.node = value
            return
        base = _as_dtype(cell.node, tensor.dtype)
        if base.numel == tensor.numel() and _is_dense(tensor):
            laid = value if tensor.is_contiguous() else _in_memory_order(tensor, value)
            if laid.shape != base.shape:
                laid = Node(
                    op="aten.view.default", args=(laid, base.shape), shape=base.shape, dtype=base.dtype, source=source
                )
            new = laid
        else:
            new = Node(
                op="write",
                args=(base, value, tensor.stride(), tensor.storage_offset()),
                shape=base.shape,
                dtype=base.dtype,
                source=source,
            )
        cell.node = _as_dtype(new, cell.node.dtype)

    def spoil(self, tensor: Tensor, reason: str, source: Source | None) -> None:
        """Note that nobody knows what a tensor's memory holds now, and why."""
        cell = self.cell(tensor)
        cell.node = Node(op="unknown", args=(reason,), shape=cell.node.shape, dtype=cell.node.dtype, source=source)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory from its beginning, each once."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return tensor.storage_offset() == 0


def _in_memory_order(tensor: Tensor, node: Node) -> Node:
    """The node of a dense tensor's elements in the order of memory."""
    shape = tuple(tensor.shape)
    if not _is_dense(tensor):
        extent = tensor.untyped_storage().nbytes() // tensor.element_size()
        base = Node(op="uninitialized", shape=(extent,), dtype=node.dtype)
        view = (base, node, tensor.stride(), tensor.storage_offset())
        return Node(op="write", args=view, shape=(extent,), dtype=node.dtype, source=node.source)
    order = sorted(range(len(shape)), key=lambda dim: (-tensor.stride()[dim], shape[dim] != 1))
    inner = strides_of(shape)
    laid = tuple(shape[dim] for dim in order)
    args = (node, laid, tuple(inner[dim] for dim in order), 0)
    return Node(op="read", args=args, shape=laid, dtype=node.dtype, source=node.source)


def _as_dtype(node: Node, dtype: torch.dtype) -> Node:
    """The same memory, its bits taken as another dtype."""
    if node.dtype is dtype:
        return node
    old, new = node.dtype.itemsize, dtype.itemsize
    flat = Node(op="aten.view.default", args=(node, (node.numel,)), shape=(node.numel,), dtype=node.dtype)
    shape = (node.numel * old // new,)
    return Node(op="aten.view.dtype", args=(flat, dtype), shape=shape, dtype=dtype, source=node.source)


# -- values for real -------------------------------------------------------------------------------------------------


_COMPUTED: Final[weakref.WeakKeyDictionary[Node, Tensor]] = weakref.WeakKeyDictionary()


def concrete(root: Node, purpose: str) -> Tensor:
    """The value of a node that depends on no random number, computed on the CPU.

    Raises ``RecordingError`` where it does, or where nobody knows the value.
    """
    order = _uncomputed(root)
    for node in order:
        if node.op == "random":
            raise RecordingError(f"{purpose} depends on random values ({node.args[0].initializer}, {node.source})")
        if node.op == "uninitialized":
            raise RecordingError(f"{purpose} depends on memory that nobody has written to ({node.source})")
        if node.op == "unknown":
            raise RecordingError(f"{purpose} depends on a tensor that {node.args[0]}")
    values: dict[int, Any] = {}
    for node in order:
        known = _COMPUTED.get(node)
        result = compute(node, values) if known is None else known
        values[node.serial] = result
        if isinstance(result, Tensor) and result.nbytes <= LARGEST_DATA:
            _COMPUTED[node] = result
    result = values[root.serial]
    assert isinstance(result, Tensor)
    return result


def _uncomputed(root: Node) -> list[Node]:
    """As ``reachable``, but not past nodes whose value is known."""
    found: dict[int, Node] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.serial not in found:
            found[node.serial] = node
            if node not in _COMPUTED:
                waiting.extend(node.nodes)
    return [found[serial] for serial in sorted(found)]


def compute(node: Node, values: dict[int, Any]) -> Any:
    """Compute a deterministic node from the values of those that it uses."""

    def of(item: Any) -> Any:
        return values[item.serial] if isinstance(item, Node) else item

    if node.op == "data":
        return node.args[0]
    args = operations.substitute(node.args, of)
    if node.op == "read":
        return operations.read(*args)
    if node.op == "write":
        return operations.write(*args)
    if node.op == "item":
        return args[0][args[1]]
    return operations.run(node.op, args, {key: operations.substitute(value, of) for key, value in node.kwargs.items()})
