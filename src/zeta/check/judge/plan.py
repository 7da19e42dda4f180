"""Z2: whether values follow the plan, and whether the plan is sensible."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from zeta.check.facts.evidence import Evidence, TensorFacts
from zeta.check.facts.results import Finding, Severity
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge.base import found, percent
from zeta.errors import FanError
from zeta.fans import torch_axes
from zeta.initializers import Keep, Program, TruncatedNormal
from zeta.initializers.blocks import laws_of
from zeta.resolve.plans import Entry

_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# variance times fan of known schemes: torch's constructors, LeCun, He for ReLU, torch's gain for tanh
_SCHEMES: Final = {1 / 3: "torch's default", 1.0: "LeCun", 2.0: "He", 25 / 9: "tanh's"}
# those that are also usual with the mean of the fans: Glorot, alone and with the gains of ReLU and of tanh
_OF_THE_MEAN: Final = (1.0, 2.0, 25 / 9)
# stds that are usually written as constants; a std close to one of them is not evidence for a scheme
_USUAL: Final = (0.01, 0.02, 0.05, 0.1)
# the rule of a recorded entry is a line of a file
_RECORDED: Final = re.compile(r":\d+ \(")
# fewer values, or fewer different values, are too few to judge their distribution
_FEWEST: Final = 1000
_FEWEST_DISTINCT: Final = 32
# the relative difference up to which a parent's std is taken for a scheme's exact value
_EXACT: Final = 1e-6
# a measured std is compared within this many standard errors of a std, 1 / sqrt(2 n)
_SAMPLING_ERRORS: Final = 4
# a std is not compared with schemes if its uncertainty is larger than this: the schemes would not be distinguishable
_MOST_SLACK: Final = 0.1
# a weight with a larger mean, relative to its std, is not centred, so that its std is not that of a scheme
_MOST_MEAN: Final = 0.1
# tensors with a larger fraction of zeros have mass at zero on purpose
_MOST_ZEROS: Final = 0.1
# the std of a normal distribution over its median absolute deviation: 1 / Phi^-1(3/4)
_STD_OVER_MAD: Final = 1.4826
# more elements than this at an extreme value are not single outliers
_OUTLIERS: Final = 2
# the fraction of equal distances above which the places of a value are regular. Places at random that are a part p of
# all have a part p of equal distances
_REGULAR: Final = 0.5
# orthogonal rows: how many are compared, how few are too few, and their largest cosine in units of that of random ones,
# of which the largest of 28 is above 1
_FEW_ROWS: Final = 8
_FEWEST_ROWS: Final = 3
_RIGHT_ANGLE: Final = 0.1
# different values next to an extreme one whose counts are compared with its count
_NEIGHBOURS: Final = 8


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Moments, truncation, fans, rounding."""
    for one in evidence.tensors:
        if one.entry is not None and not isinstance(one.entry.initializer, Keep | Program):
            yield from _moments(one, one.entry, evidence.thresholds)
            for law in dict.fromkeys(laws_of(one.entry.initializer)):
                if isinstance(law, TruncatedNormal):
                    yield from _truncation(one, one.entry, law, evidence.thresholds)
        judged = one.is_weight and one.trainable and one.stats.count > 0
        if judged and one.dtype.is_floating_point and not one.stats.nonfinite:
            yield from _fan(one, evidence.thresholds)
            yield from _stride(one, evidence.thresholds)
            yield from _mass(one, evidence.thresholds)


def _moments(one: TensorFacts, entry: Entry, limits: Thresholds) -> Iterator[Finding]:
    measured = one.measured
    if measured is None:
        return
    for rule, what, score, value, planned in (
        ("Z201", "std", measured.std_z, measured.std, entry.std),
        ("Z202", "mean", measured.mean_z, measured.mean, entry.mean),
    ):
        if abs(score) > limits.standard_errors:
            by = f"{score:+.1f} standard errors" if math.isfinite(score) else "which nothing may change"
            message = f"{what} {value:.6g}, planned {planned:.6g} ({by}) by {entry.law_text}"
            yield found(rule, message, parameter=one.name, value=abs(score), limit=limits.standard_errors)


