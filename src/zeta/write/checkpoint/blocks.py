"""The small tensors of a file, drawn together into one block of memory that has the layout of the file.

Each call costs some hundred microseconds of Python, however small the tensor is. A block costs that once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from zeta.compute import sampling
from zeta.compute.sampling import Request
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.initializers.blocks import is_elementwise
from zeta.resolve.plans import Entry
from zeta.write.checkpoint.layout import Stored

#: bytes of a block: as much as a thread's cache holds
BLOCK_BYTES: Final = 2**21
_MOST_ENTRIES: Final = 2**12
#: elements of the largest tensor in a block; torch fills constants up to this size on one thread
_SMALL: Final = 2**15


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive entries of one dtype in a file, and the offset of their first byte."""

    stored: tuple[Stored, ...]
    start: int
    numel: int  #: of all entries; tied entries count once for each name

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all entries."""
        return self.stored[0].entry.dtype

    def views(self, memory: Tensor) -> list[Tensor]:
        """Each entry's values, under its first name, in the block's memory."""
        return [_view(memory, item.entry, self._place(item.offsets[0])) for item in self.stored]

    def drawn(self, seed: int) -> Tensor:
        """All values of the block, as a one-dimensional tensor of :attr:`dtype`."""
        memory = torch.empty(self.numel, dtype=self.dtype, device="cpu")
        requests = [
            Request(
                initializer=item.entry.initializer,
                keys=(parameter_key(seed, item.entry.name),),
                region=Region.whole(item.entry.shape),
                outs=(values,),
                zero_row=item.entry.padding_idx,
            )
            for item, values in zip(self.stored, self.views(memory), strict=True)
            if item.entry.numel
        ]
        sampling.fill_(requests)
        for item in self.stored:
            first, size = self._place(item.offsets[0]), item.entry.numel
            for offset in item.offsets[1:]:
                other = self._place(offset)
                memory[other : other + size] = memory[first : first + size]
        return memory

    def named(self, memory: Tensor) -> Iterator[tuple[str, Entry, Tensor]]:
        """Each name in the block, its entry, and its values as a view of the block's memory."""
        for item in self.stored:
            for name, offset in zip(item.names, item.offsets, strict=True):
                yield name, item.entry, _view(memory, item.entry, self._place(offset))

    def _place(self, offset: int) -> int:
        return (offset - self.start) // self.dtype.itemsize


def _view(memory: Tensor, entry: Entry, place: int) -> Tensor:
    return memory.as_strided(entry.shape, Region.whole(entry.shape).strides, place)


def blocks(stored: Iterable[Stored]) -> Iterator[Block | Stored]:
    """All entries in the order of the file: small ones in blocks, larger ones separately."""
    waiting: list[Stored] = []
    size = 0
    for item in stored:
        nbytes = item.entry.nbytes * len(item.names)
        small = _is_small(item.entry)
        if waiting and not (
            small
            and item.entry.dtype is waiting[0].entry.dtype
            and size + nbytes <= BLOCK_BYTES
            and len(waiting) < _MOST_ENTRIES
        ):
            yield _block(waiting, size)
            waiting, size = [], 0
        if small:
            waiting.append(item)
            size += nbytes
        else:
            yield item
    if waiting:
        yield _block(waiting, size)


def _block(stored: Sequence[Stored], size: int) -> Block:
    return Block(stored=tuple(stored), start=stored[0].offsets[0], numel=size // stored[0].entry.dtype.itemsize)


def _is_small(entry: Entry) -> bool:
    return entry.section is None and entry.numel <= _SMALL and is_elementwise(entry.initializer)
