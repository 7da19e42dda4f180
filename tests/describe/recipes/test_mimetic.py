"""Mimetic initialization against NumPy's decompositions of the same draws, on models with weights of several forms."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recipe_truth import ONE, ZERO, draw, normal, plain
from zeta.errors import PlanError
from zeta.initializers import Normal, Program

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

D, HEADS = 48, 4
K = D // HEADS


class Attention(nn.Module):
    """As in timm, with all three in one."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)


class Separate(nn.Module):
    """Inputs x outputs, with names of its own and nothing that says how many heads there are."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("wq", "wk", "wv", "wo"):
            setattr(self, name, nn.Parameter(torch.empty(D, D)))

    def forward(self, x: Tensor) -> Tensor:
        weights = (x @ self.wq) @ (x @ self.wk).transpose(-1, -2)
        return (weights @ (x @ self.wv)) @ self.wo


class Blocks(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": attention(), "norm": nn.LayerNorm(D), "mlp": nn.Linear(D, D)}) for _ in range(2)
        )


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=D, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS, image_size=16, patch_size=8
    )
    return transformers.ViTModel(config, add_pooling_layer=False)


#: a model, the attention of its layer 1, options, and its weights as inputs x outputs: q, k, v, o
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
MODELS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, int], Callable[[Any], Weights]]] = {
    "transformers": (
        vit,
        "layers.1.attention",
        {},
        lambda a: (a.q_proj.weight.T, a.k_proj.weight.T, a.v_proj.weight.T, a.o_proj.weight.T),
    ),
    "packed": (
        lambda: Blocks(Attention),
        "blocks.1.attn",
        {},
        lambda a: (*a.qkv.weight.T.chunk(3, 1), a.proj.weight.T),
    ),
    "torch": (
        lambda: Blocks(lambda: nn.MultiheadAttention(D, HEADS)),
        "blocks.1.attn",
        {},
        lambda a: (*a.in_proj_weight.T.chunk(3, 1), a.out_proj.weight.T),
    ),
    "inputs first": (
        lambda: Blocks(Separate),
        "blocks.1.attn",
        {"heads": HEADS},
        lambda a: (a.wq, a.wk, a.wv, a.wo),
    ),
}
QUERY = {"transformers": "q_proj.weight", "packed": "qkv.weight", "torch": "in_proj_weight", "inputs first": "wq"}


def of_draw(name: str) -> np.ndarray[Any, Any]:
    """Draw 0 of a parameter, N(0, 1/d): what the first head's program begins with."""
    return zeta.fill_(torch.empty(D, D), Normal(D**-0.5), seed=0, name=name).double().numpy()


@pytest.mark.parametrize("name", MODELS)
def test_products_of_weights(name: str) -> None:
    build, path, options, weights = MODELS[name]
    model = draw(build(), "mimetic", **options)
    q, k, v, o = (weight.detach().double().numpy() for weight in weights(model.get_submodule(path)))
    similar = 0.7 * of_draw(f"{path}.{QUERY[name]}") + 0.7 * np.eye(D)
    left, values, right = np.linalg.svd(similar)
    first = (left[:, :K] * values[:K]) @ right[:K]
    assert np.abs(q[:, :K] @ k[:, :K].T - first).max() < 2e-5
    for head in range(HEADS):
        mine, yours = (each[:, head * K : (head + 1) * K] for each in (q, k))
        for part in (mine, yours):  # both are orthogonal, and have half of each singular value
            assert np.abs(part.T @ part - np.diag(np.diag(part.T @ part))).max() < 2e-5
        assert np.allclose(np.diag(mine.T @ mine), np.diag(yours.T @ yours), atol=2e-5)
        assert np.trace(mine @ yours.T) > 0.5 * K  # like the identity, on k of the d directions
        assert head == 0 or np.abs(mine - q[:, :K]).max() > 0.1
    noise = (v @ o + 0.4 * np.eye(D)) / 0.4
    assert noise.mean() == pytest.approx(0, abs=5 / D**1.5)
    assert noise.std() == pytest.approx(D**-0.5, rel=5 / (math.sqrt(2) * D))
    assert np.diag(v @ o).mean() == pytest.approx(-0.4, abs=0.4 * 5 / D)
    assert np.allclose(np.diag(v.T @ v), np.linalg.svd(v @ o)[1], atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_everything_else_is_vit(name: str) -> None:
    build, _, options, _ = MODELS[name]
    model = build()
    plan, plain_vit = zeta.plan(model, "mimetic", **options), zeta.plan(model, "vit")
    programs = {entry.name for entry in plan.parameters if isinstance(entry.initializer, Program)}
    assert len(programs) == 2 * (2 if name in ("packed", "torch") else 4)
    rest = {entry.name: plain(entry.initializer) for entry in plan.parameters if entry.name not in programs}
    assert rest == {each: plain(plain_vit[each].initializer) for each in rest}
    assert set(rest.values()) == {ONE, ZERO, normal(0.02)}


def test_each_weight_is_computed_without_the_others() -> None:
    whole, part = draw(vit(), "mimetic"), vit()
    zeta.init_(part, "mimetic", seed=0, only=["*.k_proj.weight", "*.o_proj.weight"])
    for name, weight in whole.named_parameters():
        same = torch.equal(weight, part.get_parameter(name))
        assert same is (
            name.endswith(("k_proj.weight", "o_proj.weight")) or not weight.std() > 0 or weight.ndim == 1
        ), name


def test_other_factors_and_dtypes() -> None:
    factors = {
        "value_output_noise": 0.1,
        "value_output_identity": 0.9,
        "query_key_noise": 0.0,
        "query_key_identity": 2.0,
    }
    model = draw(Blocks(Attention).bfloat16(), "mimetic", **factors)
    attention: Any = model.blocks[0].attn
    _, _, v = attention.qkv.weight.detach().double().T.chunk(3, 1)
    product = v @ attention.proj.weight.detach().double().T
    assert float(product.diagonal().mean()) == pytest.approx(0.9, abs=0.02)
    assert float((product - 0.9 * torch.eye(D)).std()) == pytest.approx(0.1 * D**-0.5, rel=0.1)


def test_mimetic_refuses() -> None:
    with pytest.raises(PlanError, match="the number of heads does not follow from the model; give heads="):
        zeta.plan(Blocks(Separate), "mimetic")
    with pytest.raises(PlanError, match="is not 1 x 48 outputs of 48 inputs, in 5 heads of the same width"):
        zeta.plan(Blocks(Separate), "mimetic", heads=5)
    with pytest.raises(PlanError, match=r"(?s)never win.*attention outputs"):
        zeta.plan(nn.Linear(4, 4), "mimetic")
    config = transformers.ViTConfig(num_hidden_layers=1)
    with torch.device("meta"):
        large = transformers.ViTModel(config)
    with pytest.raises(PlanError, match="steps of arithmetic"):
        zeta.plan(large, "mimetic")
    with torch.device("meta"):
        packed = nn.ModuleDict({"attn": nn.MultiheadAttention(768, 12), "head": nn.Linear(768, 10)})
    zeta.plan(packed, "mimetic")
