"""Z4: what may be meant, and is a warning at most: linear chains, selections, large biases, the input's scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from zeta.check.facts.evidence import Evidence, TensorFacts, Use
from zeta.check.facts.results import Finding
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge.base import found, percent
from zeta.check.judge.forward import weight_of
from zeta.errors import FanError

_LAYERS: Final = ("Linear", "Conv1d", "Conv2d", "Conv3d")
# biases of closed gates and of rare classes are one negative number: 1/(1 + e^7) is 1e-3
_LOWEST_PRIOR: Final = -7.0


def findings(evidence: Evidence) -> Iterator[Finding]:
    """One finding of each rule: what causes it is usually common to all layers."""
    tensors = {name: one for one in evidence.tensors for name in (one.name, *one.ties)}
    yield from _linear(evidence, tensors)
    yield from _choices(evidence)
    yield from _biases(evidence, tensors)
    yield from _inputs(evidence)


def _linear(evidence: Evidence, tensors: dict[str, TensorFacts]) -> Iterator[Finding]:
    uses = {use.layer.name: use for use in evidence.live}
    pairs = [
        (uses[use.fed_by], use)
        for use in evidence.live
        if use.fed_by in uses and _redundant(uses[use.fed_by], use, tensors)
    ]
    if pairs:
        first, second = pairs[0]
        more = f", and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
        message = f"{second.layer.name} gets the output of {first.layer.name} with no nonlinearity between them{more}"
        yield found("Z410", message, parameter=weight_of(second), layer=second.layer.name)


def _redundant(first: Use, second: Use, tensors: dict[str, TensorFacts]) -> bool:
    """Whether the width between is no bottleneck, and both see the same features. Factorized kernels are meant."""
    if first.layer.kind not in _LAYERS or first.layer.kind != second.layer.kind:
        return False
    one, other = (tensors.get(weight_of(use) or "") for use in (first, second))
    if one is None or other is None or one is other or other.zero:
        return False
    shapes = one.slot.shape, other.slot.shape
    if shapes[0][0] != shapes[1][1] or math.prod(shapes[0][2:]) != math.prod(shapes[1][2:]):
        return False
    kernels = math.prod(shapes[0][2:]) > 1 and shapes[0][2:] == shapes[1][2:]
    return (len(shapes[0]) == 2 or kernels) and shapes[0][0] >= min(shapes[0][1], shapes[1][0])


def _choices(evidence: Evidence) -> Iterator[Finding]:
    limits = evidence.thresholds
    for one in evidence.choices:
        if one.rows >= limits.fewest_choices and one.common >= limits.one_choice and one.chosen < one.entries:
            what = "entry" if one.chosen == 1 else f"{one.chosen} entries"
            share = percent(one.common)
            message = f"{one.function} selects the same {what} of {one.entries} for {share} of {one.rows:,} rows"
            yield found("Z411", message, layer=one.module or None, value=one.common, limit=limits.one_choice)
            return


def _biases(evidence: Evidence, tensors: dict[str, TensorFacts]) -> Iterator[Finding]:
    limits = evidence.thresholds
    ratios = [(_bias_ratio(use, tensors), use) for use in evidence.live if use.weighted and not use.head]
    large = [pair for pair in ratios if pair[0] > limits.bias_ratio]
    if not large:
        return
    ratio, use = max(large, key=lambda pair: pair[0])
    bias = next(name for name in use.layer.parameters if name.endswith("bias"))
    more = f"; so it is in {len(large)} layers" if len(large) > 1 else ""
    message = (
        f"the bias has rms {tensors[bias].stats.rms:.3g}, {ratio:.3g} times what the weight makes of the input{more}"
    )
    yield found("Z412", message, parameter=bias, layer=use.layer.name, value=ratio, limit=limits.bias_ratio)


def _bias_ratio(use: Use, tensors: dict[str, TensorFacts]) -> float:
    """The rms of the bias over the rms of the weight's products with inputs of this size and random signs."""
    bias = next((tensors[name] for name in use.layer.parameters if name.endswith("bias") and name in tensors), None)
    weight = tensors.get(weight_of(use) or "")
    if bias is None or weight is None or weight.axes is None or not use.input_square or bias.stats.nonfinite:
        return 0.0
    if bias.stats.std == 0 and _LOWEST_PRIOR <= bias.stats.mean <= 0:
        return 0.0
    try:
        fan = weight.axes.fans(weight.slot.shape).fan_in
    except FanError:
        return 0.0
    made = math.sqrt(use.input_square * fan) * weight.stats.rms
    return bias.stats.rms / made if made > 0 else 0.0


def _inputs(evidence: Evidence) -> Iterator[Finding]:
    """The input of the first layer, unless a normalization follows it."""
    uses = [use for use in evidence.live if not use.block][:2]
    if not uses or not uses[0].weighted or (len(uses) > 1 and uses[1].norm):
        return
    problem = _far(uses[0], evidence.thresholds)
    if problem is not None:
        message, value, limit = problem
        name = uses[0].layer.name
        yield found("Z413", message, parameter=weight_of(uses[0]), layer=name, value=value, limit=limit)


def _far(use: Use, limits: Thresholds) -> tuple[str, float, float] | None:
    if not use.input_square or use.input_mean is None or not math.isfinite(use.input_square):
        return None
    rms = math.sqrt(use.input_square)
    if rms > limits.input_scale:
        return f"its input has rms {rms:.3g}, and mean {use.input_mean:.3g}", rms, limits.input_scale
    if rms < limits.input_least:
        return f"its input has rms {rms:.3g}", rms, limits.input_least
    std = math.sqrt(max(use.input_square - use.input_mean**2, 0.0))
    ratio = abs(use.input_mean) / std if std > 0 else 0.0
    if ratio > limits.input_mean:
        return f"its input has mean {use.input_mean:.3g}, {ratio:.3g} times its std", ratio, limits.input_mean
    return None
