"""Compute every value again and compare, bit by bit: a model in memory, or a checkpoint on disk.

Orthogonal matrices come out of products in floating point, whose last bits belong to a linear algebra library: they are
compared within the tolerance that their initializer states.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import torch
from torch import Tensor, nn

from zeta import dtypes
from zeta.apply import Job, Only, prepare, values_of
from zeta.digests import Claim, claim_of
from zeta.errors import CheckpointError, FormatError
from zeta.escaping import visible
from zeta.files import INDEX, MANIFEST, TENSORS, Layout, Manifest, Shard, Stored, memory
from zeta.plans import Entry, Plan
from zeta.ranks import disagreements, failures, together
from zeta.reading import LARGEST_DOCUMENT, Text, opened, parse, read_bytes, shown
from zeta.regions import Region
from zeta.sampling import tolerance
from zeta.submodels import Naming, part_of

_BLOCK_BYTES: Final = 2**22
_MOST_SHOWN: Final = 20


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One tensor that is not what the plan gives: how many elements, and the first of them."""

    name: str
    count: int
    first: tuple[int, ...]
    found: str
    expected: str

    def __str__(self) -> str:
        place = ", ".join(map(str, self.first))
        return visible(
            f"{self.name}: {self.count:,} element(s) differ, first at [{place}]: "
            f"found {self.found}, expected {self.expected}"
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of computing every value again and comparing bit by bit.

    ``close`` names orthogonal tensors that another linear algebra library computed: equal within its tolerance only.
    """

    seed: int
    compared: int
    kept: tuple[str, ...]
    differences: tuple[Difference, ...]
    problems: tuple[str, ...] = ()
    close: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every bit agrees."""
        return not self.differences and not self.problems

    def summary(self) -> str:
        """One line."""
        kept = f", {len(self.kept)} kept as they were" if self.kept else ""
        if self.ok:
            close = f" ({len(self.close)} orthogonal within rounding)" if self.close else ""
            return f"verified: {self.compared} tensors equal, bit by bit{close}, those of seed {self.seed}{kept}"
        problems = len(self.differences) + len(self.problems)
        return f"NOT verified: {problems} problem(s) in {self.compared} tensors (seed {self.seed})"

    def __str__(self) -> str:
        found = [*self.problems, *map(str, self.differences)]
        more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
        return "\n".join([*map(visible, found[:_MOST_SHOWN]), *more, self.summary()])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "compared": self.compared,
            "kept": list(self.kept),
            "close": list(self.close),
            "problems": list(self.problems),
            "differences": [{**item.__dict__, "first": list(item.first)} for item in self.differences],
        }


