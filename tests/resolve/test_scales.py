"""Scales of norms and layers in any shape, and norms that add one to their scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta.errors import PlanError
from zeta.initializers import Constant, Initializer, Ones, Zeros

D = 32


class RMS(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Shifted(RMS):
    """Also with a bias."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.b = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=-1, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * self.weight + self.b


class FromZero(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight.float())


class FromZeroByName(RMS):
    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight + 1.0
        return x / x.norm(dim=-1, keepdim=True) * scale


class LayerNorm1P(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class WeightNormed(nn.Module):
    """No norm: its matrix is divided by a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D, D))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight / self.weight.norm(dim=1, keepdim=True)).T


class WeightNormedWithScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.ones(D, D)), nn.Parameter(torch.ones(D, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.v * self.g / self.v.norm(dim=1, keepdim=True))


def model_with(**parts: Any) -> nn.Module:
    return nn.ModuleDict({"emb": nn.Embedding(9, D), **parts, "head": nn.Linear(D, 9)})


def laws(model: nn.Module, recipe: str) -> dict[str, Initializer]:
    return {entry.name: entry.initializer for entry in zeta.plan(model, recipe).parameters}


@pytest.mark.parametrize("recipe", ["llama", "bert", "vit", "keras"])
@pytest.mark.parametrize("shape", [(D,), (1, 1, D), (4, 8), (1, D, 1, 1)])
def test_scales_and_biases_of_norms_have_any_shape(recipe: str, shape: tuple[int, ...]) -> None:
    found = laws(model_with(first=RMS(*shape), second=Shifted(*shape)), recipe)
    assert found["first.weight"] == found["second.weight"] == Ones()
    assert found["second.b"] == Zeros()


@pytest.mark.parametrize("recipe", ["llama", "bert", "vit", "keras", "flax"])
@pytest.mark.parametrize("norm", [FromZero(D), FromZero(4, 8), FromZeroByName(D), LayerNorm1P(D)])
def test_norms_that_add_one_to_their_scale_start_at_0(recipe: str, norm: nn.Module) -> None:
    assert laws(model_with(last=norm), recipe)["last.weight"] == Zeros()
    kinds = {entry.name: entry.kind for entry in zeta.plan(model_with(last=norm), recipe).parameters}
    assert kinds["last.weight"] is zeta.Kind.OTHER


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3_text"])
def test_gemma_starts_as_its_constructors_do(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(name, **sizes, num_key_value_heads=2, head_dim=16, vocab_size=40)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = laws(model, "llama")
    norms = [initializer for key, initializer in found.items() if "norm" in key]
    assert norms
    assert set(norms) == {Zeros()}


def test_cohere_s_norms_of_queries_have_two_dimensions() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.CohereConfig(**sizes, num_key_value_heads=4, vocab_size=40, use_qk_norm=True)
    found = laws(transformers.AutoModelForCausalLM.from_config(config), "llama")
    assert {found[name] for name in found if "norm" in name} == {Ones()}


@pytest.mark.parametrize("name", ["layer_scale", "gamma", "ls", "ls1", "scale", "lambda_1"])
@pytest.mark.parametrize("recipe", ["llama", "bert", "vit"])
def test_a_layer_scale_of_several_dimensions_is_no_weight(name: str, recipe: str) -> None:
    block = nn.Module()
    block.register_parameter(name, nn.Parameter(torch.ones(1, 1, D)))
    with pytest.raises(PlanError, match=rf"no rule matches these parameters(.|\n)*layers\.0\.{name}"):
        zeta.plan(model_with(layers=nn.ModuleList([block])), recipe)
    mine = zeta.Rules([zeta.Rule("layers.*", Constant(1e-5))])
    assert zeta.plan(model_with(layers=nn.ModuleList([block])), mine + zeta.recipes.rules_for(recipe, block))


def test_what_is_no_scale() -> None:
    model = model_with(inner=WeightNormed(), other=WeightNormedWithScale())
    found = {entry.name: entry.kind for entry in zeta.plan(model, "torch").parameters}
    assert found["inner.weight"] is found["other.v"] is zeta.Kind.WEIGHT


def test_the_state_space_of_a_mixer_is_no_weight() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.zamba.modeling_zamba import ZambaMambaMixer

    config = transformers.ZambaConfig(hidden_size=32, n_mamba_heads=2)
    model = model_with(layers=nn.ModuleList([ZambaMambaMixer(config, 0)]))
    with pytest.raises(PlanError, match=r"no rule matches these parameters(.|\n)*A_log(.|\n)*\.D "):
        zeta.plan(model, "llama")
    kinds = {entry.name.rpartition(".")[2]: entry.kind for entry in zeta.plan(model, "torch").parameters}
    assert kinds["A_log"] is kinds["D"] is zeta.Kind.OTHER
    assert kinds["dt_proj_bias"] is zeta.Kind.BIAS
