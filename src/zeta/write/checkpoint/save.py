"""Write a plan directly to safetensors files, tile by tile, with a manifest from which the files can be verified."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.modules import check_module, named_modules_of
from zeta.base.tensors import has_address
from zeta.compute import sampling
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.compute.sums import Sums, sums_of_all
from zeta.compute.values import values_of
from zeta.errors import TargetError, ZetaError, listed, notice
from zeta.resolve.adapting import Given
from zeta.resolve.fitting import tie_problems
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, walk
from zeta.resolve.solving import check_dtype
from zeta.rules import Kind
from zeta.write.apply import Progress
from zeta.write.checkpoint import (
    INDEX,
    MANIFEST,
    Block,
    Manifest,
    Stored,
    Writer,
    blocks,
    check_folder,
    work,
)
from zeta.write.checkpoint.keeping import (
    TILE_BYTES,
    UNWATCHED,
    Content,
    Watcher,
    followed,
    leaders_of,
    of_checkpoint,
    of_tensor,
)
from zeta.write.targets import check_apart, check_negated, check_target, memory_of, shared

T = TypeVar("T")

_NOTHING: Final[Mapping[str, Given]] = MappingProxyType({})
_NO_FILES: Final[Mapping[str, bytes]] = MappingProxyType({})


def save_files(
    model: nn.Module,
    request: Manifest,
    folder: Path,
    *,
    force: bool,
    watch: Callable[[Entry], Watcher],
    progress: Progress | None,
    given: Mapping[str, Given] = _NOTHING,
    copies: Mapping[str, bytes] = _NO_FILES,
) -> int:
    """Write a checkpoint into ``folder``, as a whole or not at all.

    What the plan keeps is from the model, or as far as it is ``given``, from another checkpoint. ``copies`` are the
    contents of the files that the request says are copied.

    Every value is computed, also if an interrupted run left files: bytes in them that are equal are not written again,
    and their number is returned. After all checks, ``watch`` makes a
    watcher for each entry that is drawn and saved.
    """
    check_module(model)
    files = request.layout
    slots = _check(model, request.plan, given)
    leaders = leaders_of(request.plan, {name: slot for name, slot in slots.items() if name not in given})
    _warn_of_extra_state(model)
    check_folder(folder, force=force, settings=request.beside)
    watchers = {entry.name: watch(entry) for entry in request.plan if entry.persistent and not entry.kept}
    kept: dict[str, Any] = {}
    with work(folder, request, force=force) as unfinished:
        unfinished.reserve(sum(shard.size for shard in files.shards))
        with Writer() as writer:
            run = _Run(writer, files.nbytes, progress)
            for shard in files.shards:
                writer.begin(unfinished.open(shard.name), shard.header)
                for item in blocks(shard.stored):
                    if isinstance(item, Block):
                        run.draw_together(item, request.seed, watchers)
                    elif item.entry.kept or item.entry.section is not None:
                        name, dtype = item.entry.name, item.entry.dtype
                        if name in given:
                            source = of_checkpoint(given[name], dtype)
                        elif name in leaders:
                            tensor = followed(name, slots[name].tensor, leaders[name], request.seed)
                            source = of_tensor(tensor, dtype)
                        else:
                            source = of_tensor(slots[name].tensor, dtype)
                        content = Content(item.entry, request.seed, source, watchers.get(name, UNWATCHED))
                        run.copy(item, content)
                        kept[name] = content.digest  # the tiles may still be on their way
                    else:
                        run.draw(item, request.seed, watchers[item.entry.name])
                writer.finish(shard.size)
        manifest = request.finished({name: digest.hexdigest() for name, digest in kept.items()}).to_json()
        index = {} if files.index is None else {INDEX: files.index}
        texts = {**index, **request.settings, MANIFEST: manifest}
        for name, data in {**copies, **{name: text.encode() for name, text in texts.items()}}.items():
            unfinished.write(name, data)
        unfinished.publish()
    return writer.found


class _Run:
    """Hands tiles to the writer, and reports the progress."""

    def __init__(self, writer: Writer, total: int, progress: Progress | None) -> None:
        self._writer = writer
        self._total = total
        self._done = 0
        self._progress = progress

    def draw(self, item: Stored, seed: int, watcher: Watcher) -> None:
        """Write the values of an entry's initializer; if possible, the writer's threads also draw them."""
        entry, start = item.entry, 0
        if sampling.is_independent(entry.initializer, entry.dtype):
            key = parameter_key(seed, entry.name)
            for _, region in Region.whole(entry.shape).tiles(TILE_BYTES // entry.dtype.itemsize):
                job = functools.partial(_drawn, entry, key, region, watcher)
                self._write(item, region.start, region.numel, job, watcher.take)
        else:
            for index, values in values_of(entry, seed):
                job = functools.partial(_same, (values, sums_of_all(watcher.parts(index, values))))
                self._write(item, start, values.numel(), job, watcher.take)
                start += values.numel()
        self._tell(*item.names)

    def draw_together(self, block: Block, seed: int, watchers: Mapping[str, Watcher]) -> None:
        """Write the values of a block of small entries."""

        def written(sums: list[list[Sums]]) -> None:
            for item, of_one in zip(block.stored, sums, strict=True):
                watchers[item.entry.name].take(of_one)
                self._done += item.entry.nbytes * len(item.names)
                self._tell(*item.names)

        job = functools.partial(_drawn_together, block, seed, watchers)
        if not sampling.is_native():
            job = functools.partial(_same, job())
        self._writer.write(job, [block.start], written)

    def copy(self, item: Stored, content: Content) -> None:
        """Write an entry of which all or a part is kept."""
        for _, region in Region.whole(item.entry.shape).tiles(TILE_BYTES // item.entry.dtype.itemsize):
            job = functools.partial(content.tile, region)
            if not content.parallel:
                job = functools.partial(_same, job())
            self._write(item, region.start, region.numel, job, content.take)
        self._tell(*item.names)

    def _write(
        self, item: Stored, start: int, count: int, job: Callable[[], tuple[Tensor, T]], take: Callable[[T], None]
    ) -> None:
        """Hand ``count`` elements, from element ``start`` on, to the writer."""
        size = item.entry.dtype.itemsize

        def written(result: T) -> None:
            take(result)
            self._done += count * size * len(item.names)
            self._tell(item.entry.name)

        self._writer.write(job, [offset + start * size for offset in item.offsets], written)

    def _tell(self, *names: str) -> None:
        if self._progress is not None:
            for name in names:
                self._progress(name, self._done, self._total)


def _drawn(entry: Entry, key: int, region: Region, watcher: Watcher) -> tuple[Tensor, list[Sums]]:
    values = sampling.sample(entry.initializer, key=key, region=region, dtype=entry.dtype, axes=entry.axes)
    values = sampling.with_zero_row(values, region, entry.padding_idx)
    return values, sums_of_all(watcher.parts(region.slices, values))


def _drawn_together(block: Block, seed: int, watchers: Mapping[str, Watcher]) -> tuple[Tensor, list[list[Sums]]]:
    memory = block.drawn(seed)
    parts = [
        watchers[item.entry.name].parts(Region.whole(values.shape).slices, values) if values.numel() else []
        for item, values in zip(block.stored, block.views(memory), strict=True)
    ]
    sums = iter(sums_of_all([part for of_one in parts for part in of_one]))
    return memory, [list(itertools.islice(sums, len(of_one))) for of_one in parts]


def _same(what: T) -> T:
    return what


def _check(model: nn.Module, plan: Plan, given: Mapping[str, Given]) -> dict[str, Slot]:
    """The slots by name, after checking that every entry's values can be computed, or copied if they are not given."""
    slots = {slot.name: slot for slot in walk(model)}
    problems: list[str] = []
    for entry in plan:
        slot = slots.get(entry.name)
        if slot is None or slot.shape != entry.shape:
            problems.append(f"{entry.name}: the model has no such parameter of shape {tuple(entry.shape)}")
        elif slot.parametrization is not None:
            problems.append(f"{entry.name}: is parametrized; initialize a real model and save its state_dict instead")
        else:
            try:
                is_kept = entry.kept or entry.section is not None
                if is_kept and entry.persistent and entry.name not in given:
                    check_target(entry, slot)
                    _check_plain(slot)
                if not entry.kept:
                    check_apart(slot)
                _check_writable(entry)
            except ZetaError as error:
                what = "is kept, but " if entry.kept else "is kept in part, but " if entry.section is not None else ""
                problems.append(f"{entry.name}: {what}{error}")
        problems += [
            f"{tie}: the model has no such parameter, to be tied to {entry.name}"
            for tie in entry.ties
            if tie not in slots
        ]
        problems += [
            f"{name}: is {'' if entry.persistent else 'not '}to be saved by the plan, but is a buffer with persistent="
            f"{slots[name].persistent}; make it persistent under every name or none, and plan this model"
            for name in (entry.name, *entry.ties)
            if name in slots and slots[name].persistent != entry.persistent
        ]
    problems += tie_problems(plan, slots, lambda entry: entry.persistent)
    written = [
        (entry.name, memory)
        for entry in plan
        if not entry.kept and entry.name in slots
        if (memory := memory_of(slots[entry.name].tensor)) is not None
    ]
    problems += shared(written, slots.values(), plan)
    planned = {name for entry in plan for name in (entry.name, *entry.ties)}
    problems += [f"{name}: is not in the plan" for name in slots if name not in planned]
    if problems:
        raise TargetError(listed("this plan cannot be saved for this model; nothing was written:", problems))
    return slots