class Comparison:
    """Compares an entry's values with the expected ones, tile by tile, bit by bit.

    Where there is a ``tolerance``, values may differ by it, and by the rounding to their dtype; ``close`` then says
    that some did.
    """

    def __init__(self, name: str, tolerance: float = 0.0) -> None:
        self.name = name
        self.tolerance = tolerance
        self.close = False
        self.count = 0
        self.first: tuple[tuple[int, ...], str, str] | None = None

    def add(self, index: tuple[slice, ...], found: Tensor, expected: Tensor) -> None:
        """Compare one tile, found at ``index`` of the whole tensor."""
        one, two = dtypes.bits(found), dtypes.bits(expected)
        if torch.equal(one, two):
            return
        differs = one != two
        if differs.ndim > found.ndim:  # complex: either part
            differs = differs.any(-1)
        if self.tolerance and bool(differs.any()):
            wide = torch.complex128 if found.is_complex() else torch.float64
            near_one, near_two = found.to(wide), expected.to(wide)
            rounding = 2 * dtypes.relative_rounding(found.dtype) * near_two.abs()
            near = (near_one - near_two).abs() <= self.tolerance + rounding
            self.close = self.close or bool((differs & near).any())
            differs &= ~near
        count = int(differs.sum())
        if not count:
            return
        if self.first is None:
            where = tuple(int(i) for i in differs.nonzero()[0])
            place = tuple(part.start + i for part, i in zip(index, where, strict=True))
            self.first = (place, str(found[where].item()), str(expected[where].item()))
        self.count += count

    def result(self) -> Iterable[Difference]:
        """The difference, if there is one."""
        if self.first is not None:
            place, found, expected = self.first
            yield Difference(name=self.name, count=self.count, first=place, found=found, expected=expected)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A model that was found to fit the plan, and is not compared yet."""

    seed: int
    jobs: Sequence[Job]
    kept: tuple[str, ...]
    claim: Claim

    def answer(self) -> Verification:
        """Compare the model's parameters and buffers with what the plan gives."""
        differences: list[Difference] = []
        close: list[str] = []
        for job in self.jobs:
            if job.inversion is not None:
                for number, (stored, value) in enumerate(job.inversion.changes):
                    name = f"{job.entry.name} (stored tensor {number})"
                    comparison = Comparison(name)
                    comparison.add(Region.whole(value.shape).slices, stored.detach().cpu(), value)
                    differences += comparison.result()
            else:
                local = job.held.local
                comparison = Comparison(job.entry.name, tolerance(job.entry.initializer, local.dtype))
                for part in job.held.parts:
                    found, begin = local[part.index], part.region.offsets
                    tiles = values_of(job.entry, self.seed, region=part.region, dtype=local.dtype, device=local.device)
                    for index, expected in tiles:
                        place = tuple(slice(b + i.start, b + i.stop) for b, i in zip(begin, index, strict=True))
                        comparison.add(place, found[index].to(expected.device), expected)
                differences += comparison.result()
                close += [job.entry.name] if comparison.close else []
        return self.result(compared=len(self.jobs), differences=tuple(differences), close=tuple(close))

    def result(self, **found: Any) -> Verification:
        """A result for this model."""
        return Verification(seed=self.seed, kept=self.kept, **found)


def question(model: nn.Module, plan: Plan, seed: int, only: Only | None, naming: Naming | None = None) -> Question:
    """Check that plan and model fit, as ``prepare`` does and with its errors."""
    jobs = prepare(model, plan, seed, only, naming)
    kept = tuple(entry.name for entry in part_of(plan, model, naming) if entry.kept)
    return Question(seed=seed, jobs=jobs, kept=kept, claim=claim_of(plan, seed, only, jobs))


def reduced(ask: Callable[[], Question], groups: Sequence[Any]) -> Verification:
    """What all processes of the groups find, the same in each. Every one of them must call it.

    First they compare what they were asked; where that differs, or one of them fails, that is the result.
    """
    asked: list[Question] = []

    def claim() -> Claim:
        asked.append(ask())
        return asked[0].claim

    failed, problems = disagreements(claim, groups)
    [mine] = asked
    if failed or problems:
        differing = (f"the processes do not agree: {problem}" for problem in problems)
        return mine.result(compared=0, differences=(), problems=(*failed, *differing))
    found = together(mine.answer, groups)
    finished = {rank: one for rank, one in found.items() if isinstance(one, Verification)}
    return mine.result(
        compared=max(one.compared for one in finished.values()),
        problems=tuple(failures(found)),
        differences=tuple(
            replace(difference, name=f"rank {rank}: {difference.name}")
            for rank, one in finished.items()
            for difference in one.differences
        ),
        close=tuple(dict.fromkeys(name for one in finished.values() for name in one.close)),
    )


# -- a folder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was found in a part of a folder."""

    problems: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    close: tuple[str, ...] = ()

    def __add__(self, other: _Found) -> _Found:
        return _Found(
            problems=self.problems + other.problems,
            differences=self.differences + other.differences,
            close=self.close + other.close,
        )


def verify_folder(folder: Path) -> Verification:
    """Compare a checkpoint with what its own manifest says: index, headers, every value, and nothing beside them."""
    manifest = Manifest.read(folder / MANIFEST)
    files = manifest.layout
    if not any(os.path.lexists(folder / shard.name) for shard in files.shards):
        raise CheckpointError(f"{folder / files.shards[0].name} does not exist")
    try:
        found = sum((_verify_file(folder, shard, files, manifest) for shard in files.shards), _Found())
        problems = [*found.problems, *_index_problems(folder, files), *_strangers(folder, files)]
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from error
    return Verification(
        seed=manifest.seed,
        compared=sum(len(item.names) for shard in files.shards for item in shard.stored),
        kept=tuple(manifest.kept),
        differences=found.differences,
        problems=tuple(problems),
        close=found.close,
    )


