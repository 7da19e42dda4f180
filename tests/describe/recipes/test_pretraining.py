"""Recipes of pretraining frameworks: their formulas in numbers, on transformers' models and on their own names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.expected_laws import assert_laws  # noqa: E402
from zeta.errors import PlanError, SpecError  # noqa: E402
from zeta.initializers import (  # noqa: E402
    Blocks,
    Initializer,
    Normal,
    Ones,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    Zeros,
)

#: width 48, 4 heads of width 8 (2 for keys and values), MLP of width 80, 3 layers
LLAMA = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "vocab_size": 90, "pad_token_id": None,
}  # fmt: skip
LAYERS = range(3)


def linear(into: int, out: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(into, out, bias=bias)


def parts(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


# -- torchtitan --------------------------------------------------------------------------------------------------------


def loose(std: float) -> TruncatedNormal:
    """What ``trunc_normal_`` draws with its absolute bounds."""
    return TruncatedNormal(std, low=-2, high=2)


#: 0.02/sqrt(2 (l + 1))
DEEP = [loose(0.014142135623730951), loose(0.01), loose(0.008164965809277261)]
PLAIN = loose(0.02)


def llama_of_transformers(**changes: object) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **changes}))  # type: ignore[no-any-return]


def titan_laws_for_llama() -> dict[str, Initializer]:
    laws: dict[str, Initializer] = {
        "model.embed_tokens.weight": Normal(1.0), "model.norm.weight": Ones(),
        "lm_head.weight": TruncatedNormal(0.14433756729740646, cutoff=3),  # 48^(-1/2)
    }  # fmt: skip
    for layer in LAYERS:
        at = f"model.layers.{layer}"
        laws |= {f"{at}.{norm}.weight": Ones() for norm in ("input_layernorm", "post_attention_layernorm")}
        laws |= {f"{at}.self_attn.{name}_proj.weight": PLAIN for name in "qkv"}
        laws |= {
            f"{at}.self_attn.o_proj.weight": DEEP[layer], f"{at}.mlp.down_proj.weight": DEEP[layer],
            f"{at}.mlp.up_proj.weight": DEEP[layer], f"{at}.mlp.gate_proj.weight": PLAIN,
        }  # fmt: skip
    return laws


def test_torchtitan_llama3_on_transformers() -> None:
    assert_laws(llama_of_transformers(), "torchtitan_llama3", titan_laws_for_llama())


def test_a_tied_head_decides_for_the_embedding() -> None:
    tied = {name: law for name, law in titan_laws_for_llama().items() if name != "lm_head.weight"}
    tied["model.embed_tokens.weight"] = TruncatedNormal(48**-0.5, cutoff=3)
    assert_laws(llama_of_transformers(tie_word_embeddings=True), "torchtitan_llama3", tied)


class Experts(nn.Module):
    """Torchtitan's names: the letters after them are the dimensions. E experts, F inside, D outside."""

    def __init__(self, experts: int, width: int, inside: int) -> None:
        super().__init__()
        self.w1_EFD, self.w3_EFD = (nn.Parameter(torch.empty(experts, inside, width)) for _ in range(2))
        self.w2_EDF = nn.Parameter(torch.empty(experts, width, inside))

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.silu(torch.bmm(x, self.w1_EFD.transpose(-2, -1)))
        hidden = hidden * torch.bmm(x, self.w3_EFD.transpose(-2, -1))
        return torch.bmm(hidden, self.w2_EDF.transpose(-2, -1))


class Titan(nn.Module):
    """Torchtitan's names for DeepSeek-V3: the first layer is dense. ``square``: shapes say nothing."""

    def __init__(self, *, square: bool = False) -> None:
        super().__init__()
        inside = 48 if square else 20
        self.tok_embeddings = nn.Embedding(90, 48)
        self.layers = nn.ModuleList()
        for layer in LAYERS:
            attention = parts(
                wq_a=linear(48, 12), q_norm=nn.RMSNorm(12), wq_b=linear(12, 40), wkv_a=linear(48, 14),
                kv_norm=nn.RMSNorm(10), wkv_b=linear(10, 64), wo=linear(32, 48),
            )  # fmt: skip
            block = parts(attention=attention, attention_norm=nn.RMSNorm(48), ffn_norm=nn.RMSNorm(48))
            if layer == 0:
                block["feed_forward"] = parts(w1=linear(48, 80), w2=linear(80, 48), w3=linear(48, 80))
            else:
                block["moe"] = parts(
                    router=parts(gate=linear(48, 4)),
                    routed_experts=parts(inner_experts=Experts(4, 48, inside)),
                    shared_experts=parts(w1=linear(48, 24), w2=linear(24, 48), w3=linear(48, 24)),
                )
            self.layers.append(block)
        self.norm = nn.RMSNorm(48)
        self.output = linear(48, 90)


