"""Write a plan's values into a model, in place, wherever they live. Everything is checked before the first write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from msgspec import Struct
from torch import Tensor

from zeta.base.distributed import gathered, is_sharded, local
from zeta.base.modules import tensors_of
from zeta.base.parametrizations import hooked, recompute
from zeta.base.process.forked import check_threads
from zeta.base.process.garbage import uncollected
from zeta.base.process.surroundings import Ungraded
from zeta.base.text import by_reason
from zeta.compute.sampling import Request, fill_, pieces
from zeta.compute.stream.random import parameter_key
from zeta.compute.values import computed, values_of
from zeta.errors import TargetError, ZetaError, listed
from zeta.initializers import Program
from zeta.resolve.fitting import Fit
from zeta.resolve.plans import Entry
from zeta.resolve.slots import Slot, hook_problem
from zeta.resolve.solving import check_dtype
from zeta.rules import Kind
from zeta.write.shards import Held, held, whole
from zeta.write.targets import check_memory, check_target, check_writable, is_usual, shared

if TYPE_CHECKING:
    from zeta.write.parametrized import Inversion

#: elements that are written at a time
_BATCH: Final = 2**24

#: called with a parameter's name, the bytes done so far and the bytes in all
Progress = Callable[[str, int, int], None]


class Job(Struct, frozen=True, kw_only=True, gc=False):
    """One entry, and what is here of the tensor that it is written to.

    For a parametrized weight: what its originals become, and as what is here the weight that they give. Jobs with the
    same ``sort`` differ in their names and memory only.
    """

    entry: Entry
    slot: Slot
    held: Held
    sort: int = 0
    #: the memory here that is written; of a parametrized weight, that of all that it is computed from
    memory: tuple[Tensor, ...]
    inversion: Inversion | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of what is here."""
        return self.held.numel * self.entry.dtype.itemsize

    @property
    def error(self) -> float:
        """By how much values may miss what was drawn, in parts of the largest: a parametrization computes them."""
        return 0.0 if self.inversion is None else _parametrized().inversion_error(self.held.local.dtype)


@uncollected
def prepare(fit: Fit, seed: int, *, checked: bool = False) -> list[Job]:
    """Check the tensors of the selected entries, and return what is to be written. Nothing is written.

    ``checked``: ``check_parameters`` has looked at the tensors.

    Raises ``TargetError`` for parameters that cannot be written: lazy, on meta, integer, partial, overlapping,
    parametrized so that the value is impossible. All of them are listed.
    """
    jobs: list[Job] = []
    refused: list[tuple[str, str]] = []
    parametrized = [slot for slot in fit.slots.values() if slot.parametrization is not None]
    given = _plain_entries(fit) if parametrized else {}
    if any(fit.slots[e.name].parametrization is not None for e in fit.entries if parametrized and not e.kept):
        check_threads()  # what a parametrization stores is computed by torch's operations
    sorts: Sorts = {}
    held_as: set[tuple[int, torch.dtype]] = set()  # the initializers, by identity, that these dtypes can hold
    for entry in fit.entries:
        slot = fit.slots[entry.name]
        try:
            if not checked:
                if not is_usual(slot):
                    check_target(entry, slot)
                if (law := (id(entry.initializer), slot.tensor.dtype)) not in held_as:
                    check_dtype(entry.initializer, slot.tensor.dtype)
                    held_as.add(law)
            if entry.kept:
                continue
            jobs.append(job_of(entry, slot, seed, given, sorts))
        except ZetaError as error:
            refused.append((entry.name, str(error)))
    problems = gathered(fit.model)
    if refused:
        problems += by_reason(refused)
    if parametrized:
        problems += _crossed(parametrized, jobs)
    # weights may be computed from one tensor, if both are given the same there
    written = {id(memory): (job.entry.name, memory) for job in reversed(jobs) for memory in job.memory}
    problems += shared([*reversed(written.values())], fit.slots.values(), fit.plan)
    if problems:
        raise TargetError(listed("these parameters cannot be written; nothing was changed:", problems))
    return jobs


