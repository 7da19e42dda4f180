"""Compute every value again and compare, bit by bit: a model in memory, or a checkpoint on disk.

Orthogonal matrices come out of products in floating point, whose last bits belong to a linear algebra library: they are
compared within the tolerance that their initializer states.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor, nn

from zeta import dtypes
from zeta.apply import Only, prepare, values_of
from zeta.checkpoint import MANIFEST, TENSORS, Manifest, Stored, layout
from zeta.errors import CheckpointError, SpecError
from zeta.plans import Plan
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
        return (
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
        return "\n".join([*found[:_MOST_SHOWN], *more, self.summary()])

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
        differs = _bits(found) != _bits(expected)
        if differs.ndim > found.ndim:  # complex: either part
            differs = differs.any(-1)
        if self.tolerance and bool(differs.any()):
            wide = torch.complex128 if found.is_complex() else torch.float64
            one, two = found.to(wide), expected.to(wide)
            rounding = 2 * dtypes.relative_rounding(found.dtype) * two.abs()
            near = (one - two).abs() <= self.tolerance + rounding
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


_INTEGER: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(values: Tensor) -> Tensor:
    values = values.resolve_conj().resolve_neg()
    if values.is_complex():
        values = torch.view_as_real(values)
    return values.contiguous().view(_INTEGER[values.dtype.itemsize])


def verify_model(
    model: nn.Module, plan: Plan, seed: int, only: Only | None, naming: Naming | None = None
) -> Verification:
    """Compare a model's parameters and buffers with what the plan gives."""
    jobs = prepare(model, plan, seed, only, naming)
    differences: list[Difference] = []
    close: list[str] = []
    for job in jobs:
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
                tiles = values_of(job.entry, seed, region=part.region, dtype=local.dtype, device=local.device)
                for index, expected in tiles:
                    place = tuple(slice(b + i.start, b + i.stop) for b, i in zip(begin, index, strict=True))
                    comparison.add(place, found[index].to(expected.device), expected)
            differences += comparison.result()
            close += [job.entry.name] if comparison.close else []
    kept = tuple(entry.name for entry in part_of(plan, model, naming) if entry.kept)
    differing = tuple(differences)
    return Verification(seed=seed, compared=len(jobs), kept=kept, differences=differing, close=tuple(close))


def reduced(find: Callable[[], Verification]) -> Verification:
    """What all processes of the default group find, the same in each. Every one of them must call it.

    Where ``find`` raises, that process tells the others first, for which it is a problem; so nobody waits for it.

    Raises ``SpecError`` if there is no process group.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise SpecError("reduce=True needs the process group of torch.distributed.init_process_group")
    mine: Verification | str
    failure: Exception | None = None
    try:
        mine = find()
    except Exception as error:
        mine, failure = f"{type(error).__name__}: {error}", error
    every: list[Verification | str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, mine)
    if failure is not None:
        raise failure
    assert isinstance(mine, Verification)
    finished = {rank: each for rank, each in enumerate(every) if isinstance(each, Verification)}
    return replace(
        mine,
        compared=max(each.compared for each in finished.values()),
        problems=tuple(f"rank {rank}: {each}" for rank, each in enumerate(every) if isinstance(each, str)),
        differences=tuple(
            replace(difference, name=f"rank {rank}: {difference.name}")
            for rank, each in finished.items()
            for difference in each.differences
        ),
        close=tuple(dict.fromkeys(name for each in finished.values() for name in each.close)),
    )


def verify_folder(folder: Path) -> Verification:
    """Compare a checkpoint with what its own manifest says: header, every value, and nothing beside them."""
    manifest = Manifest.read(folder / MANIFEST)
    header, stored = layout(manifest.plan, drop_ties=manifest.drop_ties)
    path = folder / TENSORS
    problems: list[str] = []
    differences: list[Difference] = []
    close: list[str] = []
    try:
        with path.open("rb") as file:
            size, expected = os.fstat(file.fileno()).st_size, len(header) + (stored[-1].stop if stored else 0)
            if size != expected:
                problems.append(f"{path.name}: {size:,} bytes, expected {expected:,}")
            elif file.read(len(header)) != header:
                problems.append(f"{path.name}: the header is not the one that the plan gives")
            if size == expected:
                for item in stored:
                    file.seek(len(header) + item.start)
                    differences += _compare_stored(item, file, manifest, close)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return Verification(
        seed=manifest.seed,
        compared=len(stored),
        kept=tuple(manifest.kept),
        differences=tuple(differences),
        problems=tuple(problems),
        close=tuple(close),
    )


def _compare_stored(item: Stored, file: BinaryIO, manifest: Manifest, close: list[str]) -> list[Difference]:
    entry = item.entry
    if entry.kept:
        digest = hashlib.sha256()
        remaining = entry.nbytes
        while remaining:
            block = _read(file, min(_BLOCK_BYTES, remaining))
            digest.update(block)
            remaining -= len(block)
        if digest.hexdigest() == manifest.kept.get(entry.name):
            return []
        return [
            Difference(
                name=item.name,
                count=entry.numel,
                first=(0,) * len(entry.shape),
                found="other bytes",
                expected="the kept ones",
            )
        ]
    comparison = Comparison(item.name, tolerance(entry.initializer, entry.dtype))
    for index, expected in values_of(entry, manifest.seed):
        values = bytearray(_read(file, expected.nbytes))
        found = torch.frombuffer(values, dtype=entry.dtype).view(expected.shape)
        comparison.add(index, found, expected)
    close += [item.name] if comparison.close else []
    return list(comparison.result())


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise OSError("it became shorter while it was read")
    return data
