"""The verb ``adapt_``: start a model from an existing checkpoint. Loads, grows, initializes the rest, and reports."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from zeta.adapting.beyond import warn_of_loading, warn_of_sources
from zeta.adapting.configuration import check_plain, table_of_tokens, warn_of_tokens
from zeta.adapting.old import old_builder, old_form
from zeta.base.modules import check_module, modules_of
from zeta.base.progress import check_progress, progress_of
from zeta.base.sources import Checkpoint, Source, open_source
from zeta.compute.stream.random import check_seed, draw_seed
from zeta.errors import SpecError, TargetError, listed, notice
from zeta.growing import Growth, check_grow
from zeta.report import ranks
from zeta.report.adapted import AdaptReport, Subject
from zeta.report.applied import Meet, applied, saved
from zeta.report.report import Report
from zeta.resolve.adapting import Adaption, adaption
from zeta.resolve.fitting import Fit, Only
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import Fallback
from zeta.resolve.slots import unwrap
from zeta.resolve.submodels import NameMap, naming
from zeta.rules import Rules
from zeta.write.apply import Progress, prepare
from zeta.write.checkpoint import MAX_SHARD_SIZE, bytes_of, check_apart, output_path, request_of
from zeta.write.guards import on_values
from zeta.write.loading import check_loadable, load, tie_problems
from zeta.write.materialize import allocated
from zeta.write.seeds import seed_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: ranks meet between loading, which may fail on some, and drawing
_UNCONFIRMED: Final = "nothing was drawn, and a model with memory may have the checkpoint's values"
#: what the rest gets
AdaptHow = Rules | str | Plan | Callable[[Any], object] | None


@on_values
def adapt_(
    model: nn.Module,
    source: Checkpoint,
    how: AdaptHow = None,
    seed: int | None = None,
    *,
    grow: Mapping[str, Growth] | None = None,
    allow: Only | None = None,
    prefix: str | None = None,
    name_map: NameMap | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | bool | None = None,
    confirm: bool | ProcessGroup = False,
    fallback: Fallback | None = None,
    **options: Any,
) -> AdaptReport:
    """Start a model from an existing checkpoint: load what fits, grow what is to grow, initialize the rest.

    What is initialized gets exactly the values that a full run of ``how`` with this seed would give it.

    Args:
        model: the new model, on meta or with memory, plain or sharded (DTensor). On meta it gets memory.
        source: a state dict or a model; a safetensors file; a folder in Hugging Face layout, or of
            ``torch.distributed.checkpoint``, or that ``zeta.save`` wrote; a ``.pt`` file of tensors alone. It is read
            in parts: of a sharded model, each process reads what it holds.
        how: what the parameters get that the checkpoint lacks: rules, the name of a recipe, a plan such as a recorded
            one, or a function, as for :func:`~zeta.plan`. It need not cover what is loaded. ``None`` if nothing is
            missing.
        seed: as for ``apply_``.
        grow: what becomes larger: a mapping of names or globs to :class:`~zeta.Rows`, :class:`~zeta.Layers` or
            :class:`~zeta.Experts`.
        allow: names or globs of tensors that need not be in both: the checkpoint's are then not used, and the model's
            of another shape are initialized.
        prefix: if the model is a part of the checkpoint's: the prefix that makes its names the checkpoint's.
        name_map: a function from the model's names to the checkpoint's, or a dictionary of names of modules or
            parameters.
        device: for a model on meta, where it gets memory.
        dtype: for a model on meta, as for ``materialize_``. Values are converted to the model's dtypes.
        progress: as for ``apply_``, of what is loaded.
        confirm: as for ``apply_``.
        fallback: for a function, as for ``record``.
        options: of a recipe.

    If the embedding of a transformers model was grown, its ``config.vocab_size`` becomes the new number of rows.

    Raises:
        PlanError: a tensor that is missing, of another shape, or in the checkpoint only. All of them are listed.
        CheckpointError: the checkpoint cannot be read, or is no checkpoint. If that happens while it is loaded, a model
            on meta is on meta as before, and of a model with memory the message says how much was loaded.
        TargetError: tensors that cannot be written.

    >>> old, new = nn.Linear(4, 2), nn.Linear(4, 3)
    >>> from zeta import Rows
    >>> from zeta.initializers import Normal, Zeros
    >>> report = adapt_(new, old.state_dict(), seed=0, grow={"*": Rows(Zeros())})
    >>> new.weight[2], torch.equal(new.weight[:2], old.weight)
    (tensor([0., 0., 0., 0.], grad_fn=<SelectBackward0>), True)
    >>> report.preserved(torch.ones(1, 4), old).difference < 1e-6
    True
    """
    check_module(model)
    check_progress(progress)
    grow = {} if grow is None else check_grow(grow)
    if not isinstance(how, str) and options:
        raise SpecError(f"only recipes have options, got {', '.join(options)}")
    seed = seed_of(model) if seed is None else check_seed(seed)
    begin = time.perf_counter()
    with ranks.meeting(ranks.groups_of(confirm, "confirm"), _UNCONFIRMED) as meet, open_source(source) as held:
        build = old_builder(model, held)
        check_plain(model, held)
        found = adaption(
            model, held, how, seed=seed, grow=grow, allow=allow, naming=naming(prefix, name_map), fallback=fallback,
            options=options, old=functools.partial(_old_form, model, source, held),
        )  # fmt: skip
        _warn(found)
        warn_of_sources(found)
        warn_of_loading(model)
        write = functools.partial(_written, adaption=found, seed=seed, progress=progress, meet=meet)
        if any(slot.tensor.is_meta for slot in found.fit.slots.values()):
            report = allocated(found.fit, write, device=device, dtype=dtype, given=found.given)
        else:
            report = write(found.fit)
    _follow_config(model, found)
    again = functools.partial(_refill, source=source, naming=naming(prefix, name_map))
    subject = Subject(model=model, build=build, fill=again)
    sizes = {name: slot.tensor.nbytes for name, slot in found.fit.slots.items()}
    return _report(report, found, sizes, subject, time.perf_counter() - begin)


@on_values
def adapt_folder(
    model: nn.Module,
    source: Checkpoint,
    path: str | PathLike[str],
    how: AdaptHow = None,
    seed: int | None = None,
    *,
    grow: Mapping[str, Growth] | None = None,
    allow: Only | None = None,
    prefix: str | None = None,
    name_map: NameMap | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    drop_ties: bool | None = None,
    force: bool = False,
    model_name: str | None = None,
    progress: Progress | bool | None = None,
    fallback: Fallback | None = None,
    **options: Any,
) -> AdaptReport:
    """Write what ``adapt_`` would give a model to the folder ``path``, from tile to tile, without allocating the model.

    What is written, resumed and replaced is as for ``save``; files of settings and of a tokenizer beside the source are
    copied. The manifest has the SHA-256 of what is from the source, so that ``verify(path)`` can check both parts.

    Args:
        model: the new model, usually on meta.
        source: as for ``adapt_``.
        path: the folder, another than the source's.
        how: as for ``adapt_``.
        seed: from 0 to 2^64 - 1; ``None`` draws one from torch's generator.
        grow: as for ``adapt_``.
        allow: as for ``adapt_``.
        prefix: as for ``adapt_``.
        name_map: as for ``adapt_``.
        dtype: of the parameters. By default, what is from the source has its dtype there, and what is drawn that of
            most of the source.
        max_shard_size: as for ``save``.
        drop_ties: as for ``save``.
        force: as for ``save``.
        model_name: a note for the manifest.
        progress: as for ``save``.
        fallback: for a function, as for ``record``.
        options: of a recipe.

    Raises the errors of ``adapt_`` and ``save``. Checkpoint and model are compared before anything is written.
    """
    check_module(model)
    check_progress(progress)
    grow = {} if grow is None else check_grow(grow)
    if not isinstance(how, str) and options:
        raise SpecError(f"only recipes have options, got {', '.join(options)}")
    seed = draw_seed() if seed is None else check_seed(seed)
    folder = output_path(path)
    begin = time.perf_counter()
    with open_source(source) as held:
        check_apart(folder, held)
        check_plain(model, held)
        found = adaption(
            model, held, how, seed=seed, grow=grow, allow=allow, naming=naming(prefix, name_map), fallback=fallback,
            options=options, old=functools.partial(_old_form, model, source, held),
        )  # fmt: skip
        _warn(found)
        warn_of_sources(found)
        if problems := tie_problems(found):
            raise TargetError(listed("these tensors cannot be copied; nothing was written:", problems))
        warn_of_loading(model)
        _follow_config(model, found)
        request, copies = request_of(
            found, held, seed=seed, dtype=dtype, max_shard_size=bytes_of(max_shard_size), drop_ties=drop_ties,
            model_name=model_name,
        )  # fmt: skip
        warn_of_tokens(model, copies.get("tokenizer.json"))
        report = saved(model, request, folder, force=force, progress=progress, given=found.given, copies=copies)
    sizes = {entry.name: entry.nbytes for entry in request.plan}
    return _report(report, found, sizes, None, time.perf_counter() - begin)


def _written(fit: Fit, *, adaption: Adaption, seed: int, progress: Progress | bool | None, meet: Meet) -> Report:
    """Check everything, then load, then draw. ``fit`` is the adaption's, after a cast."""
    from msgspec.structs import replace

    cast = replace(adaption, fit=fit)
    check_loadable(cast)
    prepare(fit, seed)
    with progress_of(progress) as tell:
        load(cast, tell)
    return applied(fit, seed, None, meet)


