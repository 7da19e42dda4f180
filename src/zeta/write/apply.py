"""Write a plan's values into a model, in place, wherever they live. Everything is checked before the first write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.forked import check_threads
from zeta.base.garbage import uncollected
from zeta.base.modules import modules_of, parameters_of
from zeta.base.parametrizations import hooked, recompute
from zeta.base.text import shape_text
from zeta.compute import programs
from zeta.compute.sampling import Request, fill_, pieces, tiles
from zeta.compute.stream.random import check_seed, draw_seed, parameter_key
from zeta.compute.stream.regions import Region
from zeta.errors import LayerTypeError, PlanError, SpecError, TargetError, ZetaError, listed
from zeta.initializers import Program
from zeta.resolve.planning import check_dtype, tie_problems
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, any_sharded, gathered, hook_problem, is_sharded, walk
from zeta.resolve.submodels import Naming, fitted
from zeta.rules import Kind, glob_matcher
from zeta.write.aliasing import has_address, overlaps, shared
from zeta.write.parametrized import Inversion, invert, tolerance
from zeta.write.placeholders import stands_for
from zeta.write.shards import Held, held, local, whole

#: elements that are written at a time
_BATCH: Final = 2**24

#: called with a parameter's name, the bytes done so far and the bytes in all
Progress = Callable[[str, int, int], None]
Only = str | Collection[str] | Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One entry, and what is here of the tensor that it is written to.

    For a parametrized weight: what its originals become, and as what is here the weight that they give.
    """

    entry: Entry
    slot: Slot
    held: Held
    inversion: Inversion | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of what is here."""
        return self.held.numel * self.entry.dtype.itemsize

    @property
    def error(self) -> float:
        """By how much values may miss what was drawn, in parts of the largest: a parametrization computes them."""
        return 0.0 if self.inversion is None else tolerance(self.held.local.dtype)


@uncollected()
def prepare(
    model: nn.Module, plan: Plan, seed: int, only: Only | None = None, naming: Naming | None = None
) -> list[Job]:
    """Check the whole plan against the model, and return what is to be written. Nothing is written.

    With ``naming`` the model is a part of the planned one.

    Raises:
        LayerTypeError: ``model`` is not a module.
        SpecError: ``plan`` is not a plan, or the seed not one.
        PlanError: names, shapes or ties of plan and model differ, or ``only`` selects nothing.
        TargetError: parameters that cannot be written: lazy, on meta, integer, partial, overlapping, parametrized so
            that the value is impossible. All of them are listed.
    """
    check_seed(seed)
    entries, slots = chosen(model, plan, only, naming)
    jobs: list[Job] = []
    problems: list[str] = gathered(model)
    own = (entry for entry in entries if not entry.kept and slots[entry.name].parametrization is None)
    given = {id(slots[entry.name].tensor) for entry in own}
    for entry in entries:
        slot = slots[entry.name]
        try:
            check_target(entry, slot)
            if not entry.kept:
                jobs.append(_job(entry, slot, seed, given))
        except ZetaError as error:
            problems.append(f"{entry.name}: {error}")
    problems += shared({job.entry.name for job in jobs}, slots.values())
    if problems:
        raise TargetError(listed("these parameters cannot be written; nothing was changed:", problems))
    return jobs


def chosen(
    model: nn.Module, plan: Plan, only: Only | None, naming: Naming | None
) -> tuple[list[Entry], dict[str, Slot]]:
    """The entries of the plan that ``only`` selects, and the model's tensors by the plan's names.

    Raises as ``prepare`` does, where plan and model do not fit.
    """
    if not isinstance(model, nn.Module):
        raise LayerTypeError(f"expected a torch.nn.Module, got {model!r}")
    if not isinstance(plan, Plan):
        raise SpecError(f"expected a Plan from zeta.plan(model, ...), got {plan!r}; zeta.init_ plans and writes in one")
    names = {entry.name for entry in selected(plan, only)}
    plan, slots = fitted(model, plan, naming)
    entries = [entry for entry in plan if entry.name in names]
    check_names(plan, entries, slots, whole=only is None)
    return entries, slots


def seed_of(model: nn.Module, generator: torch.Generator | None = None) -> int:
    """Draw a seed for a model, from torch's global generator by default.

    Raises ``SpecError`` for a model of several processes, which draw without a word to each other.
    """
    if generator is None and isinstance(model, nn.Module):
        several = any(isinstance(module, nn.parallel.DistributedDataParallel) for module in modules_of(model))
        if several or any_sharded(model):
            raise SpecError(
                "seed=None draws a seed from torch's global generator, and the processes of a sharded or "
                "data-parallel model may each draw another; give all of them the same number, as in seed=0"
            )
    return draw_seed(generator)


def check_parameters(model: nn.Module) -> None:
    """Raise one ``TargetError`` that lists every parameter that has no memory or is not a floating-point weight."""
    problems: list[str] = []
    for slot in walk(model):
        if slot.kind is not Kind.BUFFER:
            try:
                check_memory(slot)
                check_writable(slot)
                if (problem := hook_problem(slot)) is not None:
                    raise TargetError(problem)
            except TargetError as error:
                problems.append(f"{slot.name}: {error}")
    if problems:
        raise TargetError(listed("these parameters cannot be written; nothing was changed:", problems))


def write(jobs: list[Job], seed: int, progress: Progress | None = None) -> None:
    """Write prepared jobs: many small parameters together, large ones in pieces."""
    total, done = sum(job.nbytes for job in jobs) if progress is not None else 0, 0
    together: list[Job] = []
    for job in jobs:
        if job.inversion is None and not isinstance(job.entry.initializer, Program):
            together.append(job)
            continue
        check_threads()  # computed by torch's operations
        with _writable([job.held.local]):
            for target, values in _changes(job, seed):
                target.copy_(values)
        if progress is not None:
            done += job.nbytes
            progress(job.entry.name, done, total)
    for name, batch in _batches(together, seed):
        outs = [request.out for request in batch]
        with _writable(outs), uncollected():
            fill_(batch)
        if progress is not None:
            done += sum(out.nbytes for out in outs)
            progress(name, done, total)
    # kernels write to memory that autograd does not watch
    # of shards, the forward pass does it: it communicates
    modules = {id(job.slot.module): job.slot.module for job in jobs if hooked(job.slot.module)}
    for module in modules.values():
        if not any(is_sharded(parameter) for parameter in module.parameters(recurse=False)):
            recompute(module)
    changed = [job.slot.tensor for job in jobs] + [job.held.local for job in jobs if is_sharded(job.slot.tensor)]
    torch.autograd.graph.increment_version([tensor for tensor in changed if not tensor.is_inference()])


def _job(entry: Entry, slot: Slot, seed: int, given: set[int]) -> Job:
    """What is to be written, where ``given`` are the tensors that entries of the plan have as their own."""
    if slot.parametrization is None:
        return Job(entry=entry, slot=slot, held=held(slot.tensor))
    value = torch.empty(entry.shape, dtype=slot.tensor.dtype, device=slot.tensor.device)
    for index, tile in values_of(entry, seed, dtype=value.dtype, device=value.device):
        value[index].copy_(tile)
    with _writable([slot.tensor]):
        inversion = invert(slot.parametrization, value, name=entry.name, seed=parameter_key(seed, entry.name))
    # a recorded plan says itself what a parametrization keeps beside the weight, such as singular vectors
    changes = tuple((tensor, new) for tensor, new in inversion.changes if id(tensor) not in given)
    return Job(entry=entry, slot=slot, held=whole(inversion.effective), inversion=replace(inversion, changes=changes))


def _changes(job: Job, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What is copied where, for a parametrized weight or a program."""
    if job.inversion is not None:
        yield from ((tensor.detach(), value) for tensor, value in job.inversion.changes)
        return
    for values, region in job.held.places():
        for index, tile in values_of(job.entry, seed, region=region, dtype=values.dtype, device=values.device):
            yield values[index], tile


