"""Pretraining frameworks: what torchtitan, OLMo-core, GPT-NeoX and Megatron start their models from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from torch import nn

from zeta.initializers import Initializer, Normal, Orthogonal, TruncatedNormal, Uniform
from zeta.recipes.parts import (
    EMBEDDINGS,
    EXPERTS,
    GATES,
    INTO_ATTENTION,
    READOUT,
    RESIDUAL,
    ROUTERS,
    UP,
    Law,
    choice,
    gated,
    has_experts,
    law,
    layer,
    norms_and_biases,
    positive,
    recipe,
    stream_width,
)
from zeta.recipes.parts import layers as number_of_layers
from zeta.recipes.text.state_space import state_space_rules
from zeta.rules import Match, Rule, Rules, Where, glob, role

# -- torchtitan --------------------------------------------------------------------------------------------------------


@recipe
def torchtitan_llama3(model: nn.Module, *, std: float = 0.02) -> Rules:
    """Torchtitan's Llama 3: N(0, s²), attention outputs, MLP up and down N(0, s²/(2 (l + 1))), embeddings N(0, 1).

    l is the number of the layer, from 0. The output head is N(0, 1/d), cut at 3 std, where d is the width; tied to the
    embedding, it decides for both. Up projections (w3) are scaled with the depth as the down projections (w2) are,
    although they do not lead to the residual stream; the gates (w1) are not scaled. Weights are drawn by
    ``trunc_normal_`` with its absolute bounds of ±2, which no value reaches. Norms are 1, biases 0.

    Options:
        std: s

    Source: torchtitan, models/llama3/__init__.py and models/common/param_init.py (2026); the papers on Llama do not
    state their initialization.
    """
    positive("torchtitan_llama3", std=std)
    return Rules(_torchtitan(std, moe=False))


@recipe
def torchtitan_deepseek_v3(model: nn.Module, *, std: float = 0.02) -> Rules:
    """Torchtitan's DeepSeek-V3: as its Llama 3, routers N(0, s²/(2 (l + 1))), experts and compressed attention alike.

    l is the number of the layer, from 0. Queries, keys and values are N(0, s²), also where they pass through a narrow
    layer (``wq_a``, ``wq_b``, ``wkv_a``, ``wkv_b``), and so are gates (w1). Up and down projections (w3, w2) and
    attention outputs are N(0, s²/(2 (l + 1))): those of dense layers, of shared and of routed experts. Embeddings are
    N(0, 1), the output head N(0, 1/d), cut at 3 std, norms 1, biases 0. Other weights are cut at ±2, which no value
    reaches. The paper itself says only that all parameters have the std 0.006 (section 4.2). Torchtitan has no law for
    the projections that predict further tokens (``eh_proj``), and here they are refused.

    Options:
        std: s

    Source: torchtitan, models/deepseek_v3/__init__.py (2026); DeepSeek-AI 2024 (arXiv:2412.19437).
    """
    positive("torchtitan_deepseek_v3", std=std)
    return Rules(_torchtitan(std, moe=True))


def _torchtitan(std: float, *, moe: bool) -> list[Rule]:
    plain = law("N(0, s²), cut at ±2", lambda match: TruncatedNormal(std, low=-2, high=2))
    deep = law(
        "N(0, s²/(2 (l + 1))), cut at ±2",
        lambda match: TruncatedNormal(std / math.sqrt(2 * (layer(match) + 1)), low=-2, high=2),
    )
    return [
        Rule(READOUT, law("N(0, 1/d), cut at 3 std", _head), optional=True),
        # a head that is tied to the embedding decides for both
        Rule(EMBEDDINGS, Normal(1.0), optional=True),
        Rule(INTO_ATTENTION, plain),
        *(Rule(each, deep) for each in RESIDUAL),
        Rule(GATES, gated(plain, deep)),
        Rule(UP, deep, optional=True),
        *([Rule(ROUTERS, deep)] if moe else []),
        *norms_and_biases(),
    ]


def _head(match: Match) -> Initializer:
    return TruncatedNormal(match.fans.fan_in**-0.5, cutoff=3)


# -- OLMo-core ---------------------------------------------------------------------------------------------------------


@recipe
def olmo(
    model: nn.Module,
    *,
    scheme: str = "normal",
    std: float = 0.02,
    embedding_std: float | None = None,
    embed_scale: float = 1.0,
    layers: int | None = None,
) -> Rules:
    """OLMo: weights N(0, s²), cut at 3 std, norms 1, biases 0; with other schemes scaled by the depth or the width.

    With L layers, l the number of a layer from 0, and d the width. ``normal``: s for all weights. ``llama``: attention
    outputs, up and down projections s/sqrt(2 L), embeddings N(0, 1), not cut, output head d^(-1/2). ``llama_depth``:
    likewise, with s/sqrt(2 (l + 1)). ``normalized``, for nGPT before its matrices are normalized: d^(-1/2), attention
    outputs and down projections d^(-1/2)/sqrt(2 L), embeddings not cut. ``fan_in``: fan_in^(-1/2), embeddings N(0,
    1/c²), not cut, where c is what the model multiplies its embeddings by. Up projections (w3) are those beside a gate
    (w1), which is drawn as queries are.

    Routers and experts have one std: s under normal and also under normalized, s/sqrt(2 L) under llama, and
    s/sqrt(2 (l + 1)) under llama_depth. A head that is tied to the embedding is drawn as the embedding.

    Options:
        scheme: normal, llama, llama_depth, normalized or fan_in
        std: s
        embedding_std: the std of embeddings under normal; s by default
        embed_scale: c
        layers: L; by default as the names count

    Source: OLMo-core, nn/transformer/init.py and nn/attention/__init__.py (2026); OLMo Team 2025 (arXiv:2501.00656).
    """
    positive("olmo", std=std, embedding_std=embedding_std, embed_scale=embed_scale)

    def cut(formula: str, std_of: Callable[[Match], float]) -> Law:
        return law(f"{formula}, cut at 3 std", lambda match: TruncatedNormal(std_of(match), cutoff=3))

    plain = cut("N(0, s²)", lambda match: std)
    fan_in = cut("N(0, 1/fan_in)", lambda match: _fan_in(match) ** -0.5)
    deep = cut("N(0, s²/(2 L))", lambda match: std / math.sqrt(2 * number_of_layers(match, layers)))
    deeper = cut("N(0, s²/(2 (l + 1)))", lambda match: std / math.sqrt(2 * (layer(match) + 1)))
    narrow = cut("N(0, 1/(2 L d))", lambda match: (2 * number_of_layers(match, layers) * match.fans.fan_out) ** -0.5)
    table = {
        # into attention and MLP; out of them; up; output head; routers and experts
        "normal": (plain, plain, plain, plain, plain),
        "llama": (plain, deep, deep, fan_in, deep),
        "llama_depth": (plain, deeper, deeper, fan_in, deeper),
        "normalized": (fan_in, narrow, fan_in, fan_in, plain),
        "fan_in": (fan_in, fan_in, fan_in, fan_in, fan_in),
    }
    into, out, up, head, of_experts = table[choice("olmo", "scheme", scheme, table)]
    embeddings: dict[str, Initializer | Law] = {
        "normal": TruncatedNormal(std if embedding_std is None else embedding_std, cutoff=3),
        "normalized": law("N(0, 1/d)", lambda match: Normal(match.shape[-1] ** -0.5)),
        "fan_in": Normal(1 / embed_scale),
    }
    experts = has_experts(model)
    return Rules(
        [
            Rule(EMBEDDINGS, embeddings.get(scheme, Normal(1.0))),
            Rule(READOUT, head, optional=True),
            Rule(Where("routers", role("router") | glob("*router.weight")), of_experts, optional=not experts),
            Rule(EXPERTS, of_experts, optional=not experts),
            Rule(Where("gates of attention", glob("*attention.w_g.weight")), into, optional=True),
            Rule(INTO_ATTENTION, into),
            Rule(RESIDUAL[0], out),
            Rule(RESIDUAL[1], out, optional=experts),
            Rule(GATES, gated(into, up), optional=experts),
            Rule(UP, up, optional=True),
            *norms_and_biases(),
        ]
    )


def _fan_in(match: Match) -> int:
    """Also of OLMo's experts and routers, which keep their matrices one below the other, or flat."""
    width, hidden = (getattr(match.module, name, None) for name in ("d_model", "hidden_size"))
    if isinstance(width, int) and hasattr(match.module, "num_experts"):
        return hidden if match.local_name == "w2" and isinstance(hidden, int) else width
    return int(match.fans.fan_in)


