"""Compute every value again and compare bit by bit: a model in memory, or a checkpoint on disk.

The last bits of orthogonal matrices depend on the linear algebra library that computes them. They are compared within
the tolerance that their initializer states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base import html
from zeta.base.escaping import visible
from zeta.base.progress import Done
from zeta.base.text import count_text
from zeta.compute.sampling import Request, fill_
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.compute.values import values_of
from zeta.initializers.blocks import is_elementwise
from zeta.report.digests import Claim, claim_of
from zeta.report.ranks import disagreements, failures, together
from zeta.report.verifying.bitwise import Comparison, TensorDifference
from zeta.resolve.fitting import Fit
from zeta.write.apply import Job, Progress, prepare

_OTHER_SEED: Final = (
    "every random tensor differs, and all others are equal: these are the values of another seed, or not drawn by zeta"
)
#: problems and differences that are printed
_MOST_SHOWN: Final = 20
#: Small tensors (at most _SMALL elements) among this many jobs are drawn in one call, which saves a call per tensor.
_TOGETHER: Final = 1024
_SMALL: Final = 2**13


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of computing every value again and comparing bit by bit.

    ``close`` names orthogonal tensors that are equal only within their tolerance, because another linear algebra
    library computed them. ``kept`` names what the plan keeps: of a folder it has the bytes that were saved
    (``kept_compared``); of a model nobody knows what it had. With ``all_kept`` the plan of a folder gives no value.
    ``remark`` says what the differences have in common.
    """

    seed: int
    compared: int
    kept: tuple[str, ...]
    differences: tuple[TensorDifference, ...]
    problems: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    kept_compared: bool = False
    all_kept: bool = False
    remark: str = ""

    @property
    def ok(self) -> bool:
        """Whether every bit agrees."""
        return not self.differences and not self.problems

    @property
    def summary(self) -> str:
        """One line."""
        compared = count_text(self.compared, "tensor")
        state = "as they were" if self.kept_compared else "and not compared"
        kept = f", {len(self.kept)} kept {state}" if self.kept else ""
        if self.ok and not (self.compared or (self.kept and self.kept_compared)):
            return f"nothing was compared{kept}"
        if self.ok and self.all_kept:
            return f"verified: {compared} kept, as they were"
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
        return "\n".join([*map(visible, found[:_MOST_SHOWN]), *more, *self._remarks, self.summary])

    @property
    def _remarks(self) -> list[str]:
        return [self.remark] if self.remark else []

    def _repr_html_(self) -> str:
        parts = [html.lines([self.summary, *self._remarks], bold=True), html.lines(self.problems)]
        if self.differences:
            rows = [
                (
                    item.name,
                    "" if item.count is None else f"{item.count:,}",
                    "" if item.first is None else str(list(item.first)),
                    item.found,
                    item.expected,
                )
                for item in self.differences
            ]
            headings = ("name", "elements that differ", "first at", "found", "expected")
            title = f"{count_text(len(rows), 'tensor')} that {'differs' if len(rows) == 1 else 'differ'}"
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
            "remark": self.remark,
            "differences": [
                {**item.__dict__, "first": None if item.first is None else list(item.first)}
                for item in self.differences
            ],
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
                local = job.held.local.detach()
                comparison = Comparison.of(job.entry.name, job.entry, local.dtype)
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
        return self.result(
            compared=len(self.jobs),
            differences=tuple(differences),
            remark=_remark(self.jobs, differences),
            close=tuple(close),
        )

    def result(self, **found: Any) -> Verification:
        """A ``Verification`` for this model."""
        return Verification(seed=self.seed, kept=self.kept, **found)


def _remark(jobs: Sequence[Job], differences: Sequence[TensorDifference]) -> str:
    """What to say if the tensors that differ are those that a seed decides; else nothing."""
    counts = {difference.name: difference.count or 0 for difference in differences}
    drawn = [job for job in jobs if job.entry.std and job.held.numel]
    of_seed = {job.entry.name for job in drawn if 10 * counts.get(job.entry.name, 0) > job.held.numel}
    return _OTHER_SEED if of_seed and len(of_seed) == len(drawn) and of_seed == counts.keys() else ""


def _with_small_ones(jobs: Sequence[Job], seed: int) -> Iterator[tuple[Job, Tensor | None]]:
    """Yield every job; with the expected values if it is small, as small ones are drawn many at once."""
    for begin in range(0, len(jobs), _TOGETHER):
        some = jobs[begin : begin + _TOGETHER]
        outs = [_empty(job) if _is_small(job) else None for job in some]
        fill_(
            [
                Request(
                    initializer=job.entry.initializer,
                    keys=(parameter_key(seed, job.entry.name),),
                    region=job.held.parts[0].region,
                    outs=(out,),
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
        and job.held.is_one
        and is_elementwise(job.entry.initializer)
    )


def prepare_verification(fit: Fit, seed: int) -> PreparedVerification:
    """Check that the model can be compared. Raises the errors of ``prepare``."""
    jobs = prepare(fit, seed)
    kept = tuple(entry.name for entry in fit.entries if entry.kept)
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
        remark=_OTHER_SEED if all(one.remark for one in finished.values()) else "",
    )