def _plain_entries(fit: Fit) -> dict[int, Entry]:
    """The entries of plain tensors that are to be written, by the tensor's ``id``."""
    slots = ((fit.slots[entry.name], entry) for entry in fit.entries if not entry.kept)
    return {id(slot.tensor): entry for slot, entry in slots if slot.parametrization is None}


def _crossed(parametrized: list[Slot], jobs: list[Job]) -> list[str]:
    """Parametrized weights that would differ from the plan, because they are computed from shared tensors."""
    problems: list[str] = []
    written: dict[int, tuple[str, Tensor | None]] = {}
    for job in jobs:
        if job.inversion is None:
            written[id(job.slot.tensor)] = job.entry.name, None
            continue
        for tensor, value in job.inversion.changes:
            name, other = written.setdefault(id(tensor), (job.entry.name, value))
            if other is not value and not (other is not None and torch.equal(other, value)):
                problems.append(
                    f"{job.entry.name}: is computed from a tensor that {name} is computed from too, and both are given "
                    "values; untie them"
                )
    given = {id(job.slot.tensor) for job in jobs}
    for slot in parametrized:
        if id(slot.tensor) not in given:
            assert slot.parametrization is not None
            names = [written[id(tensor)][0] for tensor in tensors_of(slot.parametrization) if id(tensor) in written]
            if names:
                problems.append(
                    f"{slot.name}: is kept, but is computed from a tensor that is written with {names[0]}; give both "
                    "a value"
                )
    return problems


def check_parameters(slots: Iterable[Slot]) -> None:
    """Raise one ``TargetError`` that lists every parameter that has no memory or is not a floating-point weight."""
    refused: list[tuple[str, str]] = []
    for slot in slots:
        if slot.kind is not Kind.BUFFER:
            try:
                if not is_usual(slot):
                    check_memory(slot)
                    check_writable(slot)
                if slot.module._forward_pre_hooks and (problem := hook_problem(slot)) is not None:
                    raise TargetError(problem)
            except TargetError as error:
                refused.append((slot.name, str(error)))
    if refused:
        raise TargetError(listed("these parameters cannot be written; nothing was changed:", by_reason(refused)))


def write(jobs: list[Job], seed: int, progress: Progress | None = None) -> None:
    """Write prepared jobs: many small parameters together, large ones in pieces."""
    total, done = sum(job.nbytes for job in jobs) if progress is not None else 0, 0
    together: list[Job] = []
    for job in jobs:
        if job.inversion is None and not isinstance(job.entry.initializer, Program):
            together.append(job)
            continue
        check_threads()  # computed by torch's operations
        with writable([job.held.local]):
            for target, values in _changes(job, seed):
                target.copy_(values)
        if progress is not None:
            done += job.nbytes
            progress(job.entry.name, done, total)
    for name, batch in _batches(together, seed):
        outs = [out for request in batch for out in request.outs]
        with writable(outs):
            fill_(batch)
        if progress is not None:
            done += sum(out.nbytes for out in outs)
            progress(name, done, total)
    # of shards, the forward pass does it: it communicates; a factor that is still on meta has no values
    modules = {id(job.slot.module): job.slot.module for job in jobs if job.slot.module._forward_pre_hooks}
    for module in modules.values():
        own = list(module.parameters(recurse=False))
        if hooked(module) and not any(is_sharded(one) or one.is_meta for one in own):
            recompute(module)
    # what is written to a shard does not show in the version of the whole tensor
    if sharded := [job.slot.tensor for job in jobs if job.held.sharded and not job.slot.tensor.is_inference()]:
        torch.autograd.graph.increment_version(sharded)


#: the number of each sort of jobs, by all that decides what is written and measured but names: parts by identity
Sorts = dict[tuple[Any, ...], int]


