"""The operands of ``zeta diff``: turn each text of the command line into a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import nn

from zeta.base.reading import LARGEST_DOCUMENT, is_file, is_folder, parse, read_bytes
from zeta.command.loading import FORMS, record_model, with_buffers
from zeta.errors import PlanError, UsageError, ZetaError
from zeta.resolve.casting import cast
from zeta.resolve.planning import plan
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import Fallback
from zeta.rules.file import read_rules
from zeta.write.checkpoint import MANIFEST

#: a model on meta, and the plan of what its constructor does
Recorded = tuple[nn.Module, Plan]
_HOW: Final = ("recipe", "rules")


class _Around(msgspec.Struct, frozen=True):
    """A JSON document that may contain a plan."""

    plan: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, kw_only=True)
class Operand:
    """One side of a comparison: its label, and its plan."""

    label: str
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Building:
    """How the models among the operands are built and recorded."""

    kwargs: dict[str, Any]
    dtype: torch.dtype | None
    fallback: Fallback | None
    cast_buffers: bool = False


def operands(a: str, b: str, building: Building) -> tuple[Operand, Operand]:
    """Resolve both operands.

    Each is a model, which is recorded; a plan in JSON; a folder of ``zeta init``; or ``recipe:NAME`` or ``rules:FILE``,
    applied to the model of the other operand.

    Raises:
        UsageError: an operand does not exist or is none of these; or a recipe has no model, or does not fit it.
        RecordingError: a model's constructor cannot be recorded.
    """
    if _is_how(a) and _is_how(b):
        raise UsageError(
            f"{a} and {b} both need a model to be applied to. Write one plan to a file, zeta plan MODEL --recipe NAME "
            "--json > plan.json, or both, and compare these"
        )
    if _is_how(a):
        two, recorded = _resolved(b, building)
        return _applied(a, recorded, b, building), two
    one, recorded = _resolved(a, building)
    return one, _applied(b, recorded, a, building) if _is_how(b) else _resolved(b, building)[0]


def _is_how(text: str) -> bool:
    return text.partition(":")[0] in _HOW and ":" in text


def _resolved(text: str, building: Building) -> tuple[Operand, Recorded | None]:
    """The operand, and what was recorded of it if it is a model."""
    path = Path(text)
    if is_folder(path):
        if not is_file(path / MANIFEST):
            raise UsageError(f"{text} has no {MANIFEST}, so zeta init did not write it; a configuration is hf:{text}")
        return Operand(label=text, plan=_read(path / MANIFEST)), None
    if path.suffix == ".json" and not text.startswith("hf:"):
        return Operand(label=text, plan=_read(path)), None
    if ":" not in text:
        raise UsageError(f"cannot tell what {text!r} is: expected a folder of zeta init, a plan.json, or {FORMS}")
    model, recorded = record_model(text, building.kwargs, building.fallback)
    operand = Operand(label=text, plan=cast(recorded, model, building.dtype, buffers=building.cast_buffers))
    return operand, (model, recorded)


def _read(path: Path) -> Plan:
    """The plan in a file: the whole file, or inside a manifest or the output of ``zeta init --json``."""
    try:
        content = read_bytes(path, LARGEST_DOCUMENT)
        around = parse(content, _Around).plan
        return Plan.from_json(content if around is msgspec.UNSET else bytes(around))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ZetaError as error:
        raise UsageError(f"{path} cannot be read as a plan: {error}") from error


def _applied(how: str, recorded: Recorded | None, other: str, building: Building) -> Operand:
    """A recipe or rule file, applied to the model of the other operand."""
    if recorded is None:
        raise UsageError(
            f"{how} is applied to a model, and {other} is a plan. Give the model, or write what {how} plans to a file: "
            f"zeta plan MODEL --{' '.join(how.split(':', 1))} --json > plan.json"
        )
    word, _, name = how.partition(":")
    model, own = recorded
    try:
        decided = plan(model, name if word == "recipe" else read_rules(Path(name), model))
    except PlanError as error:
        misfit = "" if word == "recipe" else f"{word} {name} does not fit: "  # a recipe's error says so
        raise UsageError(f"{other}: {misfit}{error}") from error
    decided = with_buffers(decided, model, lambda: own)
    return Operand(label=f"{word} {name}", plan=cast(decided, model, building.dtype, buffers=building.cast_buffers))
