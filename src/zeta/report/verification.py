"""Compute every value again and compare bit by bit: a model in memory, or a checkpoint on disk.

The last bits of orthogonal matrices depend on the linear algebra library that computes them. They are compared within
the tolerance that their initializer states.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import torch
from torch import Tensor

from zeta.base import dtypes, html
from zeta.base.escaping import visible
from zeta.base.progress import Done
from zeta.base.reading import LARGEST_DOCUMENT, LARGEST_SETTINGS, Text, opened, parse, read_bytes, shown
from zeta.base.text import count_text
from zeta.compute.sampling import Request, fill_, tolerance
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.compute.values import values_of
from zeta.errors import CheckpointError, FormatError
from zeta.initializers.elementwise import ELEMENTWISE
from zeta.report.bitwise import Comparison, TensorDifference
from zeta.report.digests import Claim, claim_of
from zeta.report.ranks import disagreements, failures, together
from zeta.resolve.fitting import Fit
from zeta.resolve.plans import Entry
from zeta.write.apply import Job, Progress, prepare
from zeta.write.checkpoint import INDEX, MANIFEST, TENSORS, Block, Layout, Manifest, Shard, Stored, blocks, bytes_view
from zeta.write.checkpoint.settings import differences

#: bytes that are read and hashed at a time
_BLOCK_BYTES: Final = 2**22
#: problems and differences that are printed
_MOST_SHOWN: Final = 20
#: Small tensors (at most _SMALL elements) among this many jobs are drawn in one call, which saves a call per tensor.
_TOGETHER: Final = 1024
_SMALL: Final = 2**13


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of computing every value again and comparing bit by bit.

    ``close`` names orthogonal tensors that are equal only within their tolerance, because another linear algebra
    library computed them.
    """

    seed: int
    compared: int
    kept: tuple[str, ...]
    differences: tuple[TensorDifference, ...]
    problems: tuple[str, ...] = ()
    close: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every bit agrees."""
        return not self.differences and not self.problems

    @property
    def summary(self) -> str:
        """One line."""
        compared = count_text(self.compared, "tensor")
        kept = f", {len(self.kept)} kept as they were" if self.kept else ""
        if self.ok:
            close = f" ({len(self.close)} orthogonal within rounding)" if self.close else ""
            return f"verified: {compared} equal, bit by bit{close}, those of seed {self.seed}{kept}"
        problems = len(self.differences) + len(self.problems)
        return f"NOT verified: {problems} problem(s) in {compared} (seed {self.seed})"

    def __repr__(self) -> str:
        found = f"{len(self.differences) + len(self.problems)} problem(s)"
        return f"Verification({count_text(self.compared, 'tensor')}, seed {self.seed}, {'ok' if self.ok else found})"

    def __str__(self) -> str:
        found = [*self.problems, *map(str, self.differences)]
        more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
        return "\n".join([*map(visible, found[:_MOST_SHOWN]), *more, self.summary])

    def _repr_html_(self) -> str:
        parts = [html.lines([self.summary], bold=True), html.lines(self.problems)]
        if self.differences:
            rows = [
                (item.name, f"{item.count:,}", str(list(item.first)), item.found, item.expected)
                for item in self.differences
            ]
            headings = ("name", "elements that differ", "first at", "found", "expected")
            title = f"{count_text(len(rows), 'tensor')} that differ"
            parts.append(html.table_section(title, headings, rows, right=(headings[1],)))
        return html.page(*parts)

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


@dataclass(frozen=True, kw_only=True)
class PreparedVerification:
    """A model that fits the plan and is ready to be compared with it."""

    seed: int
    jobs: Sequence[Job]
    kept: tuple[str, ...]
    claim: Claim

    def compare(self, progress: Progress | None = None) -> Verification:
        """Compare the model's parameters and buffers with what the plan gives."""
        done = Done(sum(job.nbytes for job in self.jobs), progress)
        differences: list[TensorDifference] = []
        close: list[str] = []
        for job, drawn in _with_small_ones(self.jobs, self.seed):
            if job.inversion is not None:
                for number, (stored, value) in enumerate(job.inversion.changes):
                    name = f"{job.entry.name} (stored tensor {number})"
                    comparison = Comparison(name, job.inversion.error)
                    comparison.add(Region.whole(value.shape).slices, stored.detach().cpu(), value)
                    differences += comparison.result()
            else:
                local = job.held.local
                comparison = Comparison(job.entry.name, tolerance(job.entry.initializer, local.dtype))
                if drawn is not None:
                    comparison.add(job.held.parts[0].region.slices, local, drawn)
                for part in () if drawn is not None else job.held.parts:
                    found, begin = local[part.index], part.region.offsets
                    tiles = values_of(job.entry, self.seed, region=part.region, dtype=local.dtype, device=local.device)
                    for index, expected in tiles:
                        place = tuple(slice(b + i.start, b + i.stop) for b, i in zip(begin, index, strict=True))
                        comparison.add(place, found[index].to(expected.device), expected)
                differences += comparison.result()
                close += [job.entry.name] if comparison.close else []
            done.add(job.entry.name, job.nbytes)
        return self.result(compared=len(self.jobs), differences=tuple(differences), close=tuple(close))

    def result(self, **found: Any) -> Verification:
        """A ``Verification`` for this model."""
        return Verification(seed=self.seed, kept=self.kept, **found)


