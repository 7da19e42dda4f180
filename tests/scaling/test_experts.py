"""Mixtures of experts: classes, factors and multipliers of routers, of stacked, listed and shared experts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.scaled import Gpt
from zeta import Scaling

TOKENS = torch.arange(32).reshape(2, 16)
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LATENT = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 0, "n_routed_experts": 8, "n_group": 2,
    "topk_group": 1, "num_experts_per_tok": 2,
}  # fmt: skip


def built(model_type: str, config: dict[str, Any], **sizes: int) -> nn.Module:
    """A model of transformers whose experts are as wide as it is, and that has a dense MLP of twice the width."""
    transformers = pytest.importorskip("transformers")
    width = sizes.pop("width", 64)
    options = {"hidden_size": width, "intermediate_size": 2 * width, "moe_intermediate_size": width, **config, **sizes}
    options |= {"num_hidden_layers": sizes.get("num_hidden_layers", 2), "vocab_size": 64, "pad_token_id": 0}
    if model_type == "qwen2_moe":
        options["shared_expert_intermediate_size"] = width
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **options)
    )
    return model


def scaled(
    model_type: str, config: dict[str, Any], base: dict[str, int], target: dict[str, int], how: str = "mup"
) -> Scaling:
    return zeta.scale(partial(built, model_type, config), base, target, how, attention=False)


def row(scaling: Scaling, end: str) -> tuple[str, float, float, float, float]:
    """Of the parameter of the last layer with this end: class, growth of fans, std over the base's, rate of Adam."""
    [found] = [each for each in scaling.rows if each.name.endswith(f"layers.1.{end}") or each.name == end]
    before, after = found.base_law.moments(scaling.plan[found.name].site), scaling.plan[found.name].std
    assert before is not None
    ratio = after / before.std if after and before.std else 1.0
    rate = scaling.rates(found, "adamw").lr
    return found.size.group.value, found.size.width_in, found.size.width_out, round(ratio, 6), rate


ROUTER = ("output", 4, 1, 1, 1)
HIDDEN = ("hidden", 4, 4, 0.5, 0.25)


