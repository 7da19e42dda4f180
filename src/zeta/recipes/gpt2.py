"""GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

import math

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.initializers import Normal
from zeta.recipes.transformers import alike, initializer_range
from zeta.rules import Rule, Rules


def gpt2(model: nn.Module) -> Rules:
    """GPT-2: weights and embeddings N(0, 0.02^2), residual projections divided by sqrt(2 layers), biases 0, norms 1.

    The std is the config's ``initializer_range`` where the model has one. Layers are counted as the modules that hold
    a ``*.c_proj``, two residual branches in each. Source: section 2.3 of "Language Models are Unsupervised
    Multitask Learners" and the released code.
    """
    # a block has an attention and an MLP, and each ends in its own c_proj
    projections = [name for name, _ in named_modules_of(model) if name.endswith(".c_proj")]
    layers = len({name.rsplit(".", 2)[0] for name in projections})
    std = initializer_range(model)
    scaled = Rule("*.c_proj.weight", Normal(std / math.sqrt(2 * max(layers, 1))))
    return Rules([scaled]) + alike(std)
