"""The buffers that a constructor computes, such as masks: a recipe or rules keep them, and a model on meta has none."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from zeta.errors import UsageError, ZetaError, listed
from zeta.resolve.plans import Plan
from zeta.resolve.slots import walk, without_value
from zeta.rules import Kind


def with_buffers(decided: Plan, model: nn.Module, recorded: Callable[[], Plan]) -> Plan:
    """The plan, with the constructor's values for the buffers that it keeps and that are on meta.

    ``recorded`` gives the plan of what the constructor does; it is called only if there are any. Raises ``UsageError``
    if the constructor cannot be recorded.
    """
    kept = {name for entry in decided if entry.kept for name in (entry.name, *entry.ties)}
    lost = {slot.name for slot in without_value(walk(model), kept) if slot.kind is Kind.BUFFER}
    if not lost:
        return decided
    try:
        own = recorded()
    except ZetaError as error:
        raise UsageError(
            listed(
                f"the constructor computes these buffers, and cannot be recorded ({error}); build the model with "
                "--device cpu:",
                sorted(lost),
            )
        ) from error
    return Plan(tuple(own[entry.name] if entry.name in lost else entry for entry in decided))
