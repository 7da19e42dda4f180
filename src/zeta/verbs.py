"""The public verbs: each one runs its stages and returns a result."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zeta.base.modules import check_module
from zeta.base.process.forked import check_threads
from zeta.base.progress import check_progress, progress_of
from zeta.base.reading import shown
from zeta.base.sources import Checkpoint, open_source
from zeta.compute.stream.random import check_seed, draw_seed
from zeta.errors import SpecError, notice
from zeta.report import ranks
from zeta.report.applied import Meet, applied, saved
from zeta.report.costs import with_costs
from zeta.report.report import Report
from zeta.report.verifying import verification
from zeta.report.verifying.folders import verify_folder
from zeta.report.verifying.verification import PreparedVerification, Verification
from zeta.resolve import planning
from zeta.resolve.casting import cast
from zeta.resolve.fitting import Only, fit
from zeta.resolve.how import check_function
from zeta.resolve.planning import How, planned
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import Fallback, plan_recorded
from zeta.resolve.submodels import NameMap, naming
from zeta.write.apply import Progress
from zeta.write.checkpoint import MAX_SHARD_SIZE, Manifest, bytes_of, output_path, settings_of
from zeta.write.guards import on_values, on_values_or_recorded
from zeta.write.materialize import allocated, on_meta
from zeta.write.seeds import chosen_seed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@on_values_or_recorded
def plan(
    model: nn.Module, how: How | Callable[[Any], object], *, fallback: Fallback | None = None, **options: Any
) -> Plan:
    """Decide the initializer of every parameter and buffer of ``model``. Reads and writes no values; meta is fine.

    Args:
        model: any module; wrappers and parametrizations do not change the names.
        how: :class:`~zeta.rules.Rules`, the name of a recipe (``zeta.recipes.names()``), or a function that initializes
            the model: its operations on the parameters are recorded, as by :func:`~zeta.record`. What it does not write
            is kept, if it has values; a parameter on meta must be written.
        fallback: for a function, as for :func:`~zeta.record`. What has values is kept all the same.
        options: of a recipe, as ``zeta.plan(model, "resnet", zero_init_residual=True)``; ``zeta recipes show resnet``
            lists them.

    For a sharded model, the plan is of the whole tensors; it also shows what this process holds and computes of them.

    Raises:
        LayerTypeError: ``model`` is not a module.
        PlanError: parameters that no rule matches, rules that never win, ties that different rules match, initializers
            that do not fit their parameter. All problems are listed.
        RecordingError: the function does something that cannot be recorded, or leaves a parameter without a value.
    """
    if callable(how) and isinstance(model, nn.Module):
        check_function(how, options)
        return with_costs(plan_recorded(model, how, fallback=fallback), model)
    return with_costs(planning.plan(model, _rules(how, fallback), options), model)


@on_values_or_recorded
def apply_(
    model: nn.Module,
    plan: Plan,
    seed: int | None = None,
    *,
    only: Only | None = None,
    progress: Progress | bool | None = None,
    prefix: str | None = None,
    name_map: NameMap | None = None,
    confirm: bool | ProcessGroup = False,
) -> Report:
    """Write a plan's values into a model, in place.

    A value depends on the seed, the parameter's canonical name and the element's index only: not on the device, the
    memory format, the order of modules, wrappers, or what else is initialized. A bf16 or fp16 model gets the fp32
    model's values, rounded.

    Args:
        model: a model with real memory, on any device. Parameters keep identity, dtype, strides, ``requires_grad`` and
            ``.grad``.
        plan: a plan of this model or of one with the same names and shapes.
        seed: from 0 to 2^64 - 1. ``None`` draws one from torch's global generator, so that ``torch.manual_seed``
            decides; ``report.seed`` has it. ``None`` is refused for sharded and data-parallel models, whose processes
            might draw different seeds.
        only: restrict to some parameters: a name glob, a collection of them, or a predicate on the name; or to some
            rows: ``{"emb.weight": slice(1000, None)}``. The other rows stay as they are.
        progress: ``True`` for a bar, in a terminal or a notebook; or a function that is called as
            ``progress(name, bytes_done, bytes_total)`` after each batch of some 16 million elements, with the name of
            the last parameter in it.
        prefix: for a model that is a part of the planned one, such as a pipeline stage: the prefix that makes its names
            the whole model's; ``""`` if it has the whole model's names already.
        name_map: for a part with other names: a function from its names to the whole model's, or a dictionary of names
            of modules or parameters, all of which the part must have.
        confirm: before anything is written, compare with the other processes whether all write the same model: ``True``
            for the default process group, or a process group that this process is in. Each of its processes must make
            this call. One small collective call compares ``report.digest``: seed, plan, ``only``, the versions of zeta
            and its stream, and whether the shards belong together.

    In a constructor that ``record`` runs, the writes are recorded like any others. The seed is then the one that the
    recorded plan is applied with, and the report has no figures.

    Sharded models (``DTensor``: FSDP2, tensor, sequence and expert parallelism): each process computes its local
    shards, without communication.

    Raises:
        PlanError: plan and model do not fit, or ``only`` selects nothing.
        TargetError: parameters that cannot be written, all listed.
        RankError: with ``confirm``, processes that differ, or one that failed; named by rank.

    If any of these is raised, nothing was changed.
    """
    with _meeting(confirm) as meet:
        return applied(fit(model, plan, only=only, naming=naming(prefix, name_map)), seed, progress, meet)


@on_values
def materialize_(
    model: nn.Module,
    plan: Plan,
    seed: int | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    cast_buffers: bool = False,
    progress: Progress | bool | None = None,
    prefix: str | None = None,
    name_map: NameMap | None = None,
    confirm: bool | ProcessGroup = False,
    only: Only | None = None,
    overwrite: bool = False,
) -> Report:
    """Allocate memory for a model on meta, once for each parameter and buffer, and write a plan's values into it.

    What has memory already, such as loaded weights, stays as it is, and the report names it. The tensors stay the same
    Python objects: ties, views of the same memory, ``requires_grad``, strides, class, attributes and hooks remain. If
    anything fails, the model is on meta as before. The temporary memory is that of a few tiles, or of one whole
    parameter if its initializer needs whole matrices. Programs are computed on the CPU and copied; a program that is
    not computed in tiles needs a few times the memory of its tensor there.

    Args:
        model: a model on meta, from :func:`~zeta.record` or built under ``torch.device("meta")``, or partly on meta.
        plan: a plan of this model.
        seed: as for ``apply_``.
        device: the device of the memory.
        dtype: the dtype of all floating-point parameters, except those that a transformers model keeps in fp32. Buffers
            keep their dtype, except running statistics of norms with a scale, and buffers of parametrizations, which
            get the dtype of their parameters. For a part of a model, only its own modules decide what stays in fp32.
        cast_buffers: whether ``dtype`` also applies to all floating-point buffers.
        progress: as for ``apply_``.
        prefix: as for ``apply_``.
        name_map: as for ``apply_``.
        confirm: as for ``apply_``.
        only: as for ``apply_``; the rest of the model stays on meta, and the report's ``on_meta`` names it.
        overwrite: also write to what has memory.

    For a model that was sharded while on meta, each process allocates its local shards. If nothing is on meta, nothing
    is written, and a notice says so.

    Raises:
        PlanError: plan and model do not fit.
        SpecError: a seed, dtype or device that is not allowed.
        TargetError: parameters that cannot be written, or tensors on meta that would be left as raw memory.
        RankError: as ``apply_``; the model is on meta as before.

    >>> from zeta import record
    >>> model, recorded = record(nn.Linear, 512, 256)
    >>> materialize_(model, recorded, seed=0).ok, model.weight.device.type
    (True, 'cpu')
    """
    with _meeting(confirm) as meet:
        fitting = fit(model, plan, only=only, naming=naming(prefix, name_map))
        if not overwrite:
            fitting = on_meta(fitting)
            if fitting.left and all(entry.kept for entry in fitting.entries):
                notice(
                    f"nothing is on meta: all {len(fitting.left)} tensors have memory and stay as they are; "
                    "zeta.apply_ writes to them, and so does overwrite=True"
                )
        seed = chosen_seed(model, None, seed)
        write = functools.partial(applied, seed=seed, progress=progress, meet=meet)
        return allocated(fitting, write, device=device, dtype=dtype, cast_buffers=cast_buffers)


@on_values_or_recorded
def init_(
    model: nn.Module,
    how: How | Callable[[Any], object],
    seed: int | None = None,
    *,
    only: Only | None = None,
    progress: Progress | bool | None = None,
    confirm: bool | ProcessGroup = False,
    fallback: Fallback | None = None,
    **options: Any,
) -> Report:
    """Plan and apply in one call: ``apply_(model, plan(model, how), seed)``; a meta model is materialized on the CPU.

    A function writes what it writes; all else that has values keeps them. With ``only``, the rest of the model needs
    neither rule nor value. ``confirm`` as for ``apply_``; its error also names a process that cannot plan. ``fallback``
    and the options of a recipe as for ``plan``.

    >>> from zeta import Rule, Rules
    >>> from zeta.initializers import Zeros, kaiming_normal
    >>> rules = Rules([Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())])
    >>> report = init_(nn.Linear(512, 256), rules, seed=0)
    >>> report.ok, report["weight"].planned_std, round(report["weight"].std, 4)
    (True, 0.0625, 0.0624)
    """
    with _meeting(confirm) as meet:
        if callable(how) and isinstance(model, nn.Module):
            check_function(how, options)
            fitting = fit(model, plan_recorded(model, how, fallback=fallback, only=only), only=only)
        else:
            fitting = planned(model, _rules(how, fallback), options, only=only)
        if fitting.slots and all(slot.tensor.is_meta for slot in fitting.slots.values()):
            seed = chosen_seed(model, None, seed)
            write = functools.partial(applied, seed=seed, progress=progress, meet=meet)
            return allocated(fitting, write, device="cpu", dtype=None)
        return applied(fitting, seed, progress, meet)


@on_values
def save(
    model: nn.Module,
    plan: Plan,
    path: str | PathLike[str],
    seed: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    cast_buffers: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    drop_ties: bool | None = None,
    force: bool = False,
    model_name: str | None = None,
    progress: Progress | bool | None = None,
) -> Report:
    """Write a plan's values to safetensors files in the folder ``path``, without initializing or allocating the model.

    The files are ``path/model.safetensors``; or, if that would be larger than ``max_shard_size``, several files such as
    ``model-00001-of-00003.safetensors`` with ``model.safetensors.index.json``, named and filled as by transformers'
    ``save_pretrained``. ``path/zeta.json`` has the seed, the stream's version and the plan, so that ``verify(path)``
    can check every value later. For a transformers model there are also ``config.json`` and, if it generates text,
    ``generation_config.json``, so that its ``from_pretrained(path)`` loads it. Either all files appear, complete, or
    none. The temporary memory is a tile of 2 MiB (16 MiB if torch computes it) for each of torch's threads and one or
    two more; and one whole parameter if its initializer needs whole matrices.

    If the call fails or is interrupted, the folder does not change, except that unfinished files may stay in
    ``path/.zeta-partial``: if there are several, or one of at least 64 MiB. The same call resumes from them: it
    computes every value again, compares it with the files, and writes only what differs or is missing.

    Args:
        model: the model, usually on meta. Kept parameters and buffers are copied from it and need real memory.
        plan: a plan of this model. Non-persistent buffers are not saved.
        path: the folder; created if missing.
        seed: as for ``apply_``.
        dtype: as for ``materialize_``; by default the plan's.
        cast_buffers: as for ``materialize_``.
        max_shard_size: the most bytes of tensors in one file, as a number or a text such as ``"5GB"``. A tensor is
            never divided; a larger one gets a separate file.
        drop_ties: store a tied tensor once, as transformers' ``save_pretrained`` does, instead of under each of its
            names. By default, only for a transformers model: ``load_state_dict(strict=True)`` needs every name.
        force: replace the files that the manifest of an earlier run names, and no others; and discard the unfinished
            files of an interrupted run with another request.
        model_name: a note for the manifest.
        progress: as for ``apply_``.

    Raises:
        TargetError: a parameter that cannot be saved: parametrized, with other ties than the plan's, or kept while on
            meta.
        SpecError: a path, seed, dtype or size that is not allowed.
        CheckpointError: files exist, no permission, no space, a name or dtype that the format does not support, another
            run is writing there, or an interrupted run had another request.

    >>> import tempfile
    >>> from zeta import record
    >>> model, plan = record(nn.Linear, 64, 32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = save(model, plan, folder, max_shard_size="8KB", dtype=torch.bfloat16)
    ...     report.nbytes, verify(folder).ok
    (4160, True)
    """
    if not isinstance(plan, Plan):
        raise SpecError(f"expected a Plan from zeta.plan(model, ...) or zeta.record(...), got {shown(plan)}")
    plan = cast(plan, model, dtype, buffers=cast_buffers)
    folder, settings = output_path(path), settings_of(model, plan)
    request = Manifest(
        seed=draw_seed() if seed is None else check_seed(seed),  # one process writes the whole model
        plan=plan,
        drop_ties=bool(settings) if drop_ties is None else drop_ties,
        max_shard_size=bytes_of(max_shard_size),
        settings=settings,
        model=model_name,
    )
    return saved(model, request, folder, force=force, progress=progress)


@on_values
def verify(
    target: nn.Module | str | PathLike[str],
    plan: Plan | None = None,
    seed: int | None = None,
    *,
    only: Only | None = None,
    prefix: str | None = None,
    name_map: NameMap | None = None,
    reduce: bool | ProcessGroup = False,
    progress: Progress | bool | None = None,
    source: Checkpoint | None = None,
) -> Verification:
    """Compute every value again and compare bit by bit.

    Args:
        target: a folder that ``save`` wrote, without further arguments; or a model, with its plan and seed.
        plan: for a model, its plan.
        seed: for a model, its seed.
        only: for a model, restrict to some parameters, as in ``apply_``.
        prefix: for a part of a model, as in ``apply_``.
        name_map: for a part of a model, as in ``apply_``.
        reduce: for a model of several processes: combine the results of all, so that each process returns the same:
            ``True`` for the default process group, or a process group that this process is in. Each of its processes
            must make this call, which communicates (``all_gather_object``). First they compare their requests, as with
            ``confirm`` of ``apply_``; differences, and errors of a rank, are problems of the result.
        progress: ``True`` for a bar, or a function, as for ``apply_``; called with each tensor that was compared.
        source: for a folder of ``zeta adapt``, the checkpoint that its tensors were copied from, to compare them with.
            Without it, they are compared with the SHA-256 that they had then.

    For a sharded model, each process compares its local shards.

    Raises:
        CheckpointError: the folder has no manifest, or a damaged one, or one of another stream version.
        SpecError: a model without plan and seed, or a folder with them.
        ForkError: this process was forked from one that had used torch's threads, so that torch would wait forever.
    """
    check_threads()
    check_progress(progress)
    own = any(argument is not None for argument in (plan, seed, only, prefix, name_map))
    if not isinstance(target, nn.Module) and reduce is False:
        folder = _folder(target, own)
        with progress_of(progress) as tell, contextlib.ExitStack() as stack:
            held = None if source is None else stack.enter_context(open_source(source))
            return verify_folder(folder, tell, held)
    if source is not None:
        raise SpecError("source= is for a folder that has tensors of another checkpoint")

    def asked() -> PreparedVerification:
        if not isinstance(target, nn.Module):
            raise SpecError(f"{_folder(target, own)} is a folder, which one process compares; leave reduce= out")
        if plan is None or seed is None:
            raise SpecError("verify needs the plan and the seed that the model was initialized with")
        check_seed(seed)
        return verification.prepare_verification(fit(target, plan, only=only, naming=naming(prefix, name_map)), seed)

    groups = ranks.groups_of(reduce, "reduce")
    with progress_of(progress) as tell:
        return verification.reduced(asked, groups, tell) if groups else asked().compare(tell)


# -- shared by the verbs -----------------------------------------------------------------------------------------------


def _meeting(confirm: bool | ProcessGroup) -> contextlib.AbstractContextManager[Meet]:
    return ranks.meeting(ranks.groups_of(confirm, "confirm"), "nothing was changed")


def _rules(how: How, fallback: Fallback | None) -> How:
    if fallback is not None:
        raise SpecError("fallback= is for a function, whose operations may not all be recordable; rules need none")
    return how


def _folder(target: Any, own: bool) -> Path:
    if not isinstance(target, str | PathLike):
        check_module(target, "a torch.nn.Module or the path of a folder")
    if own:
        raise SpecError("a folder has its own plan and seed in zeta.json; pass the path alone")
    return output_path(target, "the folder")