def _truncation(one: TensorFacts, entry: Entry, law: TruncatedNormal, limits: Thresholds) -> Iterator[Finding]:
    low, high = law.sigmas()
    nearest = min(-low, high)
    if nearest > limits.useless_sigmas:
        message = (
            f"{law}: the nearer bound is {nearest:.3g} sigma from the mean and cuts nothing; "
            "absolute bounds were perhaps taken for sigmas"
        )
        yield found("Z203", message, parameter=one.name, value=nearest, limit=limits.useless_sigmas)
    std = law.moments(entry.site).std
    ratio = std / law.std
    if ratio < limits.lowered_std and _is_asked_for(law.std, one):
        message = f"{law} has std {std:.4g}, {ratio:.3f} of the {law.std:.4g} that was asked for"
        yield found("Z204", message, parameter=one.name, value=ratio, limit=limits.lowered_std)


def _is_asked_for(std: float, one: TensorFacts) -> bool:
    """Whether a parent's std is a round number or a scheme's, and not one that was raised to compensate for the cut."""
    if float(f"{std:.3g}") == std:
        return True
    if one.axes is None:
        return False
    fans = one.axes.fans(one.slot.shape)
    mean = (fans.fan_in + fans.fan_out) / 2
    return any(
        math.isclose(std * std * n, scheme, rel_tol=_EXACT)
        for n in (fans.fan_in, fans.fan_out, mean)
        for scheme in _SCHEMES
    )


def _fan(one: TensorFacts, limits: Thresholds) -> Iterator[Finding]:
    """Variance times fan is a scheme's constant for the fans that torch computes, but not for the real fans."""
    if one.axes is None or one.axes.lookup or (one.entry is not None and not _RECORDED.search(one.entry.rule)):
        return  # zeta's rules use zeta's fans, which are the real ones
    try:
        blind = torch_axes(len(one.slot.shape)).fans(one.slot.shape)
    except FanError:
        return
    real = one.axes.fans(one.slot.shape)
    std = one.planned_std or one.stats.std
    slack = _slack(one, limits)
    if not std or abs(one.stats.mean) > _MOST_MEAN * std or slack > _MOST_SLACK:
        return
    if any(abs(std / usual - 1) <= slack for usual in _USUAL):
        return
    # a weight stored as (in, out): torch takes its fan_out for fan_in, and scaling by fan_out is rarely intended
    fans = (real.fan_in,) if blind.fan_in == real.fan_out else (real.fan_in, real.fan_out)
    mean = (real.fan_in + real.fan_out) / 2
    known = any(_matches(std, fan, c, slack) for fan in fans for c in _SCHEMES)
    known = known or any(_matches(std, mean, c, slack) for c in _OF_THE_MEAN)
    for side, wrong, right in (("in", blind.fan_in, real.fan_in), ("out", blind.fan_out, real.fan_out)):
        off = max(wrong, right) / max(1, min(wrong, right))
        scheme = next((c for c in _SCHEMES if _matches(std, wrong, c, slack)), None)
        if known or scheme is None or off < limits.fan_factor or _is_orthogonal(one.values):
            continue
        usual = scheme == 1 / 3 and isinstance(one.slot.module, _TRANSPOSED)
        severity = Severity.NOTE if usual else Severity.WARN if side == "out" else Severity.FAIL
        message = (
            f"std {std:.4g} is {_SCHEMES[scheme]} for a fan_{side} of {wrong}; that of this "
            f"{type(one.slot.module).__name__} is {right}, and the variance is wrong by a factor of {off:.3g}"
        )
        yield found("Z205", message, parameter=one.name, severity=severity, value=off, limit=limits.fan_factor)
        return


