"""Images: convolutional networks and vision transformers."""

from __future__ import annotations

import math

from torch import nn

from zeta.base.modules import modules_of
from zeta.initializers import Normal, Ones, Uniform, Zeros, kaiming_normal
from zeta.recipes.parts import initializer_range, law, norms_and_biases, recipe
from zeta.rules import Match, Rule, Rules, Where, glob, kind, module, role


@recipe
def resnet(model: nn.Module, *, zero_init_residual: bool = False) -> Rules:
    """ResNet: convolutions N(0, 2/fan_out), norms 1 and 0, the classifier uniform on ±1/sqrt(fan_in).

    Options:
        zero_init_residual: the last norm of every residual block starts at 0, so that each block starts as the identity
            (Goyal et al. 2017, section 5.1). It is ``bn3`` of a bottleneck and ``bn2`` of a basic block.

    Source: torchvision; He et al. 2015 (arXiv:1502.01852) and 2016 (arXiv:1512.03385).
    """
    convolution = module(nn.Conv1d) | module(nn.Conv2d) | module(nn.Conv3d)
    last_norms = frozenset(_last_norms(model)) if zero_init_residual else frozenset()

    def classifier(match: Match) -> Uniform:
        bound = 1 / math.sqrt(match.module.in_features)  # type: ignore[arg-type]
        return Uniform(-bound, bound)

    def ends_block(match: Match) -> bool:
        return any(match.module is norm for norm in last_norms)

    last = Rule(Where("last norm of each block", kind("norm_scale") & ends_block), Zeros())
    return Rules(
        [
            *([last] if zero_init_residual else []),
            Rule(Where("convolutions", convolution & kind("weight")), kaiming_normal("fan_out", "relu")),
            Rule(Where("norm scales", kind("norm_scale")), Ones(), optional=zero_init_residual),
            Rule(module(nn.Linear), law("uniform on ±1/sqrt(fan_in)", classifier), optional=True, label="classifier"),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _last_norms(model: nn.Module) -> list[nn.Module]:
    """The norm that ends each residual block."""
    ends = (getattr(block, "bn3", None) or getattr(block, "bn2", None) for block in modules_of(model))
    return [norm for norm in ends if isinstance(norm, nn.Module)]


@recipe
def vit(model: nn.Module) -> Rules:
    """ViT: weights, class token and position embeddings N(0, s²), norms 1, biases and the mask token 0.

    s is the config's ``initializer_range``, 0.02 without one.

    Source: ``ViTPreTrainedModel`` in transformers (Dosovitskiy et al. 2020, arXiv:2010.11929).
    """
    weights = Where(
        "weights, class token and positions",
        kind("weight") | kind("embedding") | role("class_token") | role("position"),
    )
    return Rules(
        [
            Rule(Where("mask token", glob("*mask_token")), Zeros(), optional=True),
            Rule(weights, law("N(0, s²), s = initializer_range", lambda match: Normal(initializer_range(match)))),
            *norms_and_biases(),
        ]
    )
