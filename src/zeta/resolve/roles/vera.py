"""VeRA: one pair of frozen random projections for all layers, and two trained vectors in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace
from torch import nn

from zeta.base.modules import check_module, named_modules_of
from zeta.base.text import shape_text
from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers import Constant, Initializer, Uniform, Zeros
from zeta.resolve.entries import Entry
from zeta.resolve.fitting import Fit, Only, chosen_by, fit_of_own
from zeta.resolve.plans import Plan
from zeta.resolve.resolver import entry_of, groups
from zeta.resolve.slots import Slot, walk

#: the names that decide the projections' values, in any model
PROJECTIONS: Final = ("vera_A", "vera_B")
_SCALES: Final = ("vera_lambda_d", "vera_lambda_b")
#: of peft and of the paper
_D_INITIAL: Final = 0.1
_MATRIX: Final = Axes(fan_in=(1,), fan_out=(0,))


def vera_fit(model: nn.Module, *, d_initial: float | None, only: Only | None, projections_only: bool = False) -> Fit:
    """The fit of a model with VeRA and the plan for it: the projections by their fixed names, the vectors by theirs.

    ``d_initial=None`` takes that of the adapter's configuration in the model, else 0.1.
    """
    check_module(model)
    configured = _configured(model)
    slots = walk(model)
    known = [(group, part) for group in groups(slots) if (part := _part(group[0].name)) is not None]
    if not known:
        raise SpecError(
            "the model has no VeRA: no tensor is called vera_A, vera_B, vera_lambda_b or vera_lambda_d, as those of "
            "peft are"
        )
    chosen = chosen_by(only, known, lambda item: [slot.name for slot in item[0]])
    entries: list[Entry] = []
    moved: dict[str, str] = {}
    for group, part in chosen:
        slot = group[0]
        if part in PROJECTIONS:
            if part in moved.values():
                raise SpecError(
                    f"{slot.name} is a second {part}, and all layers share one; tie them, or select one with only="
                )
            if len(slot.shape) != 2:
                raise SpecError(f"{slot.name} must be a matrix, found {shape_text(slot.shape)}")
            moved |= {each.name: part if each is slot else f"{part} of {each.name}" for each in group}
        elif projections_only:
            continue
        law = _law(part, slot, configured(slot.name) if d_initial is None else d_initial)
        entry = entry_of(slot, law, _MATRIX if part in PROJECTIONS else None)
        name = moved.get(slot.name, slot.name)
        entries.append(replace(entry, name=name, rule=f"VeRA {part.removeprefix('vera_')}", persistent=slot.persistent))
    if not entries:
        raise SpecError("only= selects no projection of VeRA")
    renamed = [replace(slot, name=moved.get(slot.name, slot.name)) for slot in slots]
    return fit_of_own(model, Plan(tuple(entries)), renamed)


def _law(part: str, slot: Slot, d_initial: float) -> Initializer:
    if part in PROJECTIONS:
        bound = math.sqrt(6 / max(1, slot.shape[1]))
        return Uniform(-bound, bound)
    return Zeros() if part == "vera_lambda_b" else Constant(d_initial)


def _configured(model: nn.Module) -> Callable[[str], float]:
    """The first value of the scales of A by a tensor's name, which has that of the adapter, as in peft's models."""
    found: dict[str, float] = {}
    for _, module in named_modules_of(model):
        table: Any = vars(module).get("peft_config")
        for adapter, config in table.items() if isinstance(table, Mapping) else ():
            value = getattr(config, "d_initial", None)
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(adapter, float(value))
    return lambda name: next((found[part] for part in reversed(name.split(".")) if part in found), _D_INITIAL)


def _part(name: str) -> str | None:
    """Which part of VeRA a tensor is by its name."""
    parts = name.split(".")
    return next((part for part in parts if part in (*PROJECTIONS, *_SCALES)), None)