def titan_laws() -> dict[str, Initializer]:
    laws: dict[str, Initializer] = {
        "tok_embeddings.weight": Normal(1.0), "norm.weight": Ones(),
        "output.weight": TruncatedNormal(48**-0.5, cutoff=3),
    }  # fmt: skip
    for layer in LAYERS:
        at = f"layers.{layer}"
        norms = ("attention_norm", "ffn_norm", "attention.q_norm", "attention.kv_norm")
        laws |= {f"{at}.{norm}.weight": Ones() for norm in norms}
        laws |= {f"{at}.attention.{name}.weight": PLAIN for name in ("wq_a", "wq_b", "wkv_a", "wkv_b")}
        laws[f"{at}.attention.wo.weight"] = DEEP[layer]
        mlp = "feed_forward" if layer == 0 else "moe.shared_experts"
        laws |= {
            f"{at}.{mlp}.w1.weight": PLAIN, f"{at}.{mlp}.w2.weight": DEEP[layer], f"{at}.{mlp}.w3.weight": DEEP[layer],
        }  # fmt: skip
        if layer:
            experts = f"{at}.moe.routed_experts.inner_experts"
            laws |= {
                f"{at}.moe.router.gate.weight": DEEP[layer], f"{experts}.w1_EFD": PLAIN,
                f"{experts}.w2_EDF": DEEP[layer], f"{experts}.w3_EFD": DEEP[layer],
            }  # fmt: skip
    return laws


@pytest.mark.parametrize("square", [False, True])
def test_torchtitan_deepseek_v3_with_its_names(square: bool) -> None:
    assert_laws(Titan(square=square), "torchtitan_deepseek_v3", titan_laws())


def deepseek_of_transformers() -> nn.Module:
    sizes = {
        **LLAMA, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2,
        "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "q_lora_rank": 12, "kv_lora_rank": 10,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    }  # fmt: skip
    sizes.pop("head_dim")
    return transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**sizes))  # type: ignore[no-any-return]


def test_torchtitan_deepseek_v3_on_transformers() -> None:
    """Gate and up projections of all experts are one tensor: the gates are its first half."""
    laws = titan_laws_for_llama()
    for layer in LAYERS:
        at = f"model.layers.{layer}"
        for name in "qkv":
            del laws[f"{at}.self_attn.{name}_proj.weight"]
        laws |= {f"{at}.self_attn.{name}_layernorm.weight": Ones() for name in ("q_a", "kv_a")}
        laws |= {f"{at}.self_attn.{name}.weight": PLAIN for name in ("q_a_proj", "q_b_proj", "kv_b_proj")}
        laws[f"{at}.self_attn.kv_a_proj_with_mqa.weight"] = PLAIN
        if layer:
            for name in ("gate", "up", "down"):
                laws[f"{at}.mlp.shared_experts.{name}_proj.weight"] = laws.pop(f"{at}.mlp.{name}_proj.weight")
            laws |= {
                f"{at}.mlp.gate.weight": DEEP[layer], f"{at}.mlp.experts.down_proj": DEEP[layer],
                f"{at}.mlp.experts.gate_up_proj": Blocks(PLAIN, DEEP[layer], dim=1),
            }  # fmt: skip
    assert_laws(deepseek_of_transformers(), "torchtitan_deepseek_v3", laws)


def test_a_dense_model_has_no_router() -> None:
    with pytest.raises(PlanError, match="routers"):
        zeta.plan(llama_of_transformers(), "torchtitan_deepseek_v3")
    with pytest.raises(PlanError, match=r"no rule matches these parameters(.|\n)*router\.gate\.weight"):
        zeta.plan(Titan(), "torchtitan_llama3")


