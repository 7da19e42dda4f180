"""Find what cuts parameters off from the loss: only where a parameter that was used has no gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.check.facts.wiring import Break, Cut
from zeta.check.measure.wiring.noise import changing
from zeta.check.watch.batches import Call, tensors_in
from zeta.check.watch.calls import Quiet, plainly
from zeta.check.watch.criteria.objective import LossFunction, objective
from zeta.check.watch.isolation import preserved
from zeta.check.watch.streaming.source import NOTHING
from zeta.check.watch.streaming.source import Source as Supplied
from zeta.check.watch.streaming.stream import forward_only
from zeta.check.watch.wiring.dependence import Dependence, Places, Source
from zeta.resolve.slots import named_modules

# changes of a parameter, over its rms: what a comparison decides may not turn at the first one
_CHANGES: Final = (0.1, 1.0)
# the relative change of a loss that rounding does not explain, in units of fp32's resolution
_ROUNDING: Final = 16 * torch.finfo(torch.float32).eps


def cuts(
    model: nn.Module, call: Call, loss: LossFunction | None, without: Mapping[int, str], source: Supplied = NOTHING
) -> tuple[Cut, ...]:
    """What cuts these parameters off from a loss that depends on them.

    One pass follows what the loss depends on. For each operation that was found, further passes change its parameters:
    if the loss does not move, they are left out. Those that ``detach`` or ``no_grad`` cut off are not changed.

    Args:
        model: the model, not sharded.
        call: the batch.
        loss: as given to ``check``.
        without: the names of trainable parameters without a gradient, or with one of exactly zero, by ``id``.
        source: computes the parameters that are on meta.
    """
    places = Places(named_modules(model))
    followed = Dependence(without, places)
    # the mode that computes parameters is the outer one: operations are followed with the parameters themselves
    with preserved(model), plainly(model), places.watching(), forward_only(source).running(), Quiet(), followed:
        output = call.output_of(model)
        aim = objective(output, call, loss)
        ends = _ends(output) if aim.surrogate else [aim.value]
        sources = frozenset[Source]().union(*(followed.sources(end) for end in ends))
    reached = {name: cut for name, cut in sources if cut is not None}
    attached = {name for name, cut in sources if cut is None}
    groups: dict[tuple[Break, bool], list[str]] = {}
    for name in without.values():
        cut = reached.get(name, followed.exits.get(name))
        if cut is not None and name not in attached:
            groups.setdefault((cut, name not in reached), []).append(name)
    found: list[Cut] = []
    for (cut, handed), names in groups.items():
        moved = None
        if not cut.explicit:
            moved = _moved(model, call, loss, float(aim.value.detach()), frozenset(names), without, source)
        if moved is None or moved > _ROUNDING:
            found.append(Cut(at=cut, parameters=tuple(dict.fromkeys(names)), handed=handed, moved=moved))
    return tuple(found)


def _ends(output: Any) -> list[Tensor]:
    """The outputs that stand for the loss: those with a gradient, as others may be decisions that no loss needs."""
    tensors = [tensor for _, tensor in tensors_in(output)]
    return [tensor for tensor in tensors if tensor.requires_grad] or tensors


def _moved(
    model: nn.Module,
    call: Call,
    loss: LossFunction | None,
    before: float,
    chosen: frozenset[str],
    names: Mapping[int, str],
    source: Supplied,
) -> float:
    """The largest relative change of the loss when some parameters change."""
    most = 0.0
    keys = frozenset(key for key, name in names.items() if name in chosen)
    for size in _CHANGES:
        with preserved(model), plainly(model), changing(model, source, size, keys), Quiet():
            value = objective(call.output_of(model), call, loss).value
        most = max(most, abs(float(value.detach()) - before) / max(abs(before), torch.finfo(torch.float32).tiny))
        if not math.isfinite(most) or most > _ROUNDING:
            break
    return most
