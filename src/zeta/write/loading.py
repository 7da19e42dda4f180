"""Copy what a checkpoint gives into the tensors of a model, or into the shards of them that are here, box by box."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from zeta.base.dtypes import bits
from zeta.base.progress import Done
from zeta.compute.assembled import TILE, Reader
from zeta.compute.stream.regions import Region
from zeta.errors import TargetError, ZetaError, listed
from zeta.resolve.adapting import Adaption, Given
from zeta.resolve.adapting.arrays import Array
from zeta.write.apply import Progress, writable
from zeta.write.shards import held
from zeta.write.targets import check_target, memory_of, shared


def check_loadable(adaption: Adaption) -> None:
    """Raise ``TargetError`` for tensors that the checkpoint's values cannot be written to; all of them are listed."""
    fit, problems = adaption.fit, []
    for entry in fit.entries:
        if entry.name in adaption.given:
            try:
                check_target(entry, fit.slots[entry.name])
                held(fit.slots[entry.name].tensor)
            except ZetaError as error:
                problems.append(f"{entry.name}: {error}")
    memory = [(name, here) for name in adaption.given if (here := memory_of(fit.slots[name].tensor)) is not None]
    problems += shared(memory, fit.slots.values(), fit.plan)
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
                        memory[place].copy_(reader.read(given.values, index))
        except ZetaError as error:
            raise type(error)(f"{error}\n{number} of {len(todo)} tensors were loaded before") from error
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


def _equal(one: Array, other: Array) -> bool:
    """Whether two arrays have the same bits."""
    reader = Reader()
    return (one.shape, one.dtype) == (other.shape, other.dtype) and all(
        torch.equal(bits(reader.read(one, region.slices)), bits(reader.read(other, region.slices)))
        for _, region in Region.whole(one.shape).tiles(TILE)
    )
