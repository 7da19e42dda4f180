"""Z1: the values in memory: never written, not finite, out of range."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from zeta.base import dtypes
from zeta.check.facts.evidence import Evidence, TensorFacts
from zeta.check.facts.results import Finding
from zeta.check.judge.base import found, graded, percent


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Never written, not finite, near overflow, subnormal."""
    for one in evidence.tensors:
        share = evidence.unwritten.get(one.name, 0.0)
        if share > 0:
            part = "all" if share == 1.0 else percent(share)
            yield found("Z101", f"{part} of its values depend on what memory held before", parameter=one.name)
        else:
            yield from _values(one, evidence)


def _values(one: TensorFacts, evidence: Evidence) -> Iterator[Finding]:
    if not one.dtype.is_floating_point or not one.stats.count:
        return
    # buffers may be masks, with infinite values
    bad = int(torch.isnan(one.values).sum()) if one.buffer and one.stats.nonfinite else one.stats.nonfinite
    if bad:
        yield found(
            "Z102", f"{bad:,} of {one.stats.count:,} values are NaN or infinite", parameter=one.name, value=bad, limit=0
        )
        return
    dtype = one.slot.tensor.dtype
    if one.buffer or one.stats.nonfinite or one.slot.tensor.is_quantized:
        return
    limit = dtypes.largest(dtype) / evidence.thresholds.overflow_margin
    reach = max(abs(one.stats.low), abs(one.stats.high))
    if reach > limit:
        message = f"values up to {reach:.4g} in {dtypes.name_of(dtype)}, which ends at {dtypes.largest(dtype):.4g}"
        yield found("Z103", message, parameter=one.name, value=reach, limit=limit)
    share = _subnormal(one)
    grade = graded(share, evidence.thresholds.subnormal_warn, evidence.thresholds.subnormal_fail)
    if grade is not None:
        least = torch.finfo(dtype).smallest_normal
        message = f"{percent(share)} of its values lie below {least:.3g}, the smallest normal {dtypes.name_of(dtype)}"
        yield found("Z104", message, parameter=one.name, severity=grade[0], value=share, limit=grade[1])


def _subnormal(one: TensorFacts) -> float:
    dtype = dtypes.real_part(one.slot.tensor.dtype)
    sample = one.sample.double().abs()
    return float(((sample > 0) & (sample < torch.finfo(dtype).smallest_normal)).double().mean())
