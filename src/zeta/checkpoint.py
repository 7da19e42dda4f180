"""Write a plan straight to safetensors files, one tile at a time, with a manifest that can prove it later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from zeta import dtypes, sampling
from zeta.apply import Progress, check_target, has_address, values_of
from zeta.errors import LayerTypeError, TargetError, ZetaError, listed
from zeta.files import INDEX, MANIFEST, Manifest, Stored, Writer, check_folder, memory, sync, work
from zeta.names import Slot, walk
from zeta.planning import check_dtype, tie_problems
from zeta.plans import Entry, Plan
from zeta.regions import Region
from zeta.rules import Kind

Index = tuple[slice, ...]
#: called with every tile that was computed: its entry, where in the whole it lies, and its values
Watch = Callable[[Entry, Index, Tensor], None]


def save_files(
    model: nn.Module, request: Manifest, folder: Path, *, force: bool, watch: Watch, progress: Progress | None
) -> int:
    """Write a checkpoint into ``folder``, complete or not at all; return how many bytes an interrupted run had written.

    Every value is computed, those of an interrupted run's files as well: what is in them is kept where it is the same.
    """
    if not isinstance(model, nn.Module):
        raise LayerTypeError(f"expected a torch.nn.Module, got {model!r}")
    files = request.layout
    sources = _check(model, request.plan)
    check_folder(folder, force=force)
    with work(folder, request, force=force) as unfinished:
        unfinished.reserve(sum(shard.size for shard in files.shards))
        run = _Run(sources, request.seed, files.nbytes, watch, progress)
        with Writer() as writer:
            for shard in files.shards:
                writer.begin(unfinished.part(shard.name), shard.header)
                for item in shard.stored:
                    run.write(item, writer)
                writer.finish(shard.size)
        manifest = replace(request, kept=run.kept).to_json()
        texts = {name: text for name, text in ((INDEX, files.index), (MANIFEST, manifest)) if text is not None}
        for name, text in texts.items():
            unfinished.part(name).write_text(text, encoding="utf-8")
            sync(unfinished.part(name))
        check_folder(folder, force=force)  # somebody may have written there meanwhile
        unfinished.publish((*files.names, MANIFEST))
    return writer.found


class _Run:
    """Where the values come from, and who is told of them."""

    def __init__(
        self, sources: dict[str, Slot], seed: int, total: int, watch: Watch, progress: Progress | None
    ) -> None:
        self.kept: dict[str, str] = {}
        self._sources = sources
        self._seed = seed
        self._total = total
        self._done = 0
        self._watch = watch
        self._progress = progress

    def write(self, item: Stored, writer: Writer) -> None:
        """Compute an entry's values, tile by tile, and hand them to the writer."""
        entry, digest, position = item.entry, hashlib.sha256(), 0
        for index, tile in _tiles(entry, self._sources[entry.name], self._seed):
            writer.write(tile, [offset + position for offset in item.offsets])
            position += tile.nbytes
            if entry.kept:
                digest.update(memory(tile))
            self._watch(entry, index, tile)
            self._done += tile.nbytes * len(item.names)
            self._tell(entry.name)
        if entry.kept:
            self.kept[entry.name] = digest.hexdigest()
        for name in item.names:
            self._tell(name)

    def _tell(self, name: str) -> None:
        if self._progress is not None:
            self._progress(name, self._done, self._total)


def _tiles(entry: Entry, slot: Slot, seed: int) -> Iterator[tuple[Index, Tensor]]:
    """An entry's values in row-major order of bounded tiles: computed, or the model's own."""
    if not entry.kept:
        yield from values_of(entry, seed)
        return
    tensor = slot.tensor.detach()
    for index, _ in Region.whole(entry.shape).tiles(sampling.TILE_BYTES // entry.dtype.itemsize):
        yield index, tensor[index].to(device="cpu", dtype=entry.dtype).resolve_conj().resolve_neg().contiguous()


def _check(model: nn.Module, plan: Plan) -> dict[str, Slot]:
    """Every entry's slot, after checking that its values can be computed or copied."""
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
                if entry.kept and entry.persistent:
                    check_target(entry, slot)
                    _check_plain(slot)
                _check_writable(entry)
            except ZetaError as error:
                problems.append(f"{entry.name}: {'is kept, but ' if entry.kept else ''}{error}")
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
    planned = {name for entry in plan for name in (entry.name, *entry.ties)}
    problems += [f"{name}: is not in the plan" for name in slots if name not in planned]
    if problems:
        raise TargetError(listed("this plan cannot be saved for this model; nothing was written:", problems))
    return slots


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


def _check_writable(entry: Entry) -> None:
    """Raise ``ZetaError`` where a model in the plan's dtypes could not be initialized either."""
    check_dtype(entry.initializer, entry.dtype)
    if not entry.kept and entry.kind is not Kind.BUFFER and not dtypes.is_drawable(entry.dtype):
        raise TargetError(
            f"has dtype {dtypes.name_of(entry.dtype)}; save the floating-point model and quantize it afterwards, or "
            "use Keep()"
        )