class Plain(nn.Module):
    """With MLPs that have no gates."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(90, 48)
        self.blocks = nn.ModuleList(
            parts(
                attn=parts(qkv=linear(48, 144, bias=True), proj=linear(48, 48, bias=True)),
                mlp=parts(fc1=linear(48, 192, bias=True), fc2=linear(192, 48, bias=True)),
                norm1=nn.LayerNorm(48), norm2=nn.LayerNorm(48),
            )
            for _ in LAYERS
        )  # fmt: skip
        self.head = linear(48, 90)


@pytest.mark.parametrize("name", ["torchtitan_llama3", "olmo"])
def test_an_mlp_without_gates_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match="MLP gates"):
        zeta.plan(Plain(), name)


# -- OLMo-core ---------------------------------------------------------------------------------------------------------


def cut(std: float) -> TruncatedNormal:
    return TruncatedNormal(std, cutoff=3)


#: by scheme, with width 48, inner width 32 of attention and 80 of the MLP, and 3 layers: into attention and MLP,
#: attention output, down, up, head, embeddings. The numbers are 0.02/sqrt(6), 48^(-1/2), 48^(-1/2)/sqrt(6); 32^(-1/2),
#: 80^(-1/2)
S, S6, D, D6 = 0.02, 0.00816496580927726, 0.14433756729740646, 0.05892556509887896
OLMO: dict[str, tuple[float, list[float], list[float], list[float], float, Initializer]] = {
    "normal": (S, [S] * 3, [S] * 3, [S] * 3, S, cut(S)),
    "llama": (S, [S6] * 3, [S6] * 3, [S6] * 3, D, Normal(1.0)),
    "llama_depth": (
        S, *[[0.02 / 2**0.5, 0.01, 0.02 / 6**0.5]] * 3, D, Normal(1.0),
    ),
    "normalized": (D, [D6] * 3, [D6] * 3, [D] * 3, D, Normal(D)),
    "fan_in": (D, [0.17677669529663687] * 3, [0.11180339887498948] * 3, [D] * 3, D, Normal(0.25)),
}  # fmt: skip


def options_of(scheme: str) -> dict[str, object]:
    return {"scheme": scheme, **({"embed_scale": 4.0} if scheme == "fan_in" else {})}


@pytest.mark.parametrize("scheme", OLMO)
def test_olmo_on_transformers(scheme: str) -> None:
    into, out, down, up, head, embeddings = OLMO[scheme]
    laws: dict[str, Initializer] = {
        "model.embed_tokens.weight": embeddings, "model.norm.weight": Ones(), "lm_head.weight": cut(head),
    }  # fmt: skip
    for layer in LAYERS:
        at = f"model.layers.{layer}"
        norms = ("self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "post_feedforward_layernorm")
        laws |= {f"{at}.{norm}.weight": Ones() for norm in norms}
        laws |= {f"{at}.self_attn.{name}_proj.weight": cut(into) for name in "qkv"}
        laws |= {
            f"{at}.self_attn.o_proj.weight": cut(out[layer]), f"{at}.mlp.down_proj.weight": cut(down[layer]),
            f"{at}.mlp.up_proj.weight": cut(up[layer]), f"{at}.mlp.gate_proj.weight": cut(into),
        }  # fmt: skip
    model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**LLAMA))
    assert_laws(model, "olmo", laws, **options_of(scheme))


class Flat(nn.Module):
    """A router or experts as OLMo-core keeps them: flat, or matrices one below the other."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.d_model, self.hidden_size, self.num_experts = 48, 20, 4
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))


class OlmoCore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(90, 48)
        self.blocks = nn.ModuleDict()
        for layer in LAYERS:
            attention = parts(w_q=linear(48, 32), w_k=linear(48, 16), w_v=linear(48, 16), w_g=linear(48, 4),
                              w_out=linear(32, 48, bias=True))  # fmt: skip
            block = parts(attention=attention, attention_norm=nn.RMSNorm(48), feed_forward_norm=nn.RMSNorm(48))
            if layer == 0:
                block["feed_forward"] = parts(w1=linear(48, 80), w2=linear(80, 48), w3=linear(48, 80))
            else:
                mlp = Flat(w1=(4 * 48, 20), w2=(4 * 20, 48), w3=(4 * 48, 20))
                block["feed_forward_moe"] = parts(router=Flat(weight=(4 * 48,)), experts=parts(mlp=mlp))
            self.blocks[str(layer)] = block
        self.lm_head = parts(norm=nn.RMSNorm(48), w_out=linear(48, 90))


