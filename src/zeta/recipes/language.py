"""Language models."""

from __future__ import annotations

import math
from typing import Final

from torch import nn

from zeta.initializers import Normal
from zeta.recipes.parts import RESIDUAL, initializer_range, law, layers, norms_and_biases, recipe
from zeta.rules import Rule, Rules, Where, kind, role

_WEIGHTS: Final = Where("weights and embeddings", kind("weight") | kind("embedding") | role("position"))
_RANGE: Final = law("N(0, s²), s = initializer_range", lambda match: Normal(initializer_range(match)))


@recipe
def llama(model: nn.Module) -> Rules:
    """Llama: weights and embeddings N(0, s²), norms 1, biases 0, the padding row 0; experts like any weight.

    s is the config's ``initializer_range``, 0.02 without one. The rules match kinds and not names, so that they also
    fit models derived from Llama (Mistral, Mixtral, Qwen).

    Source: ``LlamaPreTrainedModel`` in transformers; the papers do not state it (Touvron et al. 2023,
    arXiv:2302.13971).
    """
    # one rule for both, because an output head may be tied to the token embedding
    return Rules([Rule(_WEIGHTS, _RANGE), *norms_and_biases()])


@recipe
def bert(model: nn.Module) -> Rules:
    """BERT: weights and embeddings N(0, s²), norms 1, biases 0, the padding row 0.

    s is the config's ``initializer_range``, 0.02 without one. Not truncated, as in transformers; the original code
    cuts at 2 std.

    Source: ``BertPreTrainedModel`` in transformers (Devlin et al. 2018, arXiv:1810.04805).
    """
    return Rules([Rule(_WEIGHTS, _RANGE), *norms_and_biases()])


@recipe
def gpt2(model: nn.Module) -> Rules:
    """GPT-2: weights and embeddings N(0, s²), projections to the residual stream N(0, s²/(2 L)), norms 1, biases 0.

    s is the config's ``initializer_range``, 0.02 without one; L is the number of layers, with two residual branches in
    each. The projections to the residual stream are attention outputs and MLP down projections; a model without both is
    an error.

    Source: section 2.3 of "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), and the
    released code.
    """
    scaled = law(
        "N(0, s²/(2 L)), s = initializer_range",
        lambda match: Normal(initializer_range(match) / math.sqrt(2 * layers(match))),
    )
    return Rules([*(Rule(each, scaled) for each in RESIDUAL), Rule(_WEIGHTS, _RANGE), *norms_and_biases()])
