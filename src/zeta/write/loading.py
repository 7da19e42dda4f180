"""Copy what a checkpoint gives into the tensors of a model, or into the shards of them that are here, box by box."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.dtypes import bits
from zeta.base.progress import Done
from zeta.compute.assembled import TILE, Reader
from zeta.compute.stream.regions import Region
from zeta.errors import TargetError, ZetaError, listed
from zeta.resolve.adapting import Adaption, Given
from zeta.resolve.adapting.arrays import Array, stored_in
from zeta.write.apply import Progress, writable
from zeta.write.shards import held
from zeta.write.targets import check_apart, check_target, meeting, memory_of, shared


def check_loadable(adaption: Adaption) -> None:
    """Raise ``TargetError`` for tensors that the checkpoint's values cannot be written to; all of them are listed."""
    fit, problems = adaption.fit, []
    for entry in fit.entries:
        if entry.name in adaption.given:
            try:
                check_target(entry, fit.slots[entry.name])
                check_apart(fit.slots[entry.name])
                held(fit.slots[entry.name].tensor)
            except ZetaError as error:
                problems.append(f"{entry.name}: {error}")
    memory = [(name, here) for name in adaption.given if (here := memory_of(fit.slots[name].tensor)) is not None]
    problems += shared(memory, fit.slots.values(), fit.plan)
    problems += _read_and_written(adaption, memory)
    problems += tie_problems(adaption)
    if problems:
        raise TargetError(listed("these tensors cannot be loaded; nothing was changed:", problems))


def tie_problems(adaption: Adaption) -> list[str]:
    """The tensors of the model that the checkpoint has under several names, with several values."""
    return [
        f"{name}: is one tensor in the model, and the checkpoint has other values as {other.text} than as {one.text}"
        for name, one, other in adaption.ties
        if not _equal(one, other)
    ]


def load(adaption: Adaption, progress: Progress | None = None) -> None:
    """Write everything that is given. What is here of a sharded tensor is read, and no more."""
    fit = adaption.fit
    todo = [(name, given, held(fit.slots[name].tensor)) for name, given in adaption.given.items()]
    done = Done(sum(here.local.nbytes for _, _, here in todo), progress)
    reader = Reader()
    for number, (name, given, here) in enumerate(todo):
        try:
            with writable([here.local]):
                for memory, region in here.places():
                    for place, index in boxes_of(given, region):
                        values = reader.read(given.values, index)
                        memory[place].copy_(converted(values, memory.dtype, given.values))
        except ZetaError as error:
            raise type(error)(f"{name}: {error}\n{number} of {len(todo)} tensors were loaded before") from error
        done.add(name, here.local.nbytes)


def boxes_of(given: Given, region: Region) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """What is given of a region, cut into boxes: the index in the region, and that in the given values."""
    if given.spans is None:
        for index, part in region.tiles(TILE):
            yield index, part.slices
        return
    dim, begun = given.dim, 0
    for begin, end in given.spans:
        for part in region.along(dim, [(begin, end)]):
            for index, tile in part.tiles(TILE):
                shift = begun - begin
                along = tile.slices[dim]
                moved = slice(along.start + shift, along.stop + shift)
                yield region.place_of(part, index), (*tile.slices[:dim], moved, *tile.slices[dim + 1 :])
        begun += end - begin


def _read_and_written(adaption: Adaption, memory: list[tuple[str, Tensor]]) -> list[str]:
    """Tensors that are written and that others are read from, which would read what was written before."""
    written, read = dict(memory), dict[str, Tensor]()
    for name, given in adaption.given.items():
        for stored in stored_in(given.values):
            source = stored.source.memory(stored.name)
            found = None if source is None else memory_of(source)
            if found is None:
                continue
            if stored is given.values and name in written and _is(written[name], found):
                del written[name]  # it is read from itself, and keeps its values
            else:
                read[f"\0{stored.name}, which is read for {name}"] = found
    pairs = meeting([*written.items(), *read.items()], lambda one, other: (one in read) is not (other in read))
    return [
        f"{name}: has the memory of the source's {text[1:]}; pass copies of the source's tensors"
        for text, name in sorted((one, other) if one in read else (other, one) for one, other in pairs)
    ]


def _is(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements of the same memory."""
    places = [(each.data_ptr(), each.shape, each.stride(), each.dtype) for each in (one, other)]
    return places[0] == places[1]


def converted(values: Tensor, dtype: torch.dtype, what: Array) -> Tensor:
    """The values in a dtype; ``TargetError`` if finite ones would become infinite or not a number."""
    found = values.to(dtype)
    both = values.is_floating_point() and dtype.is_floating_point
    if both and dtypes.largest(dtype) < dtypes.largest(values.dtype):
        lost = values.isfinite() & ~found.to(values.dtype).isfinite()
        if bool(lost.any()):
            largest = float(values[lost].abs().max())
            raise TargetError(
                f"{what.text} of the checkpoint has {largest:.6g}, which {dtypes.name_of(dtype)} cannot hold"
            )
    return found


def _equal(one: Array, other: Array) -> bool:
    """Whether two arrays have the same bits."""
    reader = Reader()
    return (one.shape, one.dtype) == (other.shape, other.dtype) and all(
        torch.equal(bits(reader.read(one, region.slices)), bits(reader.read(other, region.slices)))
        for _, region in Region.whole(one.shape).tiles(TILE)
    )
