"""Run a check for the command line: find batch and loss, check, write the files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from torch import nn

from zeta import verbs
from zeta.base.generators import apart
from zeta.base.modules import tensors_of
from zeta.base.text import bytes_text
from zeta.check.arguments import Level
from zeta.check.examine import check
from zeta.check.measure.effort import CheckProgress
from zeta.check.show.report import CheckReport
from zeta.check.show.serial import to_json
from zeta.check.show.terminal import brief
from zeta.command.loading import find_callable
from zeta.command.requests import CheckOptions
from zeta.command.samples import batch_for
from zeta.errors import UsageError, ZetaError
from zeta.resolve.plans import Plan
from zeta.write.checkpoint import check_output

#: check rules that need an argument for which the command line has no option
_WITHOUT_OPTION: Final = ("Z101", "Z701")
#: bytes of the largest model that ``zeta init`` builds in memory for its final check, unless a batch is given
LARGEST: Final = 2**30


def run(
    model: nn.Module,
    plan: Plan | None,
    seed: int,
    request: CheckOptions,
    progress: CheckProgress | None = None,
    sweeps: Mapping[str, Any] = MappingProxyType({}),
) -> CheckReport:
    """Check a model with the values of a plan and seed, and write the files that were asked for.

    ``sweeps`` are the arguments of the coordinate check.

    A model with memory gets the values. One on meta stays as it is: the check makes a copy, or computes the parameters
    one at a time, if the copy would take too much memory.

    Raises ``UsageError`` if there is no batch, or if the batch, the loss or the model raises.
    """
    for name, path in (("html", request.html), ("sarif", request.sarif)):
        if path is not None:
            check_output(path, f"--{name}")
    if request.html is not None and request.sarif is not None and request.html.resolve() == request.sarif.resolve():
        raise UsageError(f"--html and --sarif are both {request.html}; give each a name")
    level: Level = "full" if request.level == "full" else "fast"
    if request.level not in ("fast", "full"):
        raise UsageError(f"--level must be fast or full, got {request.level!r}")
    batch = _batch(model, request.batch)
    if batch is None:
        raise UsageError(
            "no batch can be made from this model's configuration; give --batch path/to/batch.py:fn, a function that "
            "returns one"
        )
    loss = None if request.loss is None else find_callable(request.loss, "--loss")
    if plan is not None and not all(tensor.is_meta for tensor in tensors_of(model)):
        verbs.materialize_(model, plan, seed, overwrite=True)  # a model built on the CPU has its constructor's values
    try:
        report = check(
            model,
            batch,
            loss,
            level,
            plan,
            suppress=request.suppress,
            seed=None if plan is None else seed,
            progress=progress,
            **sweeps,
        )
    except ZetaError:
        raise
    except Exception as error:
        raise UsageError(f"the model fails on this batch: {type(error).__name__}: {error}") from error
    report = replace(report, skipped=tuple(pair for pair in report.skipped if pair[0] not in _WITHOUT_OPTION))
    for path, write in ((request.html, report.to_html), (request.sarif, report.to_sarif)):
        if path is not None:
            _write(path, write)
    return report


def after_init(model: nn.Module, plan: Plan, seed: int, batch: str | None) -> CheckReport | str:
    """The fast check of the values that ``zeta init`` wrote, on a copy in memory; or the reason why there is none."""
    if batch is None and plan.nbytes > LARGEST:
        return f"the model has {bytes_text(plan.nbytes)}, more than is built in memory by default; give --batch"
    if batch is None and batch_for(model) is None:
        return "no batch can be made from the model's configuration; give --batch path/to/batch.py:fn"
    try:
        return run(model, plan, seed, CheckOptions(batch=batch))
    except ZetaError as error:
        if batch is not None:
            raise
        return str(error).partition("\n")[0]


def as_text(checked: CheckReport | str) -> str:
    """The result of ``after_init``, for people."""
    return f"not checked: {checked}" if isinstance(checked, str) else f"health check: {brief(checked)}"


def as_data(checked: CheckReport | str) -> dict[str, Any]:
    """The result of ``after_init``, for JSON."""
    return {"skipped": checked} if isinstance(checked, str) else to_json(checked)


def _batch(model: nn.Module, spec: str | None) -> Any:
    if spec is None:
        return batch_for(model)
    function = find_callable(spec, "--batch")
    try:
        with apart(None):
            return function(model) if _takes_one(function) else function()
    except Exception as error:
        raise UsageError(f"--batch {spec} fails: {type(error).__name__}: {error}") from error


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether the function requires an argument, which is the model."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error