@pytest.mark.parametrize("scheme", OLMO)
def test_olmo_with_its_names_and_experts(scheme: str) -> None:
    into, out, down, up, head, embeddings = OLMO[scheme]
    laws: dict[str, Initializer] = {
        "embeddings.weight": embeddings, "lm_head.norm.weight": Ones(), "lm_head.w_out.weight": cut(head),
    }  # fmt: skip
    for layer in LAYERS:
        at = f"blocks.{layer}"
        laws |= {f"{at}.{norm}.weight": Ones() for norm in ("attention_norm", "feed_forward_norm")}
        laws |= {f"{at}.attention.{name}.weight": cut(into) for name in ("w_q", "w_k", "w_v", "w_g")}
        laws |= {f"{at}.attention.w_out.weight": cut(out[layer]), f"{at}.attention.w_out.bias": Zeros()}
        if layer == 0:
            laws |= {
                f"{at}.feed_forward.w1.weight": cut(into), f"{at}.feed_forward.w2.weight": cut(down[layer]),
                f"{at}.feed_forward.w3.weight": cut(up[layer]),
            }  # fmt: skip
        else:
            moe = f"{at}.feed_forward_moe"
            all_of_them = {"normal": S, "normalized": S, "llama": S6, "llama_depth": out[layer]}.get(scheme, D)
            laws |= {
                f"{moe}.{name}": cut(all_of_them) for name in ("router.weight", "experts.mlp.w1", "experts.mlp.w3")
            }
            laws[f"{moe}.experts.mlp.w2"] = cut(20**-0.5 if scheme == "fan_in" else all_of_them)
    assert_laws(OlmoCore(), "olmo", laws, **options_of(scheme))


def test_olmo_s_options() -> None:
    assert zeta.plan(OlmoCore(), "olmo", embedding_std=0.5)["embeddings.weight"].initializer == cut(0.5)
    plan = zeta.plan(OlmoCore(), "olmo", scheme="llama", layers=18)
    assert plan["blocks.1.attention.w_out.weight"].std == pytest.approx(cut(0.02 / 6).moments(None).std)  # type: ignore[arg-type]
    with pytest.raises(
        SpecError, match=r"scheme must be one of 'normal', 'llama', .* got 'lama'; did you mean 'llama'"
    ):
        zeta.plan(OlmoCore(), "olmo", scheme="lama")


# -- GPT-NeoX ----------------------------------------------------------------------------------------------------------

#: width 48, 3 layers: sqrt(2/(5 48)), 2/(3 sqrt(48)), 0.02/sqrt(6), 0.02/sqrt(3)
NEOX: dict[str, Callable[[int, int], Initializer]] = {
    "normal": lambda rows, columns: Normal(0.02),
    "scaled": lambda rows, columns: Normal(0.00816496580927726),
    "scaled_once": lambda rows, columns: Normal(0.011547005383792516),
    "small": lambda rows, columns: Normal(0.09128709291752768),
    "wang": lambda rows, columns: Normal(0.09622504486493763),
    "orthogonal": lambda rows, columns: Orthogonal(1.4142135623730951),
    "scaled_orthogonal": lambda rows, columns: Orthogonal(0.816496580927726),
    "xavier_uniform": lambda rows, columns: Uniform(-((6 / (rows + columns)) ** 0.5), (6 / (rows + columns)) ** 0.5),
    "xavier_normal": lambda rows, columns: Normal((2 / (rows + columns)) ** 0.5),
}


def neox_of_transformers() -> nn.Module:
    sizes = {key: LLAMA[key] for key in list(LLAMA)[:4]}
    config = transformers.GPTNeoXConfig(**{**sizes, "vocab_size": 90, "intermediate_size": 200})
    return transformers.GPTNeoXForCausalLM(config)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scheme", NEOX)
