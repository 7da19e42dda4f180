"""Recipes of language models against transformers' constructors, and against formulas on models with other names."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.expected_laws import assert_laws, assert_recorded  # noqa: E402
from zeta.errors import PlanError, SpecError  # noqa: E402
from zeta.initializers import Constant, Initializer, Normal, Ones, TruncatedNormal, Zeros  # noqa: E402

# -- t5 ----------------------------------------------------------------------------------------------------------------

T5 = {
    "d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 60,
    "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
T5_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("T5ForConditionalGeneration", {}),
    "untied": ("T5ForConditionalGeneration", {"tie_word_embeddings": False}),
    "gated": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "factor": ("T5ForConditionalGeneration", {"initializer_factor": 0.3, "tie_word_embeddings": False}),
    "encoder": ("T5EncoderModel", {}),
    "answers": ("T5ForQuestionAnswering", {}),
    "sequences": ("T5ForSequenceClassification", {}),
    "tokens": ("T5ForTokenClassification", {}),
}


def t5_of_transformers(name: str) -> nn.Module:
    kind, changes = T5_MODELS[name]
    return getattr(transformers, kind)(transformers.T5Config(**{**T5, **changes}))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", T5_MODELS)
def test_t5_is_that_of_transformers(name: str) -> None:
    assert_recorded(lambda: t5_of_transformers(name), "t5")


class Attention(nn.Module):
    """Four heads of width 6 in a model of width 32: the inner width is 24."""

    def __init__(self, positions: bool) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(32, 24, bias=False) for _ in range(3))
        self.to_out = nn.Linear(24, 32)
        if positions:
            self.rel_pos_bias = nn.Embedding(32, 4)


class T5Block(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(32), nn.RMSNorm(32)
        self.attention = Attention(positions=number == 0)
        self.feed_forward = nn.ModuleDict({"up": nn.Linear(32, 80), "down": nn.Linear(80, 32)})


class OwnT5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(200, 32)
        self.blocks = nn.ModuleList([T5Block(number) for number in range(2)])
        self.norm = nn.RMSNorm(32)
        self.lm_head = nn.Linear(32, 200)


def own_t5_laws(factor: float) -> dict[str, Initializer]:
    """Raffel et al. 2019, in numbers."""
    laws: dict[str, Initializer] = {
        "tokens.weight": Normal(factor), "lm_head.weight": Normal(factor), "lm_head.bias": Zeros(),
        "norm.weight": Constant(factor),
        "blocks.0.attention.rel_pos_bias.weight": Normal(factor / 32**0.5),
    }  # fmt: skip
    for block in ("blocks.0", "blocks.1"):
        laws |= {
            f"{block}.norm_1.weight": Constant(factor), f"{block}.norm_2.weight": Constant(factor),
            f"{block}.attention.to_q.weight": Normal(factor / (32 * 6) ** 0.5),
            f"{block}.attention.to_k.weight": Normal(factor / 32**0.5),
            f"{block}.attention.to_v.weight": Normal(factor / 32**0.5),
            f"{block}.attention.to_out.weight": Normal(factor / 24**0.5),
            f"{block}.attention.to_out.bias": Zeros(),
            f"{block}.feed_forward.up.weight": Normal(factor / 32**0.5),
            f"{block}.feed_forward.up.bias": Zeros(),
            f"{block}.feed_forward.down.weight": Normal(factor / 80**0.5),
            f"{block}.feed_forward.down.bias": Zeros(),
        }  # fmt: skip
    return laws


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_t5_with_other_names(factor: float) -> None:
    options = {} if factor == 1 else {"factor": factor}
    assert_laws(OwnT5(), "t5", own_t5_laws(factor), d_kv=6, d_model=32, **options)


def test_t5_without_a_config_needs_its_sizes() -> None:
    with pytest.raises(PlanError, match="no config of the model has d_kv; give d_kv="):
        zeta.plan(OwnT5(), "t5", d_model=32)
    with pytest.raises(SpecError, match="the recipe 't5': d_kv must be a whole number above 0, got 0"):
        zeta.plan(OwnT5(), "t5", d_kv=0)


# -- moe ---------------------------------------------------------------------------------------------------------------

SMALL = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 90,
    "num_key_value_heads": 4, "pad_token_id": 7, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MOE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4}),
    "range": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4, "initializer_range": 0.3}),
    "tied": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4, "tie_word_embeddings": True}),
    "OLMoE": ("OlmoeForCausalLM", "OlmoeConfig", {"num_experts": 4}),
    "Qwen3": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    ),
    "DeepSeek-V3": (
        "DeepseekV3ForCausalLM", "DeepseekV3Config", {
            "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
            "first_k_dense_replace": 1, "q_lora_rank": 12, "kv_lora_rank": 10, "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4, "v_head_dim": 8,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOE)
def test_moe_is_that_of_transformers(name: str) -> None:
    model, config, changes = MOE[name]

    def build() -> nn.Module:
        made = getattr(transformers, config)(**{**SMALL, **changes})
        return getattr(transformers, model)(made)  # type: ignore[no-any-return]

    assert_recorded(build, "moe")


def test_the_scheme_of_switch_on_transformers() -> None:
    """Section 2.4 of the paper: truncated at 2 std, std sqrt(0.1/fan_in)."""
    sizes = {**T5, "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    config = transformers.SwitchTransformersConfig(**sizes, tie_word_embeddings=False)
    model = transformers.SwitchTransformersForConditionalGeneration(config)
    inputs = {"o": 32, "wo": 96}
    laws: dict[str, Initializer] = {}
    for name, _ in model.named_parameters():
        local = name.split(".")[-2]
        if "layer_norm" in name:
            laws[name] = Ones()
        elif local in ("shared", "embed_tokens", "relative_attention_bias"):
            laws[name] = Normal(48**-0.5 if local == "relative_attention_bias" else 1.0)
        else:
            laws[name] = TruncatedNormal((0.1 / inputs.get(local, 48)) ** 0.5, cutoff=2)
    assert sum("expert" in name for name in laws) == 8
    assert sum("router" in name for name in laws) == 2
    assert_laws(model, "moe", laws, scheme="switch")


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(48, 80), nn.Linear(80, 48)


class Stack(nn.Module):
    """Experts in one tensor, stored as (experts, inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(4, 48, 80)), nn.Parameter(torch.empty(4, 80, 48))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(torch.relu(torch.bmm(x, self.up)), self.down)