def _batches(jobs: list[Job], seed: int) -> Iterator[tuple[str, list[Request]]]:
    """Yield requests of about ``_BATCH`` elements in all, and the name of the last."""
    batch: list[Request] = []
    count = 0
    for job in jobs:
        for request in _requests(job, seed):
            batch.append(request)
            count += request.region.numel
            if count >= _BATCH:
                yield job.entry.name, batch
                batch, count = [], 0
    if batch:
        yield jobs[-1].entry.name, batch


def _requests(job: Job, seed: int) -> Iterator[Request]:
    entry, key = job.entry, parameter_key(seed, job.entry.name)
    for values, region in job.held.places():
        for index, piece in pieces(entry.initializer, region, _BATCH):
            yield Request(
                initializer=entry.initializer,
                key=key,
                region=piece,
                out=values if piece is region else values[index],
                axes=entry.axes,
                zero_row=entry.padding_idx,
            )


def values_of(
    entry: Entry,
    seed: int,
    *,
    region: Region | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield the values of an entry or of a region of it, in bounded tiles: (index inside the region, values)."""
    region = Region.whole(entry.shape) if region is None else region
    if isinstance(entry.initializer, Program):
        yield from programs.tiles(
            entry.initializer,
            name=entry.name,
            seed=seed,
            region=region,
            dtype=entry.dtype if dtype is None else dtype,
            device=torch.device(device),
            zero_row=entry.padding_idx,
        )
        return
    yield from tiles(
        entry.initializer,
        key=parameter_key(seed, entry.name),
        region=region,
        dtype=entry.dtype if dtype is None else dtype,
        device=device,
        axes=entry.axes,
        zero_row=entry.padding_idx,
    )


def check_target(entry: Entry, slot: Slot) -> None:
    """Raise ``TargetError`` or ``SpecError`` if this tensor cannot hold the entry's values."""
    check_memory(slot)
    if not entry.kept:
        check_writable(slot)
        check_dtype(entry.initializer, slot.tensor.dtype)


def check_memory(slot: Slot) -> None:
    """Raise ``TargetError`` if the tensor has no memory yet, or stands for memory elsewhere."""
    tensor = slot.tensor
    if nn.parameter.is_lazy(tensor):
        raise TargetError("is lazy and has no shape yet; run one forward pass first")
    if slot.kind is not Kind.BUFFER and (elsewhere := stands_for(slot)) is not None:
        raise TargetError(elsewhere)
    if tensor.is_meta:
        raise TargetError(
            "is on the meta device and has no memory; build the model on a real device, or call "
            "to_empty(device=...) first"
        )


def check_writable(slot: Slot) -> None:
    """Raise ``TargetError`` if the tensor's memory is not that of a floating-point weight or of parts of one."""
    tensor = local(slot.tensor)
    if slot.parametrization is not None and any(map(is_sharded, parameters_of(slot.parametrization))):
        raise TargetError(
            "is parametrized, and its stored tensors are sharded, which no right_inverse can work on; initialize "
            "before sharding"
        )
    if tensor.layout is not torch.strided:
        raise TargetError(
            f"has layout {str(tensor.layout).removeprefix('torch.')}; initialize the dense model and make it sparse "
            "afterwards, or use Keep()"
        )
    if not tensor.is_meta and not has_address(tensor):
        raise TargetError(
            f"is a {type(tensor.data).__name__} without memory of its own; initialize the plain tensor and wrap it "
            "afterwards, or use Keep()"
        )
    if slot.kind is not Kind.BUFFER and not dtypes.is_drawable(tensor.dtype):
        raise TargetError(
            f"has dtype {dtypes.name_of(tensor.dtype)}; initialize the floating-point model and quantize it "
            "afterwards, or use Keep()"
        )
    if slot.parametrization is None and overlaps(tensor):
        raise TargetError(
            f"has overlapping memory (strides {tensor.stride()}); give it memory of its own with .contiguous() or "
            ".clone()"
        )


def selected(plan: Plan, only: Only | None) -> list[Entry]:
    """The entries of a plan that ``only`` names; ``PlanError`` if it names nothing."""
    if only is None:
        return list(plan)
    if callable(only):
        chosen = [entry for entry in plan if any(only(name) for name in (entry.name, *entry.ties))]
    else:
        patterns = [only] if isinstance(only, str) else list(only)
        names = {name for entry in plan for name in (entry.name, *entry.ties)}
        hits = {
            pattern: {pattern} if pattern in names else set(filter(glob_matcher(pattern), names))
            for pattern in patterns
        }
        empty = [pattern for pattern, found in hits.items() if not found]
        if empty:
            raise PlanError(listed("only= names nothing in the plan:", empty))
        hit = set().union(*hits.values())
        chosen = [entry for entry in plan if not hit.isdisjoint((entry.name, *entry.ties))]
    if not chosen:
        raise PlanError("only= selects nothing of the plan")
    return chosen


def check_names(plan: Plan, selected: list[Entry], slots: dict[str, Slot], *, whole: bool) -> None:
    """Raise ``PlanError`` if names or shapes of plan and model differ."""
    planned = {name for entry in plan for name in (entry.name, *entry.ties)}
    missing = [name for entry in selected for name in (entry.name, *entry.ties) if name not in slots]
    extra = [name for name in slots if name not in planned] if whole else []
    shapes = [
        f"{entry.name}: planned {shape_text(entry.shape)}, found {shape_text(slots[entry.name].shape)}"
        for entry in selected
        if entry.name in slots
        and slots[entry.name].shape != entry.shape
        and not nn.parameter.is_lazy(slots[entry.name].tensor)
    ]
    written = {entry.name for entry in selected if not entry.kept}
    problems = [
        listed(heading, names)
        for heading, names in (
            ("the plan names what the model does not have:", missing),
            ("the model has what the plan does not name:", extra),
            ("shapes differ:", shapes),
            ("ties differ:", tie_problems(plan, slots, lambda entry: entry.name in written)),
        )
        if names
    ]
    if problems:
        raise PlanError("this plan is not for this model; nothing was changed\n" + "\n".join(problems))


def _writable(tensors: Iterable[Tensor]) -> contextlib.AbstractContextManager[None]:
    """Neither autograd nor inference mode objects to an in-place write in here."""
    return torch.inference_mode() if any(tensor.is_inference() for tensor in tensors) else torch.no_grad()