def _stride(one: TensorFacts, limits: Thresholds) -> Iterator[Finding]:
    """Variance times fan_in is a scheme's constant, although the stride lets only a part of the kernel meet inputs."""
    if one.axes is None or not one.axes.stride_in:
        return
    whole, met = (one.axes.fans(one.slot.shape, effective=effective).fan_in for effective in (False, True))
    std = one.planned_std or one.stats.std
    slack = _slack(one, limits)
    scheme = next((c for c in _SCHEMES if _matches(std, whole, c, slack)), None)
    if not std or slack > _MOST_SLACK or scheme is None or any(_matches(std, met, c, slack) for c in _SCHEMES):
        return
    if _is_orthogonal(one.values):
        return
    message = (
        f"std {std:.4g} is {_SCHEMES[scheme]} for a fan_in of {whole}, of which {met:g} meet an input behind stride "
        f"{', '.join(str(n) for _, n in one.axes.stride_in)}: the output has {met / whole:.3g} of the variance"
    )
    yield found("Z207", message, parameter=one.name, value=whole / met)


def _slack(one: TensorFacts, limits: Thresholds) -> float:
    """The relative difference up to which a std is taken for a scheme's; a measured one also has a sampling error."""
    return limits.scheme_tolerance + (0.0 if one.planned_std else _SAMPLING_ERRORS / math.sqrt(2 * one.stats.count))


def _is_orthogonal(values: Tensor) -> bool:
    """Whether rows or columns have right angles: their std follows from their length, and from no fan."""
    rows = values.flatten(1).float()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    few = torch.nn.functional.normalize(rows[:: max(1, len(rows) // _FEW_ROWS)], dim=1)
    cosines = (few @ few.T).fill_diagonal_(0).abs()
    return len(few) > _FEWEST_ROWS and float(cosines.max()) * math.sqrt(rows.shape[1]) < _RIGHT_ANGLE


def _matches(std: float, fan: float, constant: float, slack: float) -> bool:
    return abs(std / math.sqrt(constant / max(fan, 1)) - 1) <= slack


def _mass(one: TensorFacts, limits: Thresholds) -> Iterator[Finding]:
    if one.stats.count < _FEWEST or one.stats.zeros > _MOST_ZEROS:
        return
    sample = one.sample.float()
    centre = float(sample.median())
    sigma = _STD_OVER_MAD * float((sample - centre).abs().median())
    for end in (one.stats.high, one.stats.low):
        reach = abs(end - centre)
        if sigma > 0 and reach > limits.outlier_sigmas * sigma and not _on_purpose(places := _places(one, end)):
            message = (
                f"{len(places):,} values lie exactly at {end:.4g}, {reach / sigma:.3g} sigma of the rest ({sigma:.3g}) "
                "away"
            )
            yield found("Z206", message, parameter=one.name, value=reach / sigma, limit=limits.outlier_sigmas)
            return
    ends = torch.stack(torch.aminmax(sample))
    if not bool(((sample == ends[:, None]).sum(dim=1) > limits.mass_share * len(sample)).any()):
        return  # most weights: their values need not be sorted
    values, counts = torch.unique(sample, return_counts=True)
    if len(values) < _FEWEST_DISTINCT:
        return
    for at, neighbours in ((-1, slice(-1 - _NEIGHBOURS, -1)), (0, slice(1, 1 + _NEIGHBOURS))):
        share = float(counts[at]) / len(sample)
        excess = float(counts[at]) / float(counts[neighbours].double().mean())
        heaped = share > limits.mass_share and excess > limits.mass_excess
        if heaped and not _on_purpose(_places(one, float(values[at]))):
            message = (
                f"{percent(share)} of its values are exactly {float(values[at]):.4g}, {excess:.3g} times as many as "
                "at the neighbouring values"
            )
            yield found(
                "Z206", message, parameter=one.name, severity=Severity.WARN, value=excess, limit=limits.mass_excess
            )
            return


def _places(one: TensorFacts, value: float) -> Tensor:
    return (one.values.flatten() == value).nonzero().flatten()


def _on_purpose(places: Tensor) -> bool:
    """Whether values were put there: single ones, or at equal distances, such as a diagonal, a row or a column."""
    if len(places) <= _OUTLIERS:
        return True
    _, counts = torch.unique(places.diff(), return_counts=True)
    return int(counts.max()) >= _REGULAR * (len(places) - 1)
