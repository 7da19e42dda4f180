"""Write what a plan says of a model, measure it, and report: what the verbs that write have in common."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from zeta.base.progress import check_progress, progress_of
from zeta.compute.stream import kernels
from zeta.report.digests import Claim, claim_of
from zeta.report.measuring import Accumulator, Measured, Measurements, measure_all
from zeta.report.report import Report
from zeta.resolve.adapting import Given
from zeta.resolve.fitting import Fit
from zeta.resolve.plans import Entry
from zeta.resolve.slots import any_parametrized, changed_with
from zeta.write.apply import Progress, prepare, write
from zeta.write.checkpoint import Manifest
from zeta.write.checkpoint.save import save_files
from zeta.write.guards import note, recording_here
from zeta.write.seeds import chosen_seed

#: compares a claim with those of the other processes, and returns whether it did
Meet = Callable[[Claim], bool]


def applied(fit: Fit, seed: int | None, progress: Progress | bool | None, meet: Meet) -> Report:
    """Write the fit's entries and measure them. In a recording, the writes are recorded and nothing is measured."""
    check_progress(progress)
    begin = time.perf_counter()
    changed = _changed_with(fit)
    kept = [entry for entry in fit.entries if entry.kept and entry.name not in changed] + [*fit.left]
    if (recorder := recording_here()) is not None:
        note(recorder, fit)
        nbytes = sum(entry.nbytes for entry in fit.entries if not entry.kept)
        report = report_of(0, claim_of(fit, 0, []), begin, (), kept, nbytes, set())
        return replace(report, backend="recording")
    seed = chosen_seed(fit.model, None, seed)
    jobs = prepare(fit, seed)
    claim = claim_of(fit, seed, jobs)
    confirmed = meet(claim)
    with progress_of(progress) as tell:
        write(jobs, seed, tell)
    sorts, counts = {job.sort: job for job in jobs}, Counter([job.sort for job in jobs])
    devices = {job.held.local.device for job in sorts.values()}
    nbytes = sum(job.nbytes * counts[sort] for sort, job in sorts.items())
    report = report_of(seed, claim, begin, measure_all(jobs), kept, nbytes, devices)
    on_meta: dict[int, str] = {}  # each tensor once, by the first of its names
    for name, slot in fit.slots.items():
        if slot.tensor.is_meta:
            on_meta.setdefault(id(slot.tensor), name)
    partial = any(job.held.sharded for job in sorts.values())
    return replace(report, partial=partial, confirmed=confirmed, on_meta=tuple(on_meta.values()))


def saved(
    model: nn.Module,
    request: Manifest,
    folder: Path,
    *,
    force: bool,
    progress: Progress | bool | None,
    given: Mapping[str, Given] = MappingProxyType({}),
    copies: Mapping[str, bytes] = MappingProxyType({}),
) -> Report:
    """Write a checkpoint, as ``save_files``, and report what was drawn."""
    check_progress(progress)
    begin = time.perf_counter()
    accumulators: list[Accumulator] = []

    def watch(entry: Entry) -> Accumulator:
        accumulators.append(Accumulator(entry, partial=entry.section is not None))
        return accumulators[-1]

    with progress_of(progress) as tell:
        found = save_files(model, request, folder, force=force, watch=watch, progress=tell, given=given, copies=copies)
    measured = Measurements(len(accumulators), lambda: (accumulator.result() for accumulator in accumulators))
    claim = Claim(seed=request.seed, plan=request.plan)
    nbytes = sum(entry.nbytes for entry in request.plan if entry.persistent)
    kept = [entry for entry in request.plan if entry.kept]
    report = report_of(request.seed, claim, begin, measured, kept, nbytes, set())
    return replace(report, resumed=found)


def _changed_with(fit: Fit) -> set[str]:
    """The buffers without a value of their own that change with a parametrized weight that is written."""
    if not any_parametrized(fit.slots.values()):
        return set()
    follow = changed_with(fit.slots[entry.name] for entry in fit.entries if not entry.kept)
    return {name for name, slot in fit.slots.items() if id(slot.tensor) in follow} if follow else set()


def report_of(
    seed: int,
    claim: Claim,
    begin: float,
    measured: Sequence[Measured],
    kept: Sequence[Entry],
    nbytes: int,
    devices: set[torch.device],
) -> Report:
    """The report of what was written since ``begin``, on these devices."""
    used = {kernels.backend(device).name: kernels.problems(device) for device in devices or {torch.device("cpu")}}
    return Report(
        backend=", ".join(sorted(used)),
        backend_problems=tuple(dict.fromkeys(problem for name in sorted(used) for problem in used[name])),
        seed=seed,
        claim=claim,
        measured=measured,
        kept=tuple(entry.name for entry in kept),
        kept_nbytes=sum(entry.nbytes for entry in kept),
        nbytes=nbytes,
        seconds=time.perf_counter() - begin,
    )