def _warn_of_extra_state(model: nn.Module) -> None:
    """Give a notice about ``get_extra_state``: ``state_dict`` has its result, but a checkpoint has only tensors."""
    left = [
        f"{name}._extra_state".lstrip(".")
        for name, module in named_modules_of(model)
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    if left:
        notice(
            f"{', '.join(left[:3])}{f' and {len(left) - 3} more' if len(left) > 3 else ''}: what get_extra_state gives "
            "is no tensor of the plan and is not saved; load with strict=False"
        )


def _check_plain(slot: Slot) -> None:
    """Raise ``TargetError`` unless the tensor's bytes are its values."""
    tensor = slot.tensor
    if tensor.layout is not torch.strided:
        raise TargetError(
            f"has layout {str(tensor.layout).removeprefix('torch.')}, which safetensors lacks; make it dense with "
            ".to_dense()"
        )
    if not has_address(tensor):
        raise TargetError(f"is a {type(tensor.data).__name__} without memory of its own; make it a plain tensor")
    check_negated(tensor)


def _check_writable(entry: Entry) -> None:
    """Raise ``ZetaError`` for an entry that could not be initialized in a model either."""
    check_dtype(entry.initializer, entry.dtype)
    if not entry.kept and entry.kind is not Kind.BUFFER and not dtypes.is_drawable(entry.dtype):
        raise TargetError(
            f"has dtype {dtypes.name_of(entry.dtype)}; save the floating-point model and quantize it afterwards, or "
            "use Keep()"
        )
