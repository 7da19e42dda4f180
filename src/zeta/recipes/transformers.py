"""Transformers whose weights all have the same std: BERT, Llama, ViT, GPT-2, and models derived from them.

A recipe is found by the name that ``zeta.recipes`` lists for it in ``_HOMES``.
"""

from __future__ import annotations

import math
from typing import Final

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.initializers import Normal, Ones, Zeros
from zeta.rules import Rule, Rules, Where, kind, ndim, regex

# also scales that are vectors of the model itself, without a norm module
_NORM_SCALE: Final = Where("norm scale", kind("norm_scale") | (kind("other") & ndim(1) & regex("(?i).*norm.*")))


def initializer_range(model: nn.Module) -> float:
    """The std in the model's ``config``; 0.02 if it has none."""
    return float(getattr(getattr(model, "config", None), "initializer_range", None) or 0.02)


def alike(std: float) -> Rules:
    """Every weight and embedding with the same std, norms 1, biases 0."""
    return Rules(
        [
            # one rule for both, because an output head may be tied to the token embedding
            Rule(kind("weight") | kind("embedding"), Normal(std)),
            Rule(_NORM_SCALE, Ones()),
            Rule(kind("bias"), Zeros(), optional=True),
        ]
    )


def llama(model: nn.Module) -> Rules:
    """Llama: weights and embeddings N(0, 0.02^2), norms 1, biases 0, the padding row 0; experts like any weight.

    The std is the config's ``initializer_range`` if the model has one. The rules match kinds and not names, so that
    they also fit models derived from Llama (Mistral, Mixtral, Qwen). Source: ``LlamaPreTrainedModel`` in transformers;
    the papers do not state it (Touvron et al. 2023, arXiv:2302.13971).
    """
    return alike(initializer_range(model))


def bert(model: nn.Module) -> Rules:
    """BERT: weights and embeddings N(0, 0.02^2), norms 1, biases 0, the padding row 0.

    The std is the config's ``initializer_range`` where the model has one. Not truncated, as in transformers; the
    original code cuts at 2 std. Source: ``BertPreTrainedModel`` in transformers (Devlin et al. 2018, arXiv:1810.04805).
    """
    return alike(initializer_range(model))


def vit(model: nn.Module) -> Rules:
    """ViT: weights, class token and position embeddings N(0, 0.02^2), norms 1, biases and the mask token 0.

    The std is the config's ``initializer_range`` where the model has one. Source: ``ViTPreTrainedModel`` in
    transformers (Dosovitskiy et al. 2020, arXiv:2010.11929).
    """
    return Rules([Rule("*.mask_token", Zeros(), optional=True)]) + alike(initializer_range(model))


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
