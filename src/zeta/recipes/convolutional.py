"""ResNet (He et al. 2016)."""

from __future__ import annotations

import math

from torch import nn

from zeta.base.modules import modules_of
from zeta.initializers import Ones, Uniform, Zeros, kaiming_normal
from zeta.rules import Match, Rule, Rules, kind, module


def resnet(model: nn.Module, *, zero_init_residual: bool = False) -> Rules:
    """ResNet: convolutions N(0, 2/fan_out), norms 1 and 0, the classifier uniform on ±1/sqrt(fan_in).

    With ``zero_init_residual``, the last norm of every residual block starts at 0, so that each block starts as the
    identity (Goyal et al. 2017, section 5.1). Blocks follow torchvision's names: ``bn3`` ends a bottleneck, ``bn2`` a
    basic block. Sources: He et al. 2015 (arXiv:1502.01852) and 2016 (arXiv:1512.03385).
    """
    convolution = module(nn.Conv1d) | module(nn.Conv2d) | module(nn.Conv3d)
    last_norms = frozenset(_last_norms(model)) if zero_init_residual else frozenset()

    def classifier(match: Match) -> Uniform:
        """Uniform on ±1/sqrt(fan_in)."""
        bound = 1 / math.sqrt(match.module.in_features)  # type: ignore[arg-type]
        return Uniform(-bound, bound)

    def ends_block(match: Match) -> bool:
        return any(match.module is norm for norm in last_norms)

    return Rules(
        [
            *([Rule(kind("norm_scale") & ends_block, Zeros())] if zero_init_residual else []),
            Rule(convolution & kind("weight"), kaiming_normal("fan_out", "relu")),
            Rule(kind("norm_scale"), Ones(), optional=zero_init_residual),
            Rule(module(nn.Linear), classifier, optional=True),
            Rule(kind("bias"), Zeros(), optional=True),
        ]
    )


def _last_norms(model: nn.Module) -> list[nn.Module]:
    """The norm that ends each residual block."""
    ends = (getattr(block, "bn3", None) or getattr(block, "bn2", None) for block in modules_of(model))
    return [norm for norm in ends if isinstance(norm, nn.Module)]