def _refill(model: nn.Module, source: Checkpoint, naming: NameMap | None) -> None:
    """Give an old model the checkpoint's values."""
    adapt_(model, source, seed=0, name_map=naming, allow="*")


def _old_form(model: nn.Module, source: Checkpoint, held: Source) -> nn.Module | None:
    return source if isinstance(source, nn.Module) else old_form(model, held)


def _warn(found: Adaption) -> None:
    """Give a notice of what is known against it that new blocks leave the outputs as they are."""
    if found.against:
        notice(
            "new blocks add nothing, and the outputs change nevertheless: " + "; ".join(found.against) + ". "
            'Layers(how="stack"), of copies, is as good a start there'
        )


def _follow_config(model: nn.Module, found: Adaption) -> None:
    """Let the configuration of a transformers model have the new number of tokens."""
    grown = {id(found.fit.slots[name].tensor) for name, given in found.given.items() if given.spans is not None}
    for module in modules_of(unwrap(model)):
        config: Any = getattr(module, "config", None)
        weight = None if config is None or not grown else table_of_tokens(module)
        if weight is not None and id(weight) in grown:
            # that of a model with several parts has the one of its language model inside
            inner = config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config
            for one in (config, inner):
                if getattr(one, "vocab_size", weight.shape[0]) != weight.shape[0]:
                    one.vocab_size = int(weight.shape[0])


def _report(
    report: Report, found: Adaption, sizes: Mapping[str, int], subject: Subject | None, seconds: float
) -> AdaptReport:
    texts = {name: given.values.text for name, given in found.given.items()}
    loaded = {name: texts[name] for name, given in found.given.items() if given.outcome == "loaded"}
    grown = {name: text for name, text in texts.items() if name not in loaded}
    own = {item.name: getattr(report, item.name) for item in fields(Report)}
    kept = tuple(name for name in report.kept if name not in found.given)
    own |= {
        "kept": kept,
        "kept_nbytes": sum(sizes[name] for name in kept),
        "seconds": seconds,
    }
    expected = "changed" if not found.preserving else "equal" if found.exact else "equal up to rounding"
    return AdaptReport(
        **own,
        loaded=loaded,
        grown=grown,
        unused=found.unused,
        loaded_nbytes=sum(sizes[name] for name in loaded),
        expected=expected,
        subject=subject,
    )
