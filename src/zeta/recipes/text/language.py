"""Language models."""

from __future__ import annotations

import functools
import math
import operator
import re
from typing import Final

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.initializers import Constant, Initializer, Normal, TruncatedNormal, Uniform, Zeros
from zeta.recipes.parts import (
    EXPERTS,
    NORM_SCALE,
    RESIDUAL,
    Law,
    choice,
    from_zero,
    initializer_range,
    law,
    norms_and_biases,
    of_unknown_role,
    positive,
    recipe,
    size,
)
from zeta.recipes.parts import layers as number_of_layers
from zeta.recipes.tables import frozen_positions
from zeta.rules import Match, Rule, Rules, Where, glob, kind, module, regex, role

_WEIGHTS: Final = Where("weights and embeddings", kind("weight") | kind("embedding") | role("position"))


def _by_range(std: float | None) -> Law:
    return law("N(0, s²), s = initializer_range", lambda match: Normal(initializer_range(match, std)))


@recipe
def llama(model: nn.Module, *, std: float | None = None) -> Rules:
    """Llama: weights and embeddings N(0, s²), norms 1, biases 0, the padding row 0; experts like any weight.

    s is the config's ``initializer_range``, 0.02 without one. The rules match kinds and not names, so that they also
    fit models derived from Llama (Mistral, Mixtral, Qwen).

    Options:
        std: s, where it is not to be the config's.

    Source: ``LlamaPreTrainedModel`` in transformers; the papers do not state it (Touvron et al. 2023,
    arXiv:2302.13971).
    """
    # one rule for both, because an output head may be tied to the token embedding
    positive("llama", std=std)
    return Rules([*frozen_positions(model), Rule(_WEIGHTS, _by_range(std)), *norms_and_biases()])


@recipe
def bert(model: nn.Module, *, std: float | None = None) -> Rules:
    """BERT: weights and embeddings N(0, s²), norms 1, biases 0, the padding row 0.

    s is the config's ``initializer_range``, 0.02 without one. Not truncated, as in transformers; the original code
    cuts at 2 std.

    Options:
        std: s, where it is not to be the config's.

    Source: ``BertPreTrainedModel`` in transformers (Devlin et al. 2018, arXiv:1810.04805).
    """
    positive("bert", std=std)
    return Rules([*frozen_positions(model), Rule(_WEIGHTS, _by_range(std)), *norms_and_biases()])


@recipe
def gpt2(model: nn.Module, *, std: float | None = None, layers: int | None = None) -> Rules:
    """GPT-2: weights and embeddings N(0, s²), projections to the residual stream N(0, s²/(2 L)), norms 1, biases 0.

    s is the config's ``initializer_range``, 0.02 without one; L is the number of layers, with two residual branches in
    each. The projections to the residual stream are attention outputs and MLP down projections; a model without either
    of them is an error, as is a weight in a layer whose role is not known. The scaled projections are the paper's.
    OpenAI's released code does not scale them, and draws positions from N(0, 0.01²); the recipe follows transformers
    and nanoGPT, which draw positions like other weights.

    Options:
        std: s, where it is not to be the config's.
        layers: L; by default as the names count

    Source: section 2.3 of "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019);
    ``GPT2PreTrainedModel`` in transformers; nanoGPT, model.py.
    """
    positive("gpt2", std=std)
    scaled = law(
        "N(0, s²/(2 L)), s = initializer_range",
        lambda match: Normal(initializer_range(match, std) / math.sqrt(2 * number_of_layers(match, layers))),
    )
    residual = [Rule(each, scaled) for each in RESIDUAL]
    return Rules(
        [*frozen_positions(model), *residual, of_unknown_role(), Rule(_WEIGHTS, _by_range(std)), *norms_and_biases()]
    )