def _with_small_ones(jobs: Sequence[Job], seed: int) -> Iterator[tuple[Job, Tensor | None]]:
    """Yield every job; with the expected values if it is small, as small ones are drawn many at once."""
    for begin in range(0, len(jobs), _TOGETHER):
        some = jobs[begin : begin + _TOGETHER]
        outs = [_empty(job) if _is_small(job) else None for job in some]
        fill_(
            [
                Request(
                    initializer=job.entry.initializer,
                    key=parameter_key(seed, job.entry.name),
                    region=job.held.parts[0].region,
                    out=out,
                    zero_row=job.entry.padding_idx,
                )
                for job, out in zip(some, outs, strict=True)
                if out is not None
            ]
        )
        yield from zip(some, outs, strict=True)


def _empty(job: Job) -> Tensor:
    """Memory for the expected values of the job's only part."""
    local = job.held.local
    return torch.empty(job.held.parts[0].region.sizes, dtype=local.dtype, device=local.device)


def _is_small(job: Job) -> bool:
    """Whether it is drawn element by element, and the local shard is one part of few elements."""
    return (
        job.inversion is None
        and 0 < job.held.numel <= _SMALL
        and job.held.numel == job.held.local.numel()
        and len(job.held.parts) == 1
        and isinstance(job.entry.initializer, ELEMENTWISE)
    )


def prepare_verification(fit: Fit, seed: int) -> PreparedVerification:
    """Check that the model can be compared. Raises the errors of ``prepare``."""
    jobs = prepare(fit, seed)
    kept = tuple(entry.name for entry in fit.plan if entry.kept)
    return PreparedVerification(seed=seed, jobs=jobs, kept=kept, claim=claim_of(fit, seed, jobs))


def reduced(
    prepared: Callable[[], PreparedVerification], groups: Sequence[Any], progress: Progress | None = None
) -> Verification:
    """Verify on every process of the groups and combine the results, which are then equal in all. A collective call.

    The processes first compare their claims. If these differ, or a process fails, that is the result.
    """
    made: list[PreparedVerification] = []

    def claim() -> Claim:
        made.append(prepared())
        return made[0].claim

    failed, problems = disagreements(claim, groups)
    [mine] = made
    if failed or problems:
        differing = (f"the processes do not agree: {problem}" for problem in problems)
        return mine.result(compared=0, differences=(), problems=(*failed, *differing))
    found = together(functools.partial(mine.compare, progress), groups)
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
    differences: tuple[TensorDifference, ...] = ()
    close: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[_Found]) -> _Found:
        """Join the findings of several parts."""
        return cls(
            problems=tuple(problem for part in parts for problem in part.problems),
            differences=tuple(difference for part in parts for difference in part.differences),
            close=tuple(name for part in parts for name in part.close),
        )


def verify_folder(folder: Path, progress: Progress | None = None) -> Verification:
    """Compare a checkpoint with its own manifest: index, headers, every value, and that there are no other files."""
    manifest = Manifest.read(folder / MANIFEST)
    files = manifest.layout
    if not any(os.path.lexists(folder / shard.name) for shard in files.shards):
        raise CheckpointError(f"{folder / files.shards[0].name} does not exist")
    done = Done(files.nbytes, progress)
    try:
        found = _Found.of([_verify_file(folder, shard, files, manifest, done) for shard in files.shards])
        problems = [*found.problems, *_index_problems(folder, files), *_unknown_files(folder, files)]
        problems += _settings_problems(folder, manifest)
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


