"""Tables of positions that are computed and not trained."""

from __future__ import annotations

from torch import nn

from zeta.base.modules import named_parameters_of
from zeta.initializers import Keep
from zeta.rules import Rule, Where, role


def frozen_positions(model: nn.Module) -> list[Rule]:
    """A rule that keeps tables of positions which are computed and not trained, in a model that is trained."""
    frozen = [name for name, each in named_parameters_of(model) if not each.requires_grad]
    fixed = [name for name in frozen if "pos" in name.lower()]
    if not fixed or len(fixed) < len(frozen):
        return []
    kept = role("position") & (lambda match: match.name in fixed)
    return [Rule(Where("positions that are not trained", kept), Keep(), optional=True)]