def _verify_file(folder: Path, shard: Shard, files: Layout, manifest: Manifest) -> _Found:
    path = folder / shard.name
    try:
        with opened(path) as file:
            first, size = file.read(max(len(other.header) for other in files.shards)), os.fstat(file.fileno()).st_size
            owner = next((other.name for other in files.shards if first.startswith(other.header)), None)
            if owner not in (shard.name, None):
                return _Found(problems=(f"{shard.name}: has the header of {owner}",))
            if size != shard.size:
                return _Found(problems=(f"{shard.name}: {size:,} bytes, expected {shard.size:,}",))
            header = () if owner else (f"{shard.name}: the header is not the one that the plan gives",)
            return sum((_compare_stored(item, file, manifest) for item in shard.stored), _Found(problems=header))
    except FileNotFoundError:
        return _Found(problems=(f"{shard.name}: is missing",))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _compare_stored(item: Stored, file: BinaryIO, manifest: Manifest) -> _Found:
    entry = item.entry
    if entry.kept:
        digests = {
            name: _digest(file, offset, entry.nbytes) for name, offset in zip(item.names, item.offsets, strict=True)
        }
        other = [name for name, digest in digests.items() if digest != manifest.kept.get(entry.name)]
        return _Found(differences=tuple(_other_bytes(name, entry) for name in other))
    comparisons = [Comparison(name, tolerance(entry.initializer, entry.dtype)) for name in item.names]
    position = 0
    for index, values in values_of(entry, manifest.seed):
        found = torch.empty_like(values)
        for comparison, offset in zip(comparisons, item.offsets, strict=True):
            file.seek(offset + position)
            _read(file, memory(found))
            comparison.add(index, found, values)
        position += values.nbytes
    return _Found(
        differences=tuple(difference for comparison in comparisons for difference in comparison.result()),
        close=tuple(comparison.name for comparison in comparisons if comparison.close),
    )


def _other_bytes(name: str, entry: Entry) -> Difference:
    return Difference(
        name=name,
        count=entry.numel,
        first=(0,) * len(entry.shape),
        found="other bytes",
        expected="the kept ones",
    )


def _digest(file: BinaryIO, offset: int, size: int) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(min(_BLOCK_BYTES, size)))
    file.seek(offset)
    while size:
        part = block[: min(_BLOCK_BYTES, size)]
        _read(file, part)
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def _read(file: BinaryIO, into: memoryview) -> None:
    """Read as many bytes as ``into`` takes."""
    if file.readinto(into) < len(into):  # type: ignore[attr-defined]
        raise OSError("it became shorter while it was read")


class _Index(msgspec.Struct):
    """What ``model.safetensors.index.json`` says."""

    metadata: dict[Text, Any]
    weight_map: dict[Text, Text]


def _index_problems(folder: Path, files: Layout) -> list[str]:
    """What the index says otherwise than the plan."""
    if files.index is None:
        return []
    try:
        text = read_bytes(folder / INDEX, LARGEST_DOCUMENT)
    except FileNotFoundError:
        return [f"{INDEX}: is missing"]
    except FormatError as error:
        return [f"{INDEX}: {error}"]
    if text == files.index.encode():
        return []
    try:
        found, expected = parse(text, _Index), parse(files.index, _Index)
    except FormatError as error:
        return [f"{INDEX}: cannot be read: {error}"]
    lies = [
        f"{INDEX}: {key} {name} is {shown(said.get(name))}, expected {right.get(name)!r}"
        for key, said, right in (
            ("metadata", found.metadata, expected.metadata),
            ("weight_map", found.weight_map, expected.weight_map),
        )
        for name in {**right, **said}
        if said.get(name) != right.get(name)
    ]
    return lies or [f"{INDEX}: is not the text that the plan gives"]


def _strangers(folder: Path, files: Layout) -> list[str]:
    """Files that a reader of the folder may take for a part of the checkpoint."""
    endings = (TENSORS.removeprefix("model"), INDEX.removeprefix("model"))
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))
    return [f"{name}: does not belong to this checkpoint" for name in names if name not in files.names]