@pytest.mark.parametrize("output_scheme", ["wang", "scaled", "orthogonal", "xavier_normal"])
def test_gpt_neox_on_transformers(scheme: str, output_scheme: str) -> None:
    model = neox_of_transformers()
    laws: dict[str, Initializer] = {}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            laws[name] = Zeros()
        elif "norm" in name:
            laws[name] = Ones()
        else:
            chosen = output_scheme if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")) else scheme
            laws[name] = NEOX[chosen](*parameter.shape)
    assert len(laws) == 3 + 1 + 3 * 12
    layers = {"layers": 3} if scheme in ("scaled", "scaled_once", "wang", "scaled_orthogonal") else {}
    assert_laws(model, "gpt_neox", laws, scheme=scheme, output_scheme=output_scheme, **layers)


def neox_laws_for_plain() -> dict[str, Initializer]:
    laws: dict[str, Initializer] = {"embed.weight": Normal((2 / 240) ** 0.5), "head.weight": Normal((2 / 240) ** 0.5)}
    for layer in LAYERS:
        at = f"blocks.{layer}"
        laws |= {f"{at}.{name}.weight": Ones() for name in ("norm1", "norm2")}
        laws |= {f"{at}.{name}.weight": Normal((2 / 240) ** 0.5) for name in ("attn.qkv", "mlp.fc1")}
        laws |= {f"{at}.{name}.weight": Normal(2 / 3 / 48**0.5) for name in ("attn.proj", "mlp.fc2")}
        names = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        laws |= {f"{at}.{name}.bias": Zeros() for name in names}
    return laws


def test_gpt_neox_with_other_names() -> None:
    assert_laws(Plain(), "gpt_neox", neox_laws_for_plain())


def test_an_embedding_has_no_layer_to_count() -> None:
    with pytest.raises(PlanError, match=r"the number of layers does not follow.*; give layers="):
        zeta.plan(Plain(), "gpt_neox", scheme="wang")


@pytest.mark.parametrize("configured", [True, False])
def test_the_width_of_gpt_neox_is_that_of_the_stream_in_narrower_layers(configured: bool) -> None:
    """Compressed attention: queries, keys and values pass through fewer numbers than d."""
    model: Any = deepseek_of_transformers()
    d, layers = model.config.hidden_size, len(model.model.layers)
    if not configured:
        model.config = None
    plan = zeta.plan(model, "gpt_neox")
    matrices = [each for each in plan.parameters if "norm" not in each.name and not each.name.endswith("bias")]
    assert any(each.name.endswith("kv_b_proj.weight") for each in matrices)
    for each in matrices:
        wang = each.name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
        expected = 2 / (layers * d**0.5) if wang else (2 / (5 * d)) ** 0.5
        assert each.std == pytest.approx(expected, rel=1e-12), each.name
    given = zeta.plan(model, "gpt_neox", d_model=100)["model.layers.0.self_attn.kv_b_proj.weight"]
    assert given.std == pytest.approx((2 / 500) ** 0.5, rel=1e-12)


def test_a_factorized_embedding_has_the_width_of_the_stream() -> None:
    model = Plain()
    model.embed, model.head = nn.Embedding(90, 12), nn.Linear(12, 90, bias=False)
    assert_laws(model, "gpt_neox", neox_laws_for_plain())


def test_a_stream_without_one_width_needs_it() -> None:
    model = Plain()
    model.blocks[0] = parts(mlp=parts(fc1=linear(20, 40), fc2=linear(40, 20)))
    with pytest.raises(PlanError, match=r"no config of the model has hidden_size or .*; give d_model="):
        zeta.plan(model, "gpt_neox")
    zeta.plan(model, "gpt_neox", d_model=48)


# -- Megatron ----------------------------------------------------------------------------------------------------------