@pytest.mark.parametrize(
    ("model_type", "config", "rows"),
    [
        (
            "mixtral",
            {**HEADS, "num_local_experts": 4},
            {"mlp.gate.weight": ROUTER, "mlp.experts.gate_up_proj": HIDDEN, "mlp.experts.down_proj": HIDDEN},
        ),
        (
            "qwen3_moe",
            {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
            {"mlp.gate.weight": ROUTER, "mlp.experts.gate_up_proj": HIDDEN, "mlp.experts.down_proj": HIDDEN},
        ),
        (
            "qwen2_moe",
            {**HEADS, "num_experts": 4, "num_experts_per_tok": 2},
            {
                "mlp.gate.weight": ROUTER,
                "mlp.shared_expert_gate.weight": ROUTER,
                "mlp.experts.down_proj": HIDDEN,
                "mlp.shared_expert.gate_proj.weight": HIDDEN,
                "mlp.shared_expert.down_proj.weight": HIDDEN,
            },
        ),
        (
            "deepseek_v3",
            LATENT,
            {
                "mlp.gate.weight": ROUTER,
                "mlp.experts.gate_up_proj": HIDDEN,
                "mlp.experts.down_proj": HIDDEN,
                "mlp.shared_experts.up_proj.weight": HIDDEN,
                # from a width to ranks that do not grow, and between these
                "self_attn.kv_a_proj_with_mqa.weight": ("hidden", 4, 1, 0.25, 0.25),
                "self_attn.kv_b_proj.weight": ("fixed", 1, 1, 1, 1),
            },
        ),
        (
            "gpt_oss",
            {**HEADS, "num_local_experts": 4, "head_dim": 16, "layer_types": ["full_attention"] * 2},
            {
                "mlp.router.weight": ROUTER,
                "mlp.router.bias": ("fixed", 1, 1, 1, 1),
                "mlp.experts.gate_up_proj": HIDDEN,
                "mlp.experts.gate_up_proj_bias": ("vector", 1, 4, 1, 1),
                "mlp.experts.down_proj_bias": ("vector", 1, 4, 1, 1),
            },
        ),
    ],
)
def test_experts_of_transformers(
    model_type: str, config: dict[str, Any], rows: dict[str, tuple[str, float, float, float, float]]
) -> None:
    """Width by 4, of all experts too; only the read-out and routers are multiplied."""
    scaling = scaled(model_type, config, {"width": 64}, {"width": 256})
    assert {end: row(scaling, end) for end in rows} == rows
    routers = {each.name.removesuffix(".weight") for each in scaling.rows if each.size.role == "router"} - {""}
    routers = {name for name in routers if not name.endswith("bias")}
    assert len(routers) == 2 * [*rows.values()].count(ROUTER)
    assert {each.module: each.factor for each in scaling.multipliers} == dict.fromkeys({"lm_head", *routers}, 0.25)


def test_experts_that_grow_in_number() -> None:
    """Alone, they change nothing; with the width, what they do is that of the width."""
    name, config = "num_local_experts", HEADS
    alone = scaled("mixtral", config, {name: 4}, {name: 8})
    assert {each.size.group.value for each in alone.rows} == {"fixed"}
    assert alone.multipliers == ()
    both = scaled("mixtral", config, {name: 4, "width": 64}, {name: 8, "width": 256})
    assert [each.effect.value for each in both.arguments] == ["width", "width"]
    assert row(both, "mlp.gate.weight") == ("output", 4, 2, 1, 1)
    assert row(both, "mlp.experts.down_proj") == HIDDEN
    listed = zeta.scale(Gpt, {"width": 32, "experts": 2}, {"width": 128, "experts": 6}, attention=False)
    assert listed.arguments[1].effect.value == "experts"
    for number in (0, 5):
        found = listed[f"h.1.mlp.experts.{number}.down_proj.weight"]
        assert (found.size.group.value, found.size.width_in, found.size.depth) == ("hidden", 4, 1)
        assert listed.plan[found.name].std == pytest.approx(0.05 / 2 / 2)  # 0.05/sqrt(4), halved


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize(
    ("model_type", "config", "ends"),
    [
        ("mixtral", {**HEADS, "num_local_experts": 4}, ("self_attn.o_proj", "mlp.experts")),
        (
            "qwen2_moe",
            {**HEADS, "num_experts": 4, "num_experts_per_tok": 2},
            ("self_attn.o_proj", "mlp.experts", "mlp.shared_expert.down_proj"),
        ),
        ("deepseek_v3", LATENT, ("self_attn.o_proj", "mlp.experts", "mlp.shared_experts.down_proj")),
    ],
)
def test_branches_of_experts_under_completep(model_type: str, config: dict[str, Any], ends: tuple[str, ...]) -> None:
    """What each kind of expert adds is multiplied once: the same model as with 1/3 in their last weights."""
    base, target = {"width": 32, "num_hidden_layers": 2}, {"width": 64, "num_hidden_layers": 6}
    scaling = scaled(model_type, config, base, target, "completep")
    found = {each.module.split(".", 3)[3]: each.factor for each in scaling.multipliers if each.where == "branch"}
    assert found == dict.fromkeys(ends, pytest.approx(1 / 3))
    model: Any = built(model_type, config, **target)
    zeta.init_(model, scaling, seed=0)
    plain = logits(model)
    scaling.apply_multipliers_(model)
    by_hooks = logits(model)
    by_hand: Any = built(model_type, config, **target)
    zeta.init_(by_hand, scaling, seed=0)
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            if name.endswith(("o_proj.weight", "mlp.experts.down_proj", "down_proj.weight")):
                parameter /= 3
            elif name.endswith(("mlp.gate.weight", "mlp.shared_expert_gate.weight", "lm_head.weight")):
                parameter /= 2
    assert torch.allclose(by_hooks, logits(by_hand), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(by_hooks, plain / 2, rtol=0.1, atol=1e-3)