# -- GPT-NeoX and Megatron ---------------------------------------------------------------------------------------------

#: all matrices that do not lead back to the residual stream; where one is missed, no rule matches it
_MATRICES: Final = Where(
    "routers, output head, what leads into attention and MLP", INTO_ATTENTION | GATES | UP | ROUTERS | READOUT
)
_OTHERS: Final = Where(f"embeddings, {_MATRICES.label}", EMBEDDINGS | role("position") | _MATRICES)


@recipe
def gpt_neox(
    model: nn.Module,
    *,
    scheme: str = "small",
    output_scheme: str = "wang",
    std: float = 0.02,
    layers: int | None = None,
    d_model: int | None = None,
) -> Rules:
    """GPT-NeoX: weights N(0, 2/(5 d)), projections to the residual stream N(0, 4/(L² d)), norms 1, biases 0.

    d is the width of the residual stream, also in narrower layers, such as those of a compressed attention or a
    factorized embedding; L is the number of layers, s a std. These are the schemes ``small``, also for
    embeddings, and ``wang``, as in GPT-NeoX-20B and Pythia. The others: ``normal`` N(0, s²) and ``scaled`` N(0, s²/(2
    L)), the framework's defaults; ``scaled_once`` N(0, s²/L), for one residual branch in each layer; ``orthogonal``
    with gain sqrt(2); ``scaled_orthogonal`` with gain sqrt(2/L); ``xavier_uniform`` and ``xavier_normal``, with the
    fans as torch counts them. The framework's own call of ``orthogonal`` passes arguments in the wrong places, so that
    it divides by 0; here the gain is that of its function without arguments.

    Options:
        scheme: of embeddings, output head and all that leads into attention and MLP
        output_scheme: of attention outputs and MLP down projections
        std: s
        layers: L; by default as the names count, and needed for an embedding whose scheme has it
        d_model: d; by default as attention outputs and MLP down projections end, or as the config has it

    Source: GPT-NeoX, megatron/model/init_functions.py (2026); Black et al. 2022 (arXiv:2204.06745); small: Nguyen and
    Salazar 2019 (arXiv:1910.05895).
    """
    positive("gpt_neox", std=std)
    width = stream_width(model, d_model)

    def number(match: Match) -> int:
        return number_of_layers(match, layers)

    def xavier(match: Match) -> float:
        return math.sqrt(2 / (match.torch_fans.fan_in + match.torch_fans.fan_out))

    def xavier_uniform(match: Match) -> Initializer:
        bound = math.sqrt(3) * xavier(match)
        return Uniform(-bound, bound)

    laws = {
        "normal": law("N(0, s²)", lambda match: Normal(std)),
        "scaled": law("N(0, s²/(2 L))", lambda match: Normal(std / math.sqrt(2 * number(match)))),
        "scaled_once": law("N(0, s²/L)", lambda match: Normal(std / math.sqrt(number(match)))),
        "small": law("N(0, 2/(5 d))", lambda match: Normal(math.sqrt(2 / (5 * width(match))))),
        "wang": law("N(0, 4/(L² d))", lambda match: Normal(2 / (number(match) * math.sqrt(width(match))))),
        "orthogonal": law("orthogonal, gain sqrt(2)", lambda match: Orthogonal(math.sqrt(2))),
        "scaled_orthogonal": law("orthogonal, gain sqrt(2/L)", lambda match: Orthogonal(math.sqrt(2 / number(match)))),
        "xavier_uniform": law("uniform on ±sqrt(6/(fan_in + fan_out))", xavier_uniform),
        "xavier_normal": law("N(0, 2/(fan_in + fan_out))", lambda match: Normal(xavier(match))),
    }
    others = laws[choice("gpt_neox", "scheme", scheme, laws)]
    outputs = laws[choice("gpt_neox", "output_scheme", output_scheme, laws)]
    return Rules([*(Rule(each, outputs) for each in RESIDUAL), Rule(_OTHERS, others), *norms_and_biases()])


