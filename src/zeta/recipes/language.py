"""Language models."""

from __future__ import annotations

import math
from typing import Final

from torch import nn

from zeta.initializers import Constant, Normal, Zeros
from zeta.recipes.parts import (
    NORM_SCALE,
    RESIDUAL,
    initializer_range,
    law,
    layers,
    norms_and_biases,
    positive,
    recipe,
    size,
)
from zeta.rules import Match, Rule, Rules, Where, glob, kind, role

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


@recipe
def t5(model: nn.Module, *, d_kv: int | None = None, d_model: int | None = None, factor: float | None = None) -> Rules:
    """T5: matrices N(0, f²/fan_in), queries N(0, f²/(fan_in d_kv)), embeddings and output head N(0, f²), biases 0.

    T5 does not divide the logits of attention by sqrt(d_kv), where d_kv is the width of a head: the std of the queries
    has this factor instead. The relative position bias is N(0, f²/d_model), norm scales are f, and an output head that
    is tied to the embedding is drawn as the embedding. Heads for classification are N(0, f²/fan_in), as in
    transformers, except for that of single tokens, which is N(0, f²).

    Options:
        d_kv: the width of one head; by default the config's d_kv
        d_model: the width of the residual stream; by default the config's d_model
        factor: f; by default the config's initializer_factor, or 1

    Source: Raffel et al. 2019 (arXiv:1910.10683) and its code in Mesh TensorFlow; ``T5PreTrainedModel`` in
    transformers.
    """
    positive("t5", d_kv=d_kv, d_model=d_model, factor=factor)

    def times(match: Match) -> float:
        return factor if factor is not None else float(getattr(match.config, "initializer_factor", None) or 1.0)

    def normal(match: Match, variance: float) -> Normal:
        return Normal(times(match) * math.sqrt(variance))

    by_fan_in = law("N(0, f²/fan_in)", lambda match: normal(match, 1 / match.fans.fan_in))
    queries = law(
        "N(0, f²/(fan_in d_kv))",
        lambda match: normal(match, 1 / (match.fans.fan_in * size(match, "d_kv", d_kv, "d_kv"))),
    )
    relative = law("N(0, f²/d_model)", lambda match: normal(match, 1 / size(match, "d_model", d_model, "d_model")))
    whole = law("N(0, f²)", lambda match: normal(match, 1.0))
    into = role("key") | role("value") | role("mlp_up") | role("mlp_gate") | role("mlp_gate_up")
    return Rules(
        [
            Rule(Where("relative position bias", role("relative_position")), relative, optional=True),
            Rule(
                Where("heads for classification", glob("*.qa_outputs.weight") | glob("*.classification_head.*.weight")),
                by_fan_in,
                optional=True,
            ),
            Rule(Where("queries", role("query")), queries),
            Rule(Where("keys, values, MLP up projections", into), by_fan_in),
            *(Rule(each, by_fan_in) for each in RESIDUAL),
            Rule(Where("embeddings", role("embedding")), whole),
            Rule(Where("output head", role("readout")), whole, optional=True),
            Rule(Where("norm scales", NORM_SCALE), law("f = 1 by default", lambda match: Constant(times(match)))),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )
