"""nanochat and modded-nanogpt: their formulas in numbers, on their own names and on a model of transformers."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.expected_laws import assert_laws  # noqa: E402
from zeta.errors import PlanError  # noqa: E402
from zeta.initializers import Blocks, Constant, Initializer, Keep, Normal, Ones, Uniform, Zeros  # noqa: E402

#: of a uniform law with std 48^(-1/2): sqrt(3)/sqrt(48)
BOUND = 0.25
LAYERS = range(3)


def within(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def of_transformers() -> nn.Module:
    config = transformers.NanoChatConfig(
        hidden_size=48, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=90, tie_word_embeddings=False, pad_token_id=None,
    )  # fmt: skip
    return transformers.NanoChatForCausalLM(config)  # type: ignore[no-any-return]


# -- nanochat ----------------------------------------------------------------------------------------------------------


def test_nanochat_on_transformers() -> None:
    laws: dict[str, Initializer] = {"model.embed_tokens.weight": Normal(0.8), "lm_head.weight": Normal(0.001)}
    for layer in LAYERS:
        at = f"model.layers.{layer}"
        laws |= {f"{at}.self_attn.{name}_proj.weight": within(BOUND) for name in "qkv"}
        laws |= {f"{at}.{name}.weight": Zeros() for name in ("self_attn.o_proj", "mlp.fc2")}
        laws[f"{at}.mlp.fc1.weight"] = within(0.1)
    assert_laws(of_transformers(), "nanochat", laws)


class Block(nn.Module):
    def __init__(self, *, values: bool) -> None:
        super().__init__()
        self.attn = nn.ModuleDict(
            {
                "c_q": nn.Linear(48, 48, bias=False), "c_k": nn.Linear(48, 24, bias=False),
                "c_v": nn.Linear(48, 24, bias=False), "c_proj": nn.Linear(48, 48, bias=False),
            }
        )  # fmt: skip
        if values:
            self.attn["ve_gate"] = nn.Linear(12, 2, bias=False)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(48, 192, bias=False), "c_proj": nn.Linear(192, 48, bias=False)}
        )  # fmt: skip


class Nanochat(nn.Module):
    """The names of the reference; embeddings are added to the values of the second layer."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        blocks = [Block(values=number == 1) for number in range(layers)]
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(90, 48), "h": nn.ModuleList(blocks)})
        self.lm_head = nn.Linear(48, 90, bias=False)
        self.resid_lambdas, self.x0_lambdas = (nn.Parameter(torch.empty(layers)) for _ in range(2))
        self.smear_lambda, self.backout_lambda = (nn.Parameter(torch.empty(1)) for _ in range(2))
        self.smear_gate = nn.Linear(24, 1, bias=False)
        self.value_embeds = nn.ModuleDict({"1": nn.Embedding(90, 24)})


def nanochat_laws() -> dict[str, Initializer]:
    laws: dict[str, Initializer] = {
        "transformer.wte.weight": Normal(0.8), "lm_head.weight": Normal(0.001),
        "resid_lambdas": Blocks(Constant(1.15), Constant(1.1), Constant(1.05)),
        "x0_lambdas": Blocks(Constant(0.2), Constant(0.125), Constant(0.05)),
        "smear_lambda": Zeros(), "backout_lambda": Constant(0.2), "smear_gate.weight": Uniform(0, 0.02),
        "value_embeds.1.weight": within(BOUND), "transformer.h.1.attn.ve_gate.weight": Uniform(0, 0.02),
    }  # fmt: skip
    for layer in LAYERS:
        at = f"transformer.h.{layer}"
        laws |= {f"{at}.attn.c_{name}.weight": within(BOUND) for name in "qkv"}
        laws |= {f"{at}.{name}.c_proj.weight": Zeros() for name in ("attn", "mlp")}
        laws[f"{at}.mlp.c_fc.weight"] = within(0.1)
    return laws


def test_nanochat_with_its_names() -> None:
    model = Nanochat()
    assert_laws(model, "nanochat", nanochat_laws(), n_embd=48)
    assert model.resid_lambdas.tolist() == pytest.approx([1.15, 1.1, 1.05], rel=1e-6)
    assert model.x0_lambdas.tolist() == pytest.approx([0.2, 0.125, 0.05], rel=1e-6)
    with pytest.raises(PlanError, match="no config of the model has n_embd or hidden_size; give n_embd="):
        zeta.plan(Nanochat(), "nanochat")


