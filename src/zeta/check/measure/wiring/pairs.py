"""Run two samples in eval mode, change one of them, and see what moves.

No other sample's output may move, the changed one's must, and the logits of earlier tokens may not where the loss is
that of next tokens. Two passes over two samples; more only where one of these seems to be wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import nn

from zeta.check.facts.evidence import Pass
from zeta.check.facts.wiring import Pairs
from zeta.check.measure.wiring.passes import ahead, alike, comparable, moves, outputs_of, resolution
from zeta.check.measure.wiring.samples import Two, UndecidedError, count_of, two_of
from zeta.check.measure.wiring.where import constant_of, encodes, leak_of, mixing
from zeta.check.watch.batches import Call
from zeta.check.watch.streaming.source import NOTHING, Source
from zeta.check.watch.streaming.stream import forward_only

#: the rules that two samples are run for
PAIR_RULES: Final = ("Z905", "Z907", "Z908", "Z909")


def pairs(model: nn.Module, call: Call, seen: Pass, limit: float, source: Source = NOTHING) -> Pairs:
    """What two samples show. Must be called inside of :func:`~zeta.check.watch.isolation.preserved`.

    Args:
        model: the model, not sharded.
        call: the batch.
        seen: the observations of the pass over the whole batch.
        limit: the change of an output, over its rms, that counts.
        source: computes the parameters that are on meta.
    """
    call = replace(call, around=forward_only(source).running)
    try:
        two = two_of(model, call, seen)
        return _compared(model, two, seen, max(limit, resolution(model)), source)
    except UndecidedError as reason:
        return Pairs(skipped=tuple((rule, str(reason)) for rule in PAIR_RULES))


def _compared(model: nn.Module, two: Two, seen: Pass, limit: float, source: Source) -> Pairs:
    before, after = outputs_of(model, two.first), outputs_of(model, two.second)
    names = comparable(before, seen.wires.outputs, count_of(two.first))
    most = max(moves(before[name], after[name])[1] for name in names)
    found = Pairs()
    if most > limit:
        found = replace(found, mixing=mixing(model, two, most, limit))
    if not seen.varies and all(alike(before[name], after[name]) for name in names):
        found = replace(found, constant=constant_of(model, two, source))
    changes = ahead(before, after, two)
    if changes is not None:
        earlier, own = changes
        leaks = earlier > limit
        found = replace(found, copies=not leaks and own > limit)
        if leaks:
            leak, masked = leak_of(model, two, earlier, limit)
            found = replace(found, leak=leak, masked=masked, encoded=encodes(model))
    return found