def _verify_file(folder: Path, shard: Shard, files: Layout, manifest: Manifest, done: Done) -> _Found:
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
            parts = [
                _compare_block(item, file, manifest, done)
                if isinstance(item, Block)
                else _compare_stored(item, file, manifest, done)
                for item in blocks(shard.stored)
            ]
            return _Found.of([_Found(problems=header), *parts])
    except FileNotFoundError:
        return _Found(problems=(f"{shard.name}: is missing",))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _compare_block(block: Block, file: BinaryIO, manifest: Manifest, done: Done) -> _Found:
    expected = block.drawn(manifest.seed)
    found = torch.empty_like(expected)
    file.seek(block.start)
    _read(file, bytes_view(found))
    done.add(block.stored[-1].entry.name, found.nbytes)
    if torch.equal(dtypes.bits(found), dtypes.bits(expected)):
        return _Found()
    differences: list[TensorDifference] = []
    for (name, entry, one), (_, _, other) in zip(block.named(found), block.named(expected), strict=True):
        comparison = Comparison(name)
        comparison.add(Region.whole(entry.shape).slices, one, other)
        differences += comparison.result()
    return _Found(differences=tuple(differences))


def _compare_stored(item: Stored, file: BinaryIO, manifest: Manifest, done: Done) -> _Found:
    entry = item.entry
    if entry.kept:
        digests = {
            name: _digest(file, offset, entry.nbytes) for name, offset in zip(item.names, item.offsets, strict=True)
        }
        done.add(entry.name, entry.nbytes * len(item.names))
        other = [name for name, digest in digests.items() if digest != manifest.kept.get(entry.name)]
        return _Found(differences=tuple(_other_bytes(name, entry) for name in other))
    comparisons = [Comparison(name, tolerance(entry.initializer, entry.dtype)) for name in item.names]
    position = 0
    for index, values in values_of(entry, manifest.seed):
        found = torch.empty_like(values)
        for comparison, offset in zip(comparisons, item.offsets, strict=True):
            file.seek(offset + position)
            _read(file, bytes_view(found))
            comparison.add(index, found, values)
        position += values.nbytes
        done.add(entry.name, values.nbytes * len(item.names))
    return _Found(
        differences=tuple(difference for comparison in comparisons for difference in comparison.result()),
        close=tuple(comparison.name for comparison in comparisons if comparison.close),
    )


def _other_bytes(name: str, entry: Entry) -> TensorDifference:
    return TensorDifference(
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
    """Fill ``into`` from the file; ``OSError`` if the file ends before."""
    if file.readinto(into) < len(into):  # type: ignore[attr-defined]
        raise OSError("it became shorter while it was read")


class _Index(msgspec.Struct, frozen=True):
    """The content of ``model.safetensors.index.json``."""

    metadata: dict[Text, Any]
    weight_map: dict[Text, Text]


def _index_problems(folder: Path, files: Layout) -> list[str]:
    """The differences between the index and what the plan gives."""
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
    wrong = [
        f"{INDEX}: {key} {name} is {shown(said.get(name))}, expected {right.get(name)!r}"
        for key, said, right in (
            ("metadata", found.metadata, expected.metadata),
            ("weight_map", found.weight_map, expected.weight_map),
        )
        for name in {**right, **said}
        if said.get(name) != right.get(name)
    ]
    return wrong or [f"{INDEX}: is not the text that the plan gives"]


def _settings_problems(folder: Path, manifest: Manifest) -> list[str]:
    """The differences between the files of settings and their texts in the manifest."""
    problems: list[str] = []
    for name, text in manifest.settings.items():
        try:
            found = read_bytes(folder / name, LARGEST_SETTINGS)
            problems += [f"{name}: {what}" for what in differences(text, found.decode(errors="replace"))]
        except FileNotFoundError:
            problems.append(f"{name}: is missing")
        except FormatError as error:
            problems.append(f"{name}: {error}")
    return problems


def _unknown_files(folder: Path, files: Layout) -> list[str]:
    """Files that do not belong to the checkpoint, but that a loader may read as parts of it."""
    endings = (TENSORS.removeprefix("model"), INDEX.removeprefix("model"))
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))
    return [f"{name}: does not belong to this checkpoint" for name in names if name not in files.names]
