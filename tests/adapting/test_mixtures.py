"""Dense MLPs that become experts: which way round matrices lie, gates in turns, and lists that become longer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.checkpoints import VOCABULARY, WIDTH, built, llama, saved, tokens, transformers
from zeta import Experts, Layers, Rule, Rules
from zeta.errors import PlanError
from zeta.initializers import Normal

RULES = Rules([Rule("*", Normal(0.1))])


class Expert(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, inner), nn.Linear(inner, width)


class Mixture(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 3)
        self.experts = nn.ModuleList(Expert(width, inner) for _ in range(3))


class Packed(nn.Module):
    """Experts in one tensor, (experts, in, out), with biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(width, 3), PackedExperts(width, inner)


class PackedExperts(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc1_bias = nn.Parameter(torch.zeros(3, width, inner)), nn.Parameter(torch.zeros(3, inner))
        self.fc2, self.fc2_bias = nn.Parameter(torch.zeros(3, inner, width)), nn.Parameter(torch.zeros(3, width))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.bmm(x, self.fc1) + self.fc1_bias[:, None])
        return torch.bmm(x, self.fc2) + self.fc2_bias[:, None]


def gpt2_mlp(inner: int) -> nn.ModuleDict:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=4, n_head=2)
    mlp = transformers.models.gpt2.modeling_gpt2.GPT2MLP(inner, config)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    return nn.ModuleDict({"mlp": mlp})


@pytest.mark.parametrize("inner", [4, 6])
def test_conv1d_becomes_linear_by_its_class(inner: int) -> None:
    """transformers' Conv1D is (in, out), and torch's Linear (out, in), also where no shape shows it."""
    old, new = gpt2_mlp(inner), nn.ModuleDict({"mlp": Mixture(4, inner)})
    zeta.adapt_(new, old, RULES, seed=0, grow={"mlp": Experts(to=3)})
    x = torch.randn(5, 4)
    dense: Any = old["mlp"]
    for expert in new["mlp"].experts:  # type: ignore[union-attr]
        assert torch.allclose(expert.w1(x), dense.c_fc(x))
        assert torch.equal(expert.w2.weight, dense.c_proj.weight.T)
        assert torch.equal(expert.w2.bias, dense.c_proj.bias)