@recipe
def t5(model: nn.Module, *, d_kv: int | None = None, d_model: int | None = None, factor: float | None = None) -> Rules:
    """T5: matrices N(0, f²/fan_in), queries N(0, f²/(fan_in d_kv)), embeddings and output head N(0, f²), biases 0.

    T5 does not divide the logits of attention by sqrt(d_kv), where d_kv is the width of a head: the std of the queries
    has this factor instead. The relative position bias is N(0, f²/d_model), norm scales are f, and an output head that
    is tied to the embedding is drawn as the embedding. Heads for classification are N(0, f²/fan_in), as in
    transformers, except for that of single tokens, which is N(0, f²). The original code also cuts the matrices of MLPs
    at 2 std; transformers and this recipe do not.

    Options:
        d_kv: the width of one head; by default the config's d_kv
        d_model: the width of the residual stream; by default the config's d_model
        factor: f; by default the config's initializer_factor, or 1

    Source: Raffel et al. 2019 (arXiv:1910.10683) and its code in Mesh TensorFlow; ``T5PreTrainedModel`` in
    transformers.
    """
    positive("t5", factor=factor)

    def times(match: Match) -> float:
        return factor if factor is not None else float(getattr(match.config, "initializer_factor", None) or 1.0)

    def normal(match: Match, variance: float) -> Normal:
        return Normal(times(match) * math.sqrt(variance))

    def scale(match: Match) -> Initializer:
        return Constant(times(match) - from_zero(match))

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
            Rule(Where("norm scales", NORM_SCALE), law("f = 1 by default", scale)),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


@recipe
def moe(model: nn.Module, *, scheme: str = "normal", scale: float = 0.1, d_model: int | None = None) -> Rules:
    """Mixture of experts: routers, experts and all other weights N(0, s²), or N(0, c/fan_in) cut at 2 std.

    ``normal`` is what Mixtral, DeepSeek-V3, Qwen and OLMoE have in transformers: s is the config's
    ``initializer_range``, or 0.02. ``switch`` is that of Switch Transformers: matrices, also those of each expert, are
    drawn from a normal of the variance c/fan_in, with c ten times smaller than usual, and what is beyond 2 std is drawn
    again, so that the std is 0.88 sqrt(c/fan_in); embeddings are N(0, 1), the relative position bias N(0, 1/d_model).
    Norms are 1, biases 0. A model without a router or without experts is an error.

    In transformers, Switch Transformers have routers N(0, 1), down projections of experts N(0, 1/d_model) and not
    N(0, 1/d_ff), c = 1, and no cut; this recipe follows the paper.

    Options:
        scheme: normal or switch
        scale: c
        d_model: the width of the residual stream, for a relative position bias; by default the config's d_model

    Source: Jiang et al. 2024 (arXiv:2401.04088) and ``MixtralPreTrainedModel`` in transformers; switch: Fedus, Zoph and
    Shazeer 2021 (arXiv:2101.03961, section 2.4).
    """
    positive("moe", scale=scale)
    switch = choice("moe", "scheme", scheme, ("normal", "switch")) == "switch"
    relative = law("N(0, 1/d_model)", lambda match: Normal(size(match, "d_model", d_model, "d_model") ** -0.5))
    tables = [
        Rule(Where("relative position bias", role("relative_position")), relative, optional=True),
        Rule(Where("embeddings", kind("embedding") | role("embedding") | role("position")), Normal(1.0)),
    ]
    cut = law(
        "N(0, c/fan_in), cut at 2 std",
        lambda match: TruncatedNormal(math.sqrt(scale / match.fans.fan_in), cutoff=2),
    )
    weights = cut if switch else _by_range(None)
    return Rules(
        [
            *(tables if switch else []),
            Rule(Where("routers", role("router")), weights),
            Rule(EXPERTS, weights),
            Rule(Where("other weights", kind("weight")) if switch else _WEIGHTS, weights),
            *norms_and_biases(),
        ]
    )


_IMAGE: Final = re.compile(r"(.*\.)?(visual|vision|vision_model|vision_tower|image|image_encoder)\..*")
_ATTENTION: Final = ("query", "key", "value", "query_key_value")