@recipe
def megatron(
    model: nn.Module,
    *,
    hybrid: bool = False,
    std: float = 0.02,
    embedding_std: float | None = None,
    layers: int | None = None,
) -> Rules:
    """Megatron: weights and embeddings N(0, s²), projections to the residual stream N(0, s²/(2 L)), norms 1, biases 0.

    L is the number of layers. The projections to the residual stream are attention outputs and MLP down projections,
    also of experts. Routers are N(0, s²), and their biases too, as in Megatron.

    Hybrid models have one branch in each layer, which is an attention, an MLP or a Mamba-2 mixer: the projections are
    N(0, s²/L). A mixer's input projection is N(0, s²); its convolution and the parameters of its state space are those
    of the recipe mamba2. If layers of a hybrid hold several branches, L is the number of branches.

    Options:
        hybrid: the model is a hybrid with Mamba layers
        std: s
        embedding_std: the std of embeddings, and of a head tied to them; s by default
        layers: L; by default as the names count

    Source: Megatron-LM, core/utils.py, core/transformer/transformer_config.py and core/ssm/mamba_mixer.py (2026);
    Shoeybi et al. 2019 (arXiv:1909.08053).
    """
    positive("megatron", std=std, embedding_std=embedding_std)
    outputs = law(
        "N(0, s²/L)" if hybrid else "N(0, s²/(2 L))",
        lambda match: Normal(
            std / math.sqrt(_branches(match, layers) if hybrid else 2 * number_of_layers(match, layers))
        ),
    )
    mixers = [
        Rule(Where("output projections of mixers", glob("*mixer.out_proj.weight")), outputs),
        Rule(Where("input projections of mixers", glob("*mixer.in_proj.weight")), Normal(std)),
        *state_space_rules("megatron"),
    ]
    tables = EMBEDDINGS | role("position")
    return Rules(
        [
            *(mixers if hybrid else []),
            *(Rule(each, outputs, optional=hybrid) for each in RESIDUAL),
            Rule(Where("embeddings", tables), Normal(std if embedding_std is None else embedding_std)),
            Rule(Where("biases of routers", role("router", bias=True)), Normal(std), optional=True),
            Rule(_MATRICES, Normal(std), optional=hybrid),
            *norms_and_biases(),
        ]
    )


def _branches(match: Match, given: int | None) -> int:
    """The number of residual branches: of a hybrid's layers, each of which has one."""
    place = match.layers(match.name)
    found = place.branches if given is None and place is not None else None
    return number_of_layers(match, given) if found is None else found