def test_square_matrices_of_an_unknown_layer_are_refused() -> None:
    new = nn.ModuleDict({"mlp": Mixture(4, 4)})
    message = "all matrices of the experts are square, .*pass the old model itself as the source"
    with pytest.raises(PlanError, match=message):
        zeta.adapt_(new, gpt2_mlp(4).state_dict(), RULES, seed=0, grow={"mlp": Experts(to=3)})
    linear = nn.ModuleDict({"mlp": nn.ModuleDict({"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4)})})
    zeta.adapt_(new, linear.state_dict(), RULES, seed=0, grow={"mlp": Experts(to=3)})
    assert torch.equal(new["mlp"].experts[2].w1.weight, linear["mlp"]["fc1"].weight)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("inner", [3, 4])
def test_packed_experts_that_are_square_by_their_forward(inner: int) -> None:
    """With as many experts as units, a bias of all experts is square too, and stays as it is."""
    torch.manual_seed(0)
    linear = nn.ModuleDict({"mlp": nn.ModuleDict({"fc1": nn.Linear(inner, inner), "fc2": nn.Linear(inner, inner)})})
    new = nn.ModuleDict({"mlp": Packed(inner, inner)})
    zeta.adapt_(new, linear, RULES, seed=0, grow={"mlp": Experts(to=3)})
    dense, experts = linear["mlp"], new["mlp"].experts
    for number in range(3):
        assert torch.equal(experts.fc1[number], dense["fc1"].weight.T)  # type: ignore[index, union-attr]
        assert torch.equal(experts.fc2[number], dense["fc2"].weight.T)  # type: ignore[index, union-attr]
        assert torch.equal(experts.fc1_bias[number], dense["fc1"].bias)  # type: ignore[index, union-attr]


def test_a_gate_and_what_it_multiplies_in_turns_are_refused() -> None:
    sizes = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    new, plan = zeta.record(transformers.GptOssForCausalLM, llama(kind=transformers.GptOssConfig, **sizes))
    state = built(transformers.LlamaForCausalLM, llama(mlp_bias=True, attention_bias=True)).state_dict()
    with pytest.raises(PlanError, match=r"gate_up_proj.*: its module takes every other place for the gate"):
        zeta.adapt_(new, state, plan, seed=0, grow={"*.mlp": Experts(to=4)})


def mixtral(layers: int) -> Any:
    more = {"num_experts_per_tok": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    return llama(layers, kind=transformers.MixtralConfig, num_local_experts=4, rms_norm_eps=1e-6, **more)


@pytest.mark.parametrize("how", ["identity", "stack"])
def test_more_blocks_and_experts_at_once(how: Any, tmp_path: Path) -> None:
    """As in two steps: a longer dense model first, and then the experts."""
    old = built(transformers.LlamaForCausalLM, llama(rms_norm_eps=1e-6))
    new, plan = zeta.record(transformers.MixtralForCausalLM, mixtral(4))
    grow = {"model.layers": Layers(4, how), "*.mlp": Experts(to=4)}
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=1, grow=grow)
    full, _ = zeta.record(transformers.MixtralForCausalLM, mixtral(4))
    zeta.materialize_(full, plan, seed=1)
    for place, block in enumerate(Layers(4, how).sources(2)):
        mlp, drawn = new.model.layers[place].mlp, full.model.layers[place].mlp
        assert torch.equal(mlp.gate.weight, drawn.gate.weight)
        if block is None:
            assert not mlp.experts.down_proj.any()
            assert torch.equal(mlp.experts.gate_up_proj, drawn.experts.gate_up_proj)
            continue
        dense = old.model.layers[block].mlp
        for expert in range(4):
            assert torch.equal(mlp.experts.down_proj[expert], dense.down_proj.weight)
            both = torch.cat([dense.gate_proj.weight, dense.up_proj.weight])
            assert torch.equal(mlp.experts.gate_up_proj[expert], both)
    if how == "identity":
        assert report.expected == "equal up to rounding"
        assert report.preserved({"input_ids": tokens()}, old).ok
        assert report.preserved({"input_ids": tokens()}).ok, "the folder's configuration names the dense class"


def test_more_blocks_of_experts_that_become_more() -> None:
    old = built(transformers.MixtralForCausalLM, mixtral(2))
    config = mixtral(4)
    config.num_local_experts = 6
    new, plan = zeta.record(transformers.MixtralForCausalLM, config)
    zeta.adapt_(new, old, plan, seed=1, grow={"model.layers": Layers(4, "interleave"), "*.mlp": Experts(to=6)})
    for place, block in enumerate([0, 0, 1, 1]):
        one, two = old.model.layers[block].mlp, new.model.layers[place].mlp
        assert torch.equal(two.experts.down_proj, one.experts.down_proj[[0, 1, 2, 3, 0, 1]])
        assert torch.equal(two.gate.weight, one.gate.weight[[0, 1, 2, 3, 0, 1]])


def test_a_report_has_one_line_for_a_copied_block() -> None:
    old = built(transformers.LlamaForCausalLM, llama())
    new, plan = zeta.record(transformers.LlamaForCausalLM, llama(6, vocabulary=VOCABULARY + 2))
    grow = {"model.layers": Layers(6, "stack"), "*embed_tokens.weight": zeta.Rows()}
    report = zeta.adapt_(new, old, plan, seed=1, grow=grow)
    lines = [re.sub(r"\s\s+", " | ", line.strip()) for line in report.text(200).splitlines()]
    assert lines[2:8] == [
        "model.embed_tokens.weight | model.embed_tokens.weight",
        "model.layers.2.* | model.layers.0.*, 9 tensors",
        "model.layers.3.* | model.layers.1.*, 9 tensors",
        "model.layers.4.* | model.layers.0.*, 9 tensors",
        "model.layers.5.* | model.layers.1.*, 9 tensors",
        "lm_head.weight | lm_head.weight",
    ]
    assert len(report.as_dict()["grown"]) == 2 + 4 * 9
    assert "model.layers.5.*" in report._repr_html_()
    assert WIDTH == 32
