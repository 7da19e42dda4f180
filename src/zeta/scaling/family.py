"""A family of models: from a size to a model of that size, initialized and with the groups of its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zeta import verbs
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import record
from zeta.resolve.scaling.groups import base_numbers
from zeta.resolve.scaling.schemes import is_absolute
from zeta.resolve.scaling.table import check_optimizer
from zeta.scaling.verb import scale

Made = tuple[nn.Module, list[dict[str, Any]]]


def family(
    build: Callable[..., nn.Module],
    base: Mapping[str, Any],
    argument: str,
    how: str = "mup",
    *,
    lr: float,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Callable[[int], Made]:
    """A function from a size to a model of that size, and the groups of its optimizer; for ``zeta.check``.

    The model has the values, multipliers and rates that :func:`zeta.scale` gives it, relative to the base. The base
    itself starts as its constructor, or ``init=``, says, and has one group.

    Args:
        build: a class or function that returns a module.
        base: its arguments at the size that ``lr`` is for.
        argument: the name of the one that varies, such as ``"d_model"``.
        how: as for :func:`zeta.scale`.
        lr: the learning rate of the base.
        optimizer: as for ``Scaling.param_groups``.
        weight_decay: that of the base.
        seed: of all sizes.
        options: others of :func:`zeta.scale`, such as ``init=``.

    Raises:
        SpecError: ``argument`` is not in ``base``, or a number that is not allowed. When a size is built, what
            :func:`zeta.scale` raises; and for the size of the base under ``"umup"``, whose numbers are those of each
            size, and none of a base.

    >>> from torch import nn
    >>> def build(width):
    ...     return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2))
    >>> model, groups = family(build, dict(width=64), "width", lr=1e-2)(256)
    >>> print(model[1].weight.shape[0], [(group["name"], group["lr"]) for group in groups if "hidden" in group["name"]])
    256 [('hidden, lr x 0.25', 0.0025)]
    """
    if not isinstance(base, Mapping) or argument not in base:
        raise SpecError(f"base must be a mapping of arguments with {argument!r}, which varies; got {shown(base)}")
    numbers = base_numbers(check_optimizer(optimizer), lr=lr, weight_decay=weight_decay)

    def made(size: int) -> Made:
        target = {**base, argument: size}
        if size == base[argument] and is_absolute(how):
            raise SpecError(
                f"{how} has numbers of each size itself, and its base, {argument}={size}, only says what grows; give "
                "a base that is smaller than all sizes"
            )
        model, recorded = record(build, fallback=options.get("fallback"), **target)
        if size == base[argument]:
            verbs.materialize_(model, _own(model, recorded, options.get("init")), seed)
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            return model, [{"params": parameters, "name": "base", **numbers}]
        scaling = scale(build, base, target, how, **options)
        verbs.materialize_(model, scaling.plan, seed)
        scaling.apply_multipliers_(model)
        return model, scaling.param_groups(model, optimizer, lr=lr, weight_decay=weight_decay)

    return made


def _own(model: nn.Module, recorded: Plan, init: Any) -> Plan:
    """The plan of the base."""
    if init is None:
        return recorded
    return init if isinstance(init, Plan) else verbs.plan(model, init)
