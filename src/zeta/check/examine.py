"""The verb: look at a model, judge what was seen, and leave everything as it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torch import nn

from zeta import __version__
from zeta.check import rules as judges
from zeta.check.evidence import Evidence, Held
from zeta.check.isolation import preserved
from zeta.check.losses import LossFunction
from zeta.check.probe import Probe, probe
from zeta.check.report import CheckReport
from zeta.check.results import Parameter
from zeta.check.suppression import Suppression
from zeta.check.tensors import held
from zeta.check.thresholds import Thresholds
from zeta.errors import LayerTypeError, SpecError
from zeta.names import Slot, unwrap, walk
from zeta.plans import Plan

Level = Literal["fast", "full"]
_LEVELS: Final = ("fast", "full")


def check(
    model: nn.Module,
    batch: Any,
    loss: LossFunction | None = None,
    level: Level = "fast",
    plan: Plan | None = None,
    *,
    suppress: Sequence[str] = (),
    thresholds: Thresholds | None = None,
) -> CheckReport:
    """Tell whether a network can learn from where it starts. Nothing of the model is changed."""
    begin = time.perf_counter()
    inner = _checked(model, level, plan)
    suppression = Suppression(suppress)
    limits = thresholds or Thresholds()
    with preserved(inner):
        slots = list(walk(inner))
        seen = probe(inner, slots, batch, loss)
        evidence = _evidence(slots, seen, plan, limits)
        findings = judges.judge(evidence)
    reported, suppressed = suppression.split(findings)
    return CheckReport(
        model=type(inner).__name__,
        level=level,
        findings=reported,
        suppressed=suppressed,
        layers=tuple(use.layer for use in evidence.uses),
        parameters=tuple(_parameter(one, evidence) for one in evidence.held),
        loss=evidence.loss,
        points=evidence.points,
        seconds=time.perf_counter() - begin,
        versions=(("zeta", __version__), ("torch", torch.__version__)),
        device=str(next((one.slot.tensor.device for one in evidence.held), torch.device("cpu"))),
    )


def _checked(model: nn.Module, level: str, plan: Plan | None) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise LayerTypeError(f"expected a torch.nn.Module, got {model!r}")
    if level not in _LEVELS:
        raise SpecError(f"level must be one of {', '.join(_LEVELS)}, got {level!r}")
    if plan is not None and not isinstance(plan, Plan):
        raise SpecError(f"plan must be a Plan from zeta.plan or zeta.record, got {plan!r}")
    return unwrap(model)


def _evidence(slots: list[Slot], seen: Probe, plan: Plan | None, limits: Thresholds) -> Evidence:
    parameters = frozenset(name for use in seen.uses for name in use.layer.parameters) | frozenset(
        slot.name for slot in slots if _owner(slot.name) in seen.used
    )
    return Evidence(
        held=held(slots, seen, plan, parameters),
        uses=seen.uses,
        loss=seen.loss,
        loss_value=seen.objective_value,
        surrogate=seen.surrogate,
        differentiable=seen.differentiable,
        batch_signal=seen.batch_signal,
        outputs=seen.outputs,
        output_signals=seen.output_signals,
        thresholds=limits,
    )


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _parameter(one: Held, evidence: Evidence) -> Parameter:
    units = evidence.duplicates.get(one.name)
    return Parameter(
        name=one.name,
        ties=one.ties,
        shape=one.slot.shape,
        dtype=str(one.slot.tensor.dtype).removeprefix("torch."),
        trainable=one.trainable,
        buffer=one.buffer,
        initializer=None if one.entry is None else str(one.entry.initializer),
        planned_mean=None if one.entry is None else one.entry.mean,
        planned_std=None if one.entry is None else one.entry.std,
        values=one.stats,
        gradient=one.gradient_stats,
        units=None if units is None else units[0],
        distinct=None if units is None else units[1],
        update=evidence.updates.get(one.name),
        spectral=evidence.spectral.get(one.name),
    )