@recipe
def clip(model: nn.Module, *, layers: int | None = None) -> Rules:
    """CLIP: text queries, keys, values N(0, 1/d), MLP up N(0, 1/(2 d)), outputs N(0, 1/(2 L d)); images as in torch.

    d is the width of the text tower, L its number of layers; the outputs are those of attention and MLP. Token
    embeddings are N(0, 0.02²), text positions N(0, 0.01²), projections to the common space N(0, 1/fan_in), logit_scale
    is ln(1/0.07), norms are 1 and 0.

    The image tower keeps what torch's layers start from: queries, keys and values uniform on ±sqrt(6/(d + 3 d)), with
    the three as one matrix, other matrices and convolutions uniform on ±1/sqrt(fan_in). Only its class token and its
    positions are N(0, 1/d), with its own d. In a ResNet, the attention that pools is N(0, 1/d), and the scale of the
    last norm (``bn3``) of each block is 0. In both towers, the biases of attention are 0, and those of other layers
    uniform on ±1/sqrt(fan_in), as torch draws them.

    In transformers, both towers have the laws of the text, with the std of attention's inputs and outputs exchanged,
    text positions N(0, 0.02²) and biases 0; this recipe follows the released code.

    Options:
        layers: L; by default as the names count

    Source: openai/CLIP, clip/model.py; Radford et al. 2021 (arXiv:2103.00020).
    """
    depth = functools.partial(number_of_layers, given=layers)
    images = any(_IMAGE.fullmatch(f"{name}.") for name, _ in named_modules_of(model))

    def image(label: str, condition: Where, how: Initializer | Law, *, optional: bool = False) -> Rule:
        return Rule(Where(f"image: {label}", regex(_IMAGE) & condition), how, optional=optional or not images)

    into = law("N(0, 1/d)", lambda match: Normal(match.fans.fan_in**-0.5))
    table = law("N(0, 1/d)", lambda match: Normal(match.shape[-1] ** -0.5))
    plain = law("uniform on ±1/sqrt(fan_in)", lambda match: _symmetric(math.prod(match.shape[1:])))
    packed = law("uniform on ±sqrt(6/(d + 3 d))", lambda match: _symmetric(match.torch_fans.fan_in * 4 / 6))
    up = law("N(0, 1/(2 d))", lambda match: Normal((2 * match.fans.fan_in) ** -0.5))
    out = law("N(0, 1/(2 L d))", lambda match: Normal((2 * depth(match) * match.fans.fan_out) ** -0.5))
    other = role("attention_output") | role("mlp_up") | role("mlp_down") | role("patch_embedding")
    biases = functools.reduce(operator.or_, (role(name, bias=True) for name in (*_ATTENTION, "attention_output")))
    attention = functools.reduce(operator.or_, map(role, _ATTENTION))
    common = glob("*{text,visual}_projection") | glob("*{text,visual}_projection.weight") | glob("*visual.proj")
    return Rules(
        [
            Rule(Where("projections to the common space", common), law("N(0, 1/fan_in)", _projection), optional=True),
            image("last norm of each block", regex(r".*layer\d+\.\d+\.bn3\.weight"), Zeros(), optional=True),
            image("class token and positions", role("class_token") | role("position"), table),
            image("attention that pools", glob("*.attnpool.{q,k,v,c}_proj.weight"), into, optional=True),
            image("queries, keys, values", attention, packed, optional=True),
            image("other matrices, convolutions", other | (module(nn.Conv2d) & kind("weight")), plain),
            Rule(Where("token embeddings", role("embedding")), Normal(0.02)),
            Rule(Where("text positions", role("position")), Normal(0.01)),
            Rule(Where("text: queries, keys, values", attention), into),
            *(Rule(Where(f"text: {each.label}", each), out) for each in RESIDUAL),
            Rule(Where("text: MLP up projections", role("mlp_up")), up),
            Rule(Where("logit_scale", glob("*logit_scale")), Constant(math.log(1 / 0.07)), optional=True),
            Rule(Where("biases of attention", biases & ~glob("*.attnpool.*")), Zeros(), optional=True),
            Rule(
                Where("biases of other layers", module(nn.Linear) & kind("bias")),
                law("uniform on ±1/sqrt(fan_in)", _bias),
                optional=True,
            ),
            *norms_and_biases(),
        ]
    )


def _projection(match: Match) -> Initializer:
    """Of a Linear, or of a matrix that the tower's output is multiplied by from the left."""
    return Normal((match.shape[1] if match.local_name == "weight" else match.shape[0]) ** -0.5)


def _bias(match: Match) -> Initializer:
    return _symmetric(int(match.module.in_features))  # type: ignore[arg-type]


def _symmetric(number: float) -> Initializer:
    """Uniform on ±1/sqrt(number)."""
    return Uniform(-(number**-0.5), number**-0.5)
