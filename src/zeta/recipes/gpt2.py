"""GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

import math

from torch import nn

from zeta.initializers import Normal, Ones, Zeros
from zeta.rules import Rule, Rules, kind


def gpt2(model: nn.Module) -> Rules:
    """GPT-2: weights and embeddings N(0, 0.02^2), residual projections divided by sqrt(2 layers), biases 0, norms 1.

    The std is the config's ``initializer_range`` where the model has one. Layers are counted as the modules that hold
    a ``*.c_proj``, two residual branches in each. Source: section 2.3 of "Language Models are Unsupervised
    Multitask Learners" and the released code.
    """
    # a block has an attention and an MLP, and each ends in its own c_proj
    projections = [name for name, _ in model.named_modules() if name.endswith(".c_proj")]
    layers = len({name.rsplit(".", 2)[0] for name in projections})
    std = float(getattr(getattr(model, "config", None), "initializer_range", 0.02))

    return Rules(
        [
            Rule("*.c_proj.weight", Normal(std / math.sqrt(2 * max(layers, 1)))),
            # one rule for both, as the output head shares the token embedding
            Rule(kind("weight") | kind("embedding"), Normal(std)),
            Rule(kind("norm_scale"), Ones()),
            Rule(kind("bias"), Zeros(), optional=True),
        ]
    )
