"""Z4: the signal in the forward pass."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from zeta.check.facts.evidence import Evidence, Use
from zeta.check.facts.results import Finding, Severity
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge.base import found, graded, percent
from zeta.check.watch.activations import KNOWN

# Z406: targets whose spread is so many roundings of their mean can be learned
_RESOLVED: Final = 16
# with more units, 70% of them are never off by chance
_MANY: Final = 256


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Not finite, beyond the depth scale, residual growth, dead, saturated, input ignored."""
    yield from _not_finite(evidence)
    fading: set[str] = set()
    yield from _depth(evidence, fading)
    yield from _growth(evidence)
    for use in evidence.live:
        yield from _activation(use, evidence)
    yield from _ignored(evidence, fading)


def _not_finite(evidence: Evidence) -> Iterator[Finding]:
    """Only the first layer, as later ones get its values. Minus infinities may be a mask, until one makes NaN of it."""
    mask: Use | None = None
    for use in evidence.live:
        count = use.layer.output.nonfinite - use.masked
        if count and not use.block:
            cause, message = (
                use,
                f"{count:,} of {use.layer.output.count:,} outputs are NaN or infinite, the first on the way",
            )
            if mask is not None and use.input_nonfinite:
                cause, count = mask, mask.masked
                message = (
                    f"{count:,} of {mask.layer.output.count:,} outputs are minus infinity, and {use.layer.name}, which "
                    "takes them, makes NaN or infinite values of them"
                )
            yield found("Z401", message, parameter=weight_of(cause), layer=cause.layer.name, value=count, limit=0)
            return
        mask = use if use.masked else mask
    loss = evidence.loss
    if evidence.output_nonfinite:
        count = evidence.output_nonfinite
        message = f"{count:,} values of the model's output are NaN or infinite; those of all layers are finite"
        yield found("Z401", message, value=count, limit=0)
    elif loss is not None and loss.classes is None and not math.isfinite(loss.value):
        yield found("Z401", f"the loss is {loss.value}; the outputs of all layers are finite")


# -- depth -----------------------------------------------------------------------------------------------------------


def runs(uses: Sequence[Use]) -> Iterator[list[Use]]:
    """Paths of weighted layers without normalization or attention between them; zero outputs are skipped.

    Each path ends where no further layer takes its output; paths may share their first layers.
    """
    named = {use.layer.name: use for use in uses}
    followed = {use.before for use in uses if use.weighted and not _interrupts(use)}
    for use in uses:
        if use.layer.name in followed or not use.weighted or _interrupts(use):
            continue
        path: list[Use] = []
        last: Use | None = use
        while last is not None and not _interrupts(last):
            path.append(last)
            last = None if last.before is None else named.get(last.before)
        yield [one for one in reversed(path) if not (one.head or one.signal <= 0 or one.layer.output.nonfinite)]


def _interrupts(use: Use) -> bool:
    return use.norm or use.layer.entropy is not None


def _called(use: Use) -> bool:
    """Whether it is a functional call, and no use of a module."""
    return use.layer.name.partition("#")[0] != (use.module or "model")