def test_nanochat_with_one_layer() -> None:
    model = Nanochat(layers=1)
    del model.value_embeds
    assert zeta.plan(model, "nanochat")["resid_lambdas"].initializer == Constant(1.15)


# -- modded-nanogpt ----------------------------------------------------------------------------------------------------


def test_modded_nanogpt_on_transformers() -> None:
    model = of_transformers()
    laws: dict[str, Initializer] = {"lm_head.weight": Normal(0.005)}
    for layer in LAYERS:
        at = f"model.layers.{layer}"
        laws |= {f"{at}.self_attn.{name}_proj.weight": within(BOUND / 2) for name in "qkvo"}
        laws |= {f"{at}.mlp.fc1.weight": within(BOUND / 2), f"{at}.mlp.fc2.weight": Zeros()}
    copied = zeta.plan(model, "modded_nanogpt")["model.embed_tokens.weight"].initializer
    assert_laws(model, "modded_nanogpt", laws | {"model.embed_tokens.weight": copied})
    assert torch.equal(model.model.embed_tokens.weight, model.lm_head.weight)  # type: ignore[union-attr]


class Transposed(nn.Module):
    """A Linear that stores its weight as (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.type_as(x)


class Modded(nn.Module):
    """The names and the banks of the reference, with a vocabulary of 90, or as wide as the model."""

    def __init__(self, vocabulary: int = 90) -> None:
        super().__init__()
        shapes = {
            "value_embeds": (180, 48), "ve_gate_bank": (5, 6, 12), "qk_bank": (8, 16, 48), "vo_bank": (6, 48, 48),
            "mlp_bank": (4, 2, 192, 48), "post_lambdas": (3, 2), "resid_lambdas": (3, 2), "scalars": (8,),
            "mudd_w1": (2, 64, 48), "mudd_w2": (2, 14, 64), "mudd_b2": (2, 14), "mudd_gate_scale": (),
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.lm_head = Transposed(48, vocabulary)
        self.embed = nn.Embedding(vocabulary, 48)
        self.smear_gate = nn.Linear(12, 1, bias=False)
        self.bigram_embed = nn.Embedding(40, 16)


@pytest.mark.parametrize("vocabulary", [90, 48])
def test_modded_nanogpt_with_its_names(vocabulary: int) -> None:
    model, half = Modded(vocabulary), within(BOUND / 2)
    laws: dict[str, Initializer] = {
        "value_embeds": Normal(0.01), "ve_gate_bank": Zeros(), "qk_bank": Blocks(*[half] * 6, *[Zeros()] * 2),
        "vo_bank": Blocks(*[half] * 5, Zeros()), "mlp_bank": Blocks(half, Zeros(), dim=1), "post_lambdas": Ones(),
        "resid_lambdas": Constant(1.0488088481701516), "scalars": Keep(), "mudd_b2": Keep(),
        "mudd_gate_scale": Constant(0.1), "mudd_w1": within(48**-0.5), "mudd_w2": Zeros(),
        "lm_head.weight": Normal(0.005), "smear_gate.weight": Zeros(), "bigram_embed.weight": Zeros(),
    }  # fmt: skip
    options = {"qk_padding": 2, "vo_padding": 1}
    copied = zeta.plan(model, "modded_nanogpt", **options)["embed.weight"].initializer
    assert_laws(model, "modded_nanogpt", laws | {"embed.weight": copied}, **options)
    assert torch.equal(model.embed.weight, model.lm_head.weight.t().float())
    assert (model.scalars == 7).all()
    assert not model.qk_bank[6:].any()
    assert float(model.mlp_bank[:, 0].detach().std()) == pytest.approx(0.5 / 48**0.5, rel=0.02)


def test_padding_leaves_matrices() -> None:
    with pytest.raises(PlanError, match="qk_bank has 8 matrices, and 8 of them cannot be padding"):
        zeta.plan(Modded(), "modded_nanogpt", qk_padding=8)


def test_an_embedding_needs_a_head_to_copy() -> None:
    model = Modded()
    model.embed = nn.Embedding(91, 48)
    with pytest.raises(PlanError, match="the embedding starts as a copy of the output head, and there is none of its"):
        zeta.plan(model, "modded_nanogpt")
