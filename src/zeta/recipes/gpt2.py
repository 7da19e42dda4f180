"""GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

from torch import nn

from zeta.initializers import Normal, Ones, Zeros
from zeta.rules import Match, Rule, Rules, kind


def gpt2(model: nn.Module) -> Rules:
    """GPT-2: weights and embeddings N(0, 0.02^2), residual projections divided by sqrt(2 layers), biases 0, norms 1.

    The std is the config's ``initializer_range`` where the model has one. The number of layers, two residual branches
    in each, is counted from the names (``h.0``, ``h.1``, ...). Source: section 2.3 of "Language Models are Unsupervised
    Multitask Learners" and the released code.
    """
    std = float(getattr(getattr(model, "config", None), "initializer_range", 0.02))

    def residual(match: Match) -> Normal:
        return Normal(std).scaled((2 * (match.depth or 1)) ** -0.5)

    return Rules(
        [
            Rule("*.c_proj.weight", residual),
            # one rule for both, as the output head shares the token embedding
            Rule(kind("weight") | kind("embedding"), Normal(std)),
            Rule(kind("norm_scale"), Ones()),
            Rule(kind("bias"), Zeros(), optional=True),
        ]
    )