def slope(values: Sequence[float]) -> float:
    """The median slope between all pairs (Theil 1950; Sen 1968): one jump does not move it.

    >>> slope([0.0, 1.0, 2.0, 3.0, 31.0])
    1.0
    """
    step = max(1, len(values) // 100)  # a sample of the pairs, if there are many
    pairs = ((i, j) for i in range(len(values)) for j in range(i + 1, len(values), step))
    return statistics.median((values[j] - values[i]) / (j - i) for i, j in pairs)


def _depth(evidence: Evidence, fading: set[str]) -> Iterator[Finding]:
    """Of paths that share layers, the one over which the signal changes most; fills in where it shrinks."""
    limits = evidence.thresholds
    paths = [path for path in runs(evidence.live) if len(path) >= limits.shortest_run and _varies(path[0], evidence)]
    reported: set[str] = set()
    for path in sorted(paths, key=lambda path: -abs(_change(path))):
        names, total = {use.layer.name for use in path}, _change(path)
        most = limits.depth_scales_fail if total > 0 else limits.depth_scales_lost
        grade = graded(abs(total), limits.depth_scales_warn, most)
        if grade is None or reported & names:
            continue
        reported |= names
        fading |= names if total < 0 else set()
        verb = "shrinks" if total < 0 else "grows"
        message = (
            f"the signal's variance {verb} by a factor of {math.exp(_slope_of(path)):.3g} per layer over {len(path)} "
            f"layers without normalization, from {path[0].layer.name} to {path[-1].layer.name}: by e^{total:.2g} in all"
        )
        yield found(
            "Z402",
            message,
            parameter=weight_of(path[-1]),
            layer=path[-1].layer.name,
            severity=grade[0],
            value=abs(total),
            limit=grade[1],
        )


def _slope_of(path: Sequence[Use]) -> float:
    return slope([math.log(use.signal) for use in path])


def _change(path: Sequence[Use]) -> float:
    """The change of ln(signal) by the slope, but at most that between the ends; 0 if they have different signs."""
    per_layer, between = _slope_of(path), math.log(path[-1].signal / path[0].signal)
    if per_layer * between <= 0:
        return 0.0
    return math.copysign(min(abs(per_layer) * (len(path) - 1), abs(between)), per_layer)


def _varies(use: Use, evidence: Evidence) -> bool:
    """Whether samples differ at the beginning of a run."""
    return use.samples > 1 and use.square > 0 and use.signal / use.square > evidence.thresholds.varied


def _growth(evidence: Evidence) -> Iterator[Finding]:
    limits = evidence.thresholds
    for blocks in streams(evidence.live):
        squares = [use.square for use in blocks]
        if min(squares) <= 0 or not all(map(math.isfinite, squares)):
            continue
        growth, count = math.sqrt(squares[-1] / squares[0]), len(blocks)
        grade = graded(growth, max(limits.stream_growth_warn, count), max(limits.stream_growth_fail, count))
        if grade is None or squares[-1] <= squares[0]:
            continue
        steps = [later / earlier for earlier, later in itertools.pairwise(squares)]
        worst = blocks[steps.index(max(steps)) + 1]
        last = _last_weight(worst, evidence.live)
        message = (
            f"the residual stream's rms grows {growth:.3g} times over {count} blocks, from "
            f"{blocks[0].layer.name} to {blocks[-1].layer.name}"
        )
        yield found(
            "Z403",
            message,
            parameter=last,
            layer=worst.layer.name,
            severity=grade[0],
            value=growth,
            limit=grade[1],
        )


def streams(uses: Sequence[Use]) -> Iterator[list[Use]]:
    """Sequences of at least three numbered blocks whose outputs have the same number of elements."""
    sequences: dict[tuple[str, str, int], list[Use]] = {}
    for use in uses:
        if use.block:
            parent = use.module.rpartition(".")[0]
            sequences.setdefault((parent, use.layer.kind, use.layer.output.count), []).append(use)
    yield from (blocks for blocks in sequences.values() if len(blocks) >= 3)


def _last_weight(block: Use, uses: Sequence[Use]) -> str | None:
    """The weight of the last weighted layer inside a block, which makes the block's output."""
    inside = [use for use in uses if use.weighted and use.module.startswith(f"{block.module}.")]
    return weight_of(inside[-1]) if inside else None


def weight_of(use: Use) -> str | None:
    """The parameter to report: the weight, if there are several parameters."""
    names = use.layer.parameters
    return next((name for name in names if "weight" in name.rpartition(".")[2]), names[0] if names else None)


# -- activations -----------------------------------------------------------------------------------------------------


def samples_text(use: Use, evidence: Evidence) -> str:
    """``64 samples``, or ``1,024 places (16 samples of 64)`` such as pixels and tokens."""
    size = evidence.batch_size
    if not size or use.samples <= size or use.samples % size:
        return f"{use.samples:,} samples"
    return f"{use.samples:,} places ({size:,} samples of {use.samples // size:,})"


def _by_chance(use: Use, dead: float, limits: Thresholds) -> bool:
    """Whether the units may be off by chance: if all samples are alike, each unit is off with probability 1/2."""
    units = round(use.layer.output.count / use.samples)
    if units > _MANY:
        return False
    rate = min(0.5, limits.dead_warn, limits.dead_fail)
    terms = (math.comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in range(round(dead * units), units + 1))
    return sum(terms) > limits.dead_chance


def _activation(use: Use, evidence: Evidence) -> Iterator[Finding]:
    layer, limits = use.layer, evidence.thresholds
    if layer.dead is not None:
        grade = graded(layer.dead, limits.dead_warn, limits.dead_fail)
        if grade is not None and use.samples >= limits.fewest_samples and not _by_chance(use, layer.dead, limits):
            samples = samples_text(use, evidence)
            message = f"{percent(layer.dead)} of the units of this {use.activation} are off for all {samples}"
            yield found("Z404", message, layer=layer.name, severity=grade[0], value=layer.dead, limit=grade[1])
    if layer.saturated is not None:
        grade = graded(layer.saturated, limits.saturated_warn, limits.saturated_fail)
        if grade is not None:
            bounds = " and ".join(f"{bound:g}" for bound in KNOWN[use.activation or ""].bounds)
            message = f"{percent(layer.saturated)} of the outputs of this {use.activation} lie at {bounds}"
            memory = use.gates and use.signal < limits.gate_signal
            if memory:
                message += ", and are nearly the same for all samples: a gate that its bias holds open or closed"
            severity = Severity.WARN if memory else grade[0]
            yield found("Z405", message, layer=layer.name, severity=severity, value=layer.saturated, limit=grade[1])


# -- the input -------------------------------------------------------------------------------------------------------


def _ignored(evidence: Evidence, fading: set[str]) -> Iterator[Finding]:
    """The first layer that flattens the signal, if neither its output nor its weight is zero.

    Not where the signal was lost layer by layer, which is reported where it fades; nor a gate, which learns to open.
    Of a module around others, its code is to blame only if none of the layers and calls in it flattens the signal.
    """
    limits = evidence.thresholds
    if evidence.batch_signal is None or evidence.batch_signal < limits.varied:
        return
    zero = {one.name for one in evidence.tensors if one.zero and one.is_weight}
    flat = [use for use in evidence.live if _flattens(use, limits) and not use.gates]
    if any(use.layer.name in fading or use.before in fading for use in flat):
        return
    for use in flat:
        if use.square == 0 or use.block or zero.intersection(use.layer.parameters) or rounded_head(use, evidence):
            continue
        if any(_inside(other, use) for other in flat):
            continue
        share = use.signal / use.square
        message = (
            f"its output is the same for all {samples_text(use, evidence)}, to {share:.1g} of its mean square; its "
            "input is not"
        )
        yield found(
            "Z406",
            message,
            parameter=weight_of(use),
            layer=use.layer.name,
            severity=Severity.FAIL,
            value=share,
            limit=(limits.constant * use.resolution) ** 2,
        )
        return


def _flattens(use: Use, limits: Thresholds) -> bool:
    """Whether its output is the same for all samples, and its input is not."""
    if not use.input_square or use.input_signal is None or use.samples < 2 or use.layer.output.nonfinite:
        return False
    if not use.attached and not use.layer.parameters:
        return False  # for example a table of positions, which uses only the shape of its input
    constant = use.square == 0 or use.signal / use.square < (limits.constant * use.resolution) ** 2
    return constant and use.input_signal / use.input_square > limits.varied


def rounded_head(use: Use, evidence: Evidence) -> bool:
    """Whether it is a head at the mean of its targets, which differ by more than the sum with its bias is rounded."""
    if not (use.head and _flattens(use, evidence.thresholds)):
        return False
    fits = [one.fit for one in evidence.criteria if one.fit is not None]
    return any(fit.high - fit.low > _RESOLVED * use.resolution * fit.target_rms for fit in fits)


def _inside(inner: Use, outer: Use) -> bool:
    """Whether a use is of a module inside another's, or a call in its code."""
    if inner.module == outer.module:
        return _called(inner) and not _called(outer)
    return not _called(outer) and (not outer.module or inner.module.startswith(f"{outer.module}."))
