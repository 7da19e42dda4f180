"""Save the memory of tensors and restore it, bit by bit: the bytes of their storages, each byte once.

Tensors may be views of one memory, overlap, or be sparse, quantized or sharded; bytes are bytes. A storage that was
resized, even to nothing, gets its size back first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from zeta.base import dtypes
from zeta.base.tensors import nbytes_of, storage_of

_INDICES: Final = {
    torch.sparse_coo: ("_indices", "_values"),
    **dict.fromkeys((torch.sparse_csr, torch.sparse_bsr), ("crow_indices", "col_indices", "values")),
    **dict.fromkeys((torch.sparse_csc, torch.sparse_bsc), ("ccol_indices", "row_indices", "values")),
}


class Saved(Protocol):
    """Something that was saved."""

    def restore(self) -> object:
        """Restore it; nothing is written that did not change."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedStorage:
    storage: torch.UntypedStorage
    size: int
    spans: tuple[tuple[int, Tensor], ...]  #: the first byte, and what was there

    def restore(self) -> None:
        if self.storage.nbytes() != self.size:
            self.storage.resize_(self.size)
        for begin, content in self.spans:
            now = _span(self.storage, begin, begin + content.nbytes)
            if not torch.equal(now, content):
                now.copy_(content)


@dataclass(frozen=True, kw_only=True, eq=False)
class _SavedValues:
    """Of a tensor whose memory has no address, such as MKLDNN's."""

    tensor: Tensor
    values: Tensor

    def restore(self) -> None:
        if not torch.equal(_dense(self.tensor), _dense(self.values)):
            self.tensor.detach().copy_(self.values)


def saved(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Saved]]:
    """The content of some named tensors, each with the name of the first tensor in it."""
    spans: dict[int, list[tuple[int, int]]] = {}
    storages: dict[int, tuple[str, torch.UntypedStorage]] = {}
    others: list[tuple[str, Saved]] = []
    for name, part in ((name, part) for name, tensor in tensors for part in parts(tensor)):
        storage = storage_of(part)
        if storage is None:
            others.append((name, _SavedValues(tensor=part, values=part.detach().clone())))
            continue
        storages.setdefault(storage._cdata, (name, storage))
        begin = int(part.storage_offset()) * part.itemsize
        end = min(begin + nbytes_of(part), storage.nbytes())
        spans.setdefault(storage._cdata, []).append((begin, end))
    for key, (name, storage) in storages.items():
        content = tuple((begin, _span(storage, begin, end).clone()) for begin, end in _joined(spans[key]))
        others.append((name, _SavedStorage(storage=storage, size=storage.nbytes(), spans=content)))
    return others


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that hold the content: the local part of a shard, indices and values of a sparse tensor."""
    inner: Any = tensor
    if is_traceable_wrapper_subclass(inner):
        held = (getattr(inner, name) for name in inner.__tensor_flatten__()[0])  # a shard's has a mesh, too
        yield from (part for one in held if isinstance(one, Tensor) for part in parts(one))
    elif tensor.layout in _INDICES:
        yield from (getattr(tensor.detach(), name)() for name in _INDICES[tensor.layout])
    elif not tensor.is_meta:
        yield tensor


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of bytes without overlaps and empty ones, in order."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        elif begin < end:
            joined.append((begin, end))
    return joined


def _span(storage: torch.UntypedStorage, begin: int, end: int) -> Tensor:
    """Some bytes of a storage, as the widest integers that they can be divided into: these compare faster."""
    if end > storage.nbytes():
        raise RuntimeError(f"its storage has {storage.nbytes()} bytes, expected at least {end}")
    dtype = dtypes.integer_of(math.gcd(8, begin, end))
    whole = torch.empty(0, dtype=dtype, device=storage.device)
    return whole.set_(storage, begin // dtype.itemsize, ((end - begin) // dtype.itemsize,), (1,))


def _dense(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