class FusedNorm(nn.Linear):
    """A linear layer that normalizes its input, as in Transformer Engine."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out)
        self.layer_norm_weight, self.layer_norm_bias = (nn.Parameter(torch.empty(into)) for _ in range(2))


class MegatronMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj = FusedNorm(48, 118)
        self.conv1d_weight, self.conv1d_bias = nn.Parameter(torch.empty(60, 1, 4)), nn.Parameter(torch.empty(60))
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.empty(6)) for _ in range(3))
        self.norm = nn.RMSNorm(48)
        self.out_proj = linear(48, 48, bias=True)


class Megatron(nn.Module):
    """Megatron's names. A hybrid's layers are a mixer, an attention and an MLP with experts, in turn."""

    def __init__(self, *, hybrid: bool) -> None:
        super().__init__()
        self.embedding = parts(word_embeddings=nn.Embedding(90, 48), position_embeddings=nn.Embedding(20, 48))
        self.decoder = parts(layers=nn.ModuleList(), final_layernorm=nn.LayerNorm(48))
        for layer in LAYERS:
            attention = parts(linear_qkv=FusedNorm(48, 96), linear_proj=linear(32, 48, bias=True))
            mlp = parts(linear_fc1=FusedNorm(48, 160), linear_fc2=linear(80, 48, bias=True))
            if layer == 2:
                experts = parts(local_experts=nn.ModuleList(
                    parts(linear_fc1=linear(48, 40), linear_fc2=linear(20, 48)) for _ in range(2)
                ))  # fmt: skip
                mlp = parts(router=linear(48, 2, bias=True), experts=experts)
            if not hybrid:
                block = parts(self_attention=attention, mlp=mlp)
            else:
                block = [parts(mixer=MegatronMixer()), parts(self_attention=attention), parts(mlp=mlp)][layer]
            self.decoder["layers"].append(block)  # type: ignore[operator]
        self.output_layer = linear(48, 90)


def megatron_laws(*, hybrid: bool, std: float = 0.02, embedding_std: float = 0.02) -> dict[str, Initializer]:
    plain, out = Normal(std), Normal(std / (3 if hybrid else 6) ** 0.5)
    model, laws = Megatron(hybrid=hybrid), dict[str, Initializer]()
    for name, _ in model.named_parameters():
        if "norm" in name:
            laws[name] = Ones() if name.endswith("weight") else Zeros()
        elif name.endswith(("D", "conv1d_weight", "conv1d_bias")):
            laws[name] = Ones() if name.endswith("D") else Uniform(-0.5, 0.5)
        elif name.endswith("bias") and "dt_bias" not in name:
            laws[name] = plain if "router" in name else Zeros()
        elif name.endswith(("linear_proj.weight", "linear_fc2.weight", "out_proj.weight")):
            laws[name] = out
        elif name.startswith("embedding"):
            laws[name] = Normal(embedding_std)
        elif not name.endswith(("A_log", "dt_bias")):
            laws[name] = plain
    return laws


@pytest.mark.parametrize("hybrid", [False, True])
def test_megatron_with_its_names(hybrid: bool) -> None:
    model, laws = Megatron(hybrid=hybrid), megatron_laws(hybrid=hybrid)
    plan = zeta.plan(model, "megatron", hybrid=hybrid)
    programs = {entry.name: entry.initializer for entry in plan.parameters if entry.name not in laws}
    assert list(programs) == ([f"decoder.layers.0.mixer.{name}" for name in ("dt_bias", "A_log")] if hybrid else [])
    assert_laws(model, "megatron", laws | programs, hybrid=hybrid)
    if hybrid:
        mixer = model.decoder["layers"][0]["mixer"]  # type: ignore[index]
        steps = nn.functional.softplus(mixer.dt_bias.detach())
        assert 0.001 <= float(steps.min()) <= float(steps.max()) <= 0.1001
        assert 1 <= float(mixer.A_log.detach().exp().min()) <= float(mixer.A_log.detach().exp().max()) <= 16


def test_megatron_on_transformers() -> None:
    """Also in the layers of GPT-2, whose matrices are stored as (inputs, outputs), with a tied head."""
    sizes = {"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": 90, "n_positions": 20}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    laws: dict[str, Initializer] = {}
    for name, _ in model.named_parameters():
        if name.endswith("bias"):
            laws[name] = Zeros()
        elif ".ln_" in name:
            laws[name] = Ones()
        elif "c_proj" in name:
            laws[name] = Normal(0.04 / 6**0.5)
        else:
            laws[name] = Normal(0.3 if name.split(".")[1] in ("wte", "wpe") else 0.04)
    assert_laws(model, "megatron", laws, std=0.04, embedding_std=0.3)


def test_a_model_without_mixers_is_no_hybrid() -> None:
    with pytest.raises(PlanError, match="output projections of mixers"):
        zeta.plan(Plain(), "megatron", hybrid=True)
    with pytest.raises(PlanError, match=r"no rule matches these parameters(.|\n)*mixer\.out_proj\.weight"):
        zeta.plan(Megatron(hybrid=True), "megatron")