class OwnMixture(nn.Module):
    def __init__(self, *, stacked: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(90, 48)
        self.blocks = nn.ModuleList()
        for _ in range(2):
            attention = nn.ModuleDict({"qkv": nn.Linear(48, 96), "proj": nn.Linear(32, 48)})
            experts = Stack() if stacked else nn.ModuleList([Expert() for _ in range(4)])
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "attn": attention,
                        "norm": nn.LayerNorm(48),
                        "moe": nn.ModuleDict({"gate": nn.Linear(48, 4), "experts": experts}),
                    }
                )
            )
        self.head = nn.Linear(48, 90, bias=False)


def own_mixture_laws(*, stacked: bool, switch: bool) -> dict[str, Initializer]:
    def matrix(inputs: int) -> Initializer:
        return TruncatedNormal((0.1 / inputs) ** 0.5, cutoff=2) if switch else Normal(0.02)

    laws: dict[str, Initializer] = {"embed.weight": Normal(1.0 if switch else 0.02), "head.weight": matrix(48)}
    for block in range(2):
        at = f"blocks.{block}"
        laws |= {f"{at}.norm.weight": Ones(), f"{at}.norm.bias": Zeros()}
        for name, inputs in (("attn.qkv", 48), ("attn.proj", 32), ("moe.gate", 48)):
            laws |= {f"{at}.{name}.weight": matrix(inputs), f"{at}.{name}.bias": Zeros()}
        if stacked:
            laws |= {f"{at}.moe.experts.up": matrix(48), f"{at}.moe.experts.down": matrix(80)}
        else:
            for name, inputs in (
                (f"{expert}.{name}", n) for expert in range(4) for name, n in (("up", 48), ("down", 80))
            ):
                laws |= {f"{at}.moe.experts.{name}.weight": matrix(inputs), f"{at}.moe.experts.{name}.bias": Zeros()}
    return laws


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("switch", [False, True])
def test_moe_with_other_names(stacked: bool, switch: bool) -> None:
    options = {"scheme": "switch"} if switch else {}
    assert_laws(OwnMixture(stacked=stacked), "moe", own_mixture_laws(stacked=stacked, switch=switch), **options)


def test_a_model_without_experts_is_no_mixture() -> None:
    with pytest.raises(PlanError, match=r"routers(.|\n)*experts"):
        zeta.plan(OwnT5(), "moe")
    with pytest.raises(SpecError, match="scheme must be one of 'normal', 'switch', got 'mixtral'"):
        zeta.plan(OwnMixture(stacked=True), "moe", scheme="mixtral")


# -- gpt2 --------------------------------------------------------------------------------------------------------------


def named_blocks() -> nn.ModuleDict:
    """Layers that words count."""

    def block() -> nn.ModuleDict:
        attention = nn.ModuleDict({"c_attn": nn.Linear(16, 48), "c_proj": nn.Linear(16, 16)})
        return nn.ModuleDict(
            {"attn": attention, "mlp": nn.ModuleDict({"c_fc": nn.Linear(16, 64), "c_proj": nn.Linear(64, 16)})}
        )

    return nn.ModuleDict(
        {
            "wte": nn.Embedding(50, 16),
            "first": block(),
            "middle": block(),
            "third": block(),
            "lm_head": nn.Linear(16, 50, bias=False),
        }
    )


def test_layers_of_gpt2_that_no_number_counts() -> None:
    with pytest.raises(PlanError, match=r"the number of layers does not follow.*; give layers="):
        zeta.plan(named_blocks(), "gpt2")
    laws: dict[str, Initializer] = {"wte.weight": Normal(0.02), "lm_head.weight": Normal(0.02)}
    for layer in (f"{block}.{part}" for block in ("first", "middle", "third") for part in ("attn", "mlp")):
        into = "c_attn" if layer.endswith("attn") else "c_fc"
        laws |= {f"{layer}.{into}.weight": Normal(0.02), f"{layer}.c_proj.weight": Normal(0.02 / 6**0.5)}
        laws |= {f"{layer}.{into}.bias": Zeros(), f"{layer}.c_proj.bias": Zeros()}
    assert_laws(named_blocks(), "gpt2", laws, layers=3)


def test_a_law_by_the_layer_s_number_names_its_remedy() -> None:
    remedy = r'and this law depends on it: put Rule\("first.attn.c_proj.weight", ...\) before the recipe'
    with pytest.raises(PlanError, match=remedy):
        zeta.plan(named_blocks(), "timm_vit", fix_init=True)
