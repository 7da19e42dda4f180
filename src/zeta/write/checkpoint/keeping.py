"""The values of an entry of which all or a part is kept, tile by tile: from the model or from another checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import torch
from msgspec import Struct
from torch import Tensor

from zeta.base.tensors import bytes_view, extent, nbytes_of
from zeta.compute import sampling
from zeta.compute.assembled import Reader, is_stored
from zeta.compute.stream.regions import Region
from zeta.compute.sums import Sums, sums_of_all
from zeta.compute.values import drawing, kept_of, values_of
from zeta.errors import TargetError
from zeta.resolve.adapting import Given
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot
from zeta.rules import Kind
from zeta.write.loading import boxes_of, converted
from zeta.write.shards import held
from zeta.write.targets import meeting, memory_of, place_of

#: bytes of the largest element, of which every memory begins at a multiple
_ALIGNMENT: Final = 16

#: an entry that is written, and its tensor in the model
Leader = tuple[Entry, Tensor]
#: bytes that a thread draws or reads, measures and writes at a time, while they are in its cache
TILE_BYTES: Final = 2**21


class Watcher(Protocol):
    """Receives every drawn tile of one entry."""

    def parts(self, index: tuple[slice, ...], values: Tensor) -> list[tuple[Tensor, float]]:
        """The parts of a tile to sum, each with a centre; called in any thread, must not change anything."""

    def take(self, sums: Sequence[Sums]) -> None:
        """Receive the sums of the parts; called in the order of the tiles."""


class Kept(Struct, frozen=True, kw_only=True, eq=False):
    """What reads a region of an entry that is kept, in the entry's dtype, contiguous, on the CPU.

    ``parallel`` says whether several threads may read at the same time, without torch's.
    """

    read: Callable[[Region], Tensor]
    parallel: bool = False


def of_tensor(tensor: Tensor, dtype: torch.dtype) -> Kept:
    """What a tensor of the model has."""

    def read(region: Region) -> Tensor:
        shown = tensor.detach()[region.slices].to(device="cpu", dtype=dtype)
        return shown.resolve_conj().resolve_neg().contiguous()

    return Kept(read=read)


def of_checkpoint(given: Given, dtype: torch.dtype) -> Kept:
    """What another checkpoint gives."""
    reader = Reader()

    def read(region: Region) -> Tensor:
        boxes = [(place, reader.read(given.values, index)) for place, index in boxes_of(given, region)]
        if len(boxes) == 1:
            return converted(boxes[0][1], dtype, given.values)
        values = torch.empty(region.sizes, dtype=dtype, device="cpu")
        for place, box in boxes:
            values[place] = converted(box, dtype, given.values)
        return values

    return Kept(read=read, parallel=is_stored(given.values))


class _Unwatched:
    """Receives nothing: of an entry that is kept, nothing is drawn."""

    def parts(self, index: tuple[slice, ...], values: Tensor) -> list[tuple[Tensor, float]]:
        """Nothing."""
        return []

    def take(self, sums: Sequence[Sums]) -> None:
        """Do nothing."""


UNWATCHED: Final = _Unwatched()


def _nothing(region: Region) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    return iter(())


class Content:
    """All values of an entry: what is kept is read, and its section is drawn, measured by ``watcher``."""

    def __init__(self, entry: Entry, seed: int, kept: Kept, watcher: Watcher) -> None:
        self._entry, self._kept, self._watcher = entry, kept, watcher
        self._draw = drawing(entry, seed) if entry.section is not None else _nothing
        #: the SHA-256 of all that is kept, in row-major order, as far as it was taken
        self.digest = hashlib.sha256()
        drawn_apart = entry.section is None or sampling.is_independent(entry.initializer, entry.dtype)
        #: whether several threads may compute tiles at the same time
        self.parallel = kept.parallel and drawn_apart

    def tile(self, region: Region) -> tuple[Tensor, tuple[Tensor, list[Sums]]]:
        """The values of a region; and what to ``take``: what is kept of it, and the sums of what is drawn."""
        section = self._entry.section
        if section is None:
            values = self._kept.read(region)
            return values, (values, [])
        kept = [*region.along(section.dim, section.rest(self._entry.shape[section.dim]))]
        if kept == [region]:
            values = self._kept.read(region)
            return values, (values, [])
        values, drawn = torch.empty(region.sizes, dtype=self._entry.dtype, device="cpu"), []
        for part in kept:
            values[region.place_of(part, part.inside)].copy_(self._kept.read(part))
        for index, tile in self._draw(region):
            values[index].copy_(tile)
            drawn += self._watcher.parts(region.whole_of(index), tile)
        return values, (kept_of(self._entry, region, values), sums_of_all(drawn))

    def take(self, found: tuple[Tensor, list[Sums]]) -> None:
        """Add what a tile gave; called in the order of the tiles."""
        kept, sums = found
        if kept.numel():
            self.digest.update(bytes_view(kept))
        if sums:
            self._watcher.take(sums)


# -- kept buffers that look into the memory of parameters: in a model, they have what is written there ----------------


def leaders_of(plan: Plan, slots: Mapping[str, Slot]) -> dict[str, list[Leader]]:
    """For each saved buffer that follows parameters when these are written, those parameters."""
    entries = {entry.name: entry for entry in plan if entry.name in slots}
    followers = {e.name for e in entries.values() if e.kept and e.persistent and e.kind is Kind.BUFFER}
    if not followers:
        return {}
    written = {entry.name for entry in entries.values() if not entry.kept}
    memory = {name: memory_of(slots[name].tensor) for name in (*followers, *written)}
    found: dict[str, list[Leader]] = {}
    for pair in meeting(
        [(name, here) for name, here in memory.items() if here is not None],
        lambda name, owner: {name, owner} & followers != set() and {name, owner} & written != set(),
    ):
        name, leader = pair if pair[0] in followers else reversed(pair)
        found.setdefault(name, []).append((entries[leader], slots[leader].tensor))
    return found


def followed(name: str, tensor: Tensor, leaders: Sequence[Leader], seed: int) -> Tensor:
    """What a buffer has when the parameters whose memory it looks into have their values. The model does not change."""
    shards = [held(leader.detach()) for _, leader in leaders]
    tensors = [tensor.detach(), *(shard.local for shard in shards)]
    begins = [place_of(one)[1] for one in tensors]
    begin = min(begins) // _ALIGNMENT * _ALIGNMENT
    size = max(place + nbytes_of(one) for place, one in zip(begins, tensors, strict=True)) - begin
    if any((place - begin) % one.itemsize for place, one in zip(begins, tensors, strict=True)):
        raise TargetError(
            f"{name}: shares the memory of {leaders[0][0].name}, and one of them does not begin at a multiple of its "
            "elements' size; register a clone()"
        )
    memory = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
    views = [_view(memory, place - begin, one) for place, one in zip(begins, tensors, strict=True)]
    _flat(views[0]).copy_(_flat(tensors[0]))
    for (entry, _), shard, view in zip(leaders, shards, views[1:], strict=True):
        for part in shard.parts:
            for index, values in values_of(entry, seed, region=part.region):
                view[part.index][index].copy_(values)
    return views[0]


def _flat(tensor: Tensor) -> Tensor:
    """All that is between a tensor's first element in memory and its last, each once also where elements repeat."""
    tensor = tensor.conj() if tensor.is_conj() else tensor
    tensor = torch._neg_view(tensor) if tensor.is_neg() else tensor
    return tensor.as_strided((extent(tensor),), (1,))


def _view(memory: torch.UntypedStorage, begin: int, like: Tensor) -> Tensor:
    """A tensor of the same form that begins at a byte of a memory."""
    view = torch.empty(0, dtype=like.dtype, device="cpu")
    view.set_(memory, begin // like.itemsize, like.shape, like.stride())
    view = view.conj() if like.is_conj() else view
    return torch._neg_view(view) if like.is_neg() else view
