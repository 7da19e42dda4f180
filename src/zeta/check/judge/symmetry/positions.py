"""Z3: tables of positions that are zero everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from zeta.check.facts.evidence import Evidence, TensorFacts
from zeta.check.facts.results import Finding
from zeta.check.judge.base import found

_POSITIONS: Final = re.compile(r"(^|[._])(w?pe|pos|positions?|positional)([._]|$)")
# tables of biases for relative positions start at zero in BEiT, and learn
_RELATIVE: Final = re.compile(r"bias|rel")


def zero_positions(evidence: Evidence) -> Iterator[Finding]:
    """The tables of positions, if all are zero in a model with attention. Only their names tell what they are."""
    if not any(use.layer.entropy is not None for use in evidence.live):
        return
    tables = [one for one in evidence.tensors if _of_positions(one)]
    if any(not one.zero for one in tables):
        return
    for one in tables:
        if one.buffer or one.trainable:
            kind = "buffer" if one.buffer else "parameter"
            message = f"this {kind} of {one.stats.count:,} values is zero everywhere, so that all positions are alike"
            yield found("Z307", message, parameter=one.name)


def _of_positions(one: TensorFacts) -> bool:
    place = ".".join(one.name.lower().split(".")[-2:])
    floating = one.dtype.is_floating_point and len(one.slot.shape) >= 2
    return floating and bool(_POSITIONS.search(place)) and not _RELATIVE.search(place)