def job_of(
    entry: Entry, slot: Slot, seed: int, given: Mapping[int, Entry] | None = None, sorts: Sorts | None = None
) -> Job:
    """What is to be written to a checked target, where ``given`` are the entries of plain tensors, by their ``id``."""
    sorts = {} if sorts is None else sorts
    if slot.parametrization is None:
        here = held(slot.tensor)
        if entry.section is not None:
            here = here.within(entry.section.dim, entry.section.spans)
        asked = entry.shape, entry.dtype, id(entry.initializer), id(entry.axes), entry.padding_idx
        like = (*asked, id(here.parts), here.local.dtype, here.local.device)
        sort = sorts.setdefault(like, len(sorts))
        return Job(entry=entry, slot=slot, held=here, sort=sort, memory=(here.local,))
    if entry.section is not None:
        raise TargetError(f"is parametrized, so that a part of it, {entry.section}, cannot be written alone")
    value = _whole(entry, seed, slot.tensor)
    # the plan may also give values to what a parametrization stores itself, such as a scale or singular vectors
    known = given or {}
    planned = {
        id(tensor): _whole(known[id(tensor)], seed, tensor)
        for tensor in tensors_of(slot.parametrization)
        if id(tensor) in known
    }
    key = parameter_key(seed, entry.name)
    with writable([slot.tensor]):
        inversion: Inversion = _parametrized().invert(
            slot.parametrization, value, name=entry.name, seed=key, planned=planned
        )
    alone = sorts.setdefault((entry.name,), len(sorts))
    memory, here = tuple(local(tensor) for tensor, _ in inversion.changes), whole(inversion.effective)
    return Job(entry=entry, slot=slot, held=here, sort=alone, memory=memory, inversion=inversion)


def _parametrized() -> Any:
    from zeta.write import parametrized  # here, because few models need it

    return parametrized


def _whole(entry: Entry, seed: int, like: Tensor) -> Tensor:
    """All values of an entry, in the dtype and on the device of a tensor."""
    return computed(entry, seed, dtype=like.dtype, device=like.device)


def _changes(job: Job, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What is copied where, for a parametrized weight or a program."""
    if job.inversion is not None:
        yield from ((tensor.detach(), value) for tensor, value in job.inversion.changes)
        return
    for values, region in job.held.places():
        for index, tile in values_of(job.entry, seed, region=region, dtype=values.dtype, device=values.device):
            yield values[index], tile


def _batches(jobs: list[Job], seed: int) -> Iterator[tuple[str, list[Request]]]:
    """Yield requests, and the name of the last job: small tensors together, and a large one in pieces."""
    sorts: dict[int, list[Job]] = {}
    count = 0
    for job in jobs:
        numel = job.held.local.numel()
        if numel >= _BATCH:
            yield from ((job.entry.name, [request]) for request in _requests([job], seed))
            continue
        sorts.setdefault(job.sort, []).append(job)
        count += numel
        if count >= _BATCH:
            yield job.entry.name, [request for alike in sorts.values() for request in _requests(alike, seed)]
            sorts, count = {}, 0
    if count:
        yield jobs[-1].entry.name, [request for alike in sorts.values() for request in _requests(alike, seed)]


def _requests(jobs: list[Job], seed: int) -> list[Request]:
    """The requests for jobs of one sort, each of at most ``_BATCH`` elements of each tensor."""
    entry, parts = jobs[0].entry, jobs[0].held.parts
    initializer, axes, row = entry.initializer, entry.axes, entry.padding_idx
    keys = [parameter_key(seed, job.entry.name) for job in jobs] if initializer.is_random else [0] * len(jobs)
    memory = [job.held.local for job in jobs]
    found: list[Request] = []
    for part in parts:
        inside = memory if jobs[0].held.is_one else [here[part.index] for here in memory]
        for index, region in pieces(initializer, part.region, _BATCH):
            outs = inside if region is part.region else [here[index] for here in inside]
            request = Request(initializer=initializer, keys=keys, region=region, outs=outs, axes=axes, zero_row=row)
            found.append(request)
    return found


def writable(tensors: Iterable[Tensor]) -> contextlib.AbstractContextManager[None]:
    """Neither autograd nor inference mode objects to an in-place write in here."""
    return torch.inference_mode() if any(map(Tensor.is_inference, tensors)) else Ungraded()
