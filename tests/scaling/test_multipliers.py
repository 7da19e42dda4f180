"""Multipliers in the forward pass: where they are, that they can be removed, and what they are equal to."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.models import Basic
from tests.helpers.scaled import Gpt, Mlp, by_hand
from zeta import Scaling
from zeta.errors import PlanError, TargetError

TOKENS = torch.arange(32).reshape(2, 16)


def made(scaling: Scaling, build: Callable[..., nn.Module], **target: Any) -> nn.Module:
    model = build(**target).double()
    zeta.init_(model, scaling, seed=0)
    return model


def test_the_input_of_a_read_out_is_multiplied_and_its_bias_is_not() -> None:
    scaling = zeta.scale(Mlp, {"width": 64}, {"width": 256})
    model = made(scaling, Mlp, width=256)
    x = torch.randn(5, 32, dtype=torch.double)
    before, bias = model(x), model.out.bias  # type: ignore[union-attr]
    handle = scaling.apply_multipliers_(model)
    assert torch.allclose(model(x) - bias, (before - bias) / 4)  # type: ignore[operator]
    with pytest.raises(TargetError, match="multipliers are applied to this model already"):
        scaling.apply_multipliers_(model)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin(x), model(x))
    handle.remove()
    handle.remove()
    assert torch.equal(model(x), before)
    assert scaling.apply_multipliers_(model)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("experts", [0, 2])
def test_completep_by_hand(packed: bool, tied: bool, experts: int) -> None:
    """Width by 4 with a fixed number of heads (so their size by 4), depth by 3."""
    build = partial(Gpt, packed=packed, tied=tied, experts=experts)
    target = {"width": 64, "layers": 6}
    scaling = zeta.scale(build, {"width": 16, "layers": 2}, target, "completep")
    model = made(scaling, build, **target)
    router = [each for each in scaling.multipliers if each.module.endswith("router")]
    assert len(router) == (6 if experts else 0)
    expected = model
    if experts:  # the router's own multiplier, written into its weight
        expected = copy.deepcopy(model)
        for block in expected.h:  # type: ignore[union-attr]
            block.mlp.router.weight.data.mul_(1 / 4)
    assert isinstance(expected, Gpt)
    wanted = by_hand(expected, TOKENS, branch=1 / 3, readout=1 / 4, query=1 / 2)
    scaling.apply_multipliers_(model)
    assert torch.allclose(model(TOKENS), wanted)


@pytest.mark.parametrize("how", ["mup", "completep"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_absorbed_multipliers_train_the_same_model(how: str, optimizer: str) -> None:
    """By the symmetry of std, rate and multiplier (Yang et al. 2022, section J.2.1): the same outputs at each step."""
    target = {"width": 64, "layers": 4}
    outputs = []
    for multipliers in (True, False):
        scaling = zeta.scale(Gpt, {"width": 16, "layers": 2}, target, how, multipliers=multipliers)
        model = made(scaling, Gpt, **target)
        scaling.apply_multipliers_(model)
        groups = scaling.param_groups(model, optimizer, lr=0.1 if optimizer == "sgd" else 1e-2, weight_decay=0.1)
        made_by = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        steps: Any = made_by[optimizer](groups)
        for _ in range(3):
            steps.zero_grad()
            F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
            steps.step()
        outputs.append(model(TOKENS).detach())
        assert len(scaling.multipliers) == (0 if not multipliers else 5 if how == "mup" else 13)
    assert outputs[0].abs().max() > 0.05
    assert torch.allclose(*outputs, rtol=1e-7, atol=1e-9)


def test_what_no_parameter_can_take_in_is_an_error() -> None:
    sizes = {"width": 16}, {"width": 64}
    with pytest.raises(PlanError, match=r"multipliers=False(?s:.*)input of lm_head x 0\.25"):
        zeta.scale(partial(Gpt, tied=True), *sizes, multipliers=False)
    with pytest.raises(PlanError, match=r"multipliers=False(?s:.*)output\[\.\.\., :64\] of h\.0\.attn\.c_attn"):
        zeta.scale(partial(Gpt, packed=True), *sizes, multipliers=False)


def test_heads_that_grow_where_it_cannot_be_said() -> None:
    def build(width: int) -> nn.Module:
        return nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True), 1, enable_nested_tensor=False
        )

    with pytest.raises(PlanError, match=r"nn\.MultiheadAttention divides by their square root inside of torch"):
        zeta.scale(build, {"width": 32}, {"width": 64})
    assert zeta.scale(build, {"width": 32}, {"width": 64}, attention=False).multipliers == ()

    class Unsaid(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inp = nn.Linear(8, width)
            self.attn = nn.ModuleDict({f"{name}_proj": nn.Linear(width, width) for name in "qkvo"})
            self.out = nn.Linear(width, 2)

    with pytest.raises(PlanError, match=r"attn\.q_proj\.weight: the size of its heads does not follow"):
        zeta.scale(Unsaid, {"width": 32}, {"width": 64})
    scaling = zeta.scale(Unsaid, {"width": 32}, {"width": 64}, head_dim=(8, 32))
    assert [each.factor for each in scaling.multipliers if each.where == "attention"] == [0.5]


@pytest.mark.parametrize("named", [False, True])
def test_queries_of_an_attention_of_torch_without_biases(named: bool) -> None:
    """Scores are q k / sqrt(d), and by muP q k sqrt(d_base) / d: here d is 4 times d_base."""

    def build(width: int) -> nn.Module:
        return nn.ModuleDict({"inp": nn.Linear(8, width), "attn": nn.MultiheadAttention(width, 2, bias=False)})

    scaling = zeta.scale(build, {"width": 16}, {"width": 64})
    assert str(scaling.multipliers[0]) == "input of attn x 0.5 (query)"
    attn: Any = made(scaling, build, width=64)["attn"]  # type: ignore[index]
    x, memory = (torch.randn(3, 5, 64, dtype=torch.double) for _ in range(2))
    q, k, v = (
        F.linear(each, weight) for each, weight in zip((x, memory, memory), attn.in_proj_weight.chunk(3), strict=True)
    )
    q, k, v = (each.unflatten(-1, (2, 32)).permute(1, 2, 0, 3) for each in (q, k, v))
    mixed = ((q @ k.mT * 8**0.5 / 32).softmax(-1) @ v).permute(2, 0, 1, 3).flatten(2)
    model = nn.ModuleDict({"inp": nn.Linear(8, 64), "attn": attn})
    scaling.apply_multipliers_(model)
    found = attn(key=memory, value=memory, query=x) if named else attn(x, memory, memory)
    assert torch.allclose(found[0], F.linear(mixed, attn.out_proj.weight))


def test_depth_without_residual_branches_is_an_error() -> None:
    def build(layers: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), *(nn.Linear(16, 16) for _ in range(layers)), nn.Linear(16, 2))

    with pytest.raises(PlanError, match="no end of a branch to multiply is found"):
        zeta.scale(build, {"layers": 2}, {"layers": 4}, "completep")


def test_branches_of_a_residual_network_end_in_their_last_norm() -> None:
    def build(blocks: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*(Basic(8, 8, 1) for _ in range(blocks))))

    scaling = zeta.scale(build, {"blocks": 2}, {"blocks": 8}, "completep")
    found = {each.module: each.factor for each in scaling.multipliers}
    assert found == {f"1.{n}.bn2": 0.25 for n in range(8)}


@pytest.mark.parametrize(
    ("norms", "ends"),
    [
        (("post_mlp_norm",), ("attn.o_proj", "post_mlp_norm")),
        (("post_mlp_norm", "post_attn_norm"), ("post_attn_norm", "post_mlp_norm")),
        (("post_attn_norm",), ("attn.o_proj", "mlp.down_proj")),  # as Llama's, which comes after the sum
    ],
)
def test_norms_at_the_ends_of_branches(norms: tuple[str, ...], ends: tuple[str, ...]) -> None:
    def build(layers: int) -> nn.Module:
        model = Gpt(16, layers)
        for block in model.h:
            for name in norms:
                block.register_module(name, nn.LayerNorm(16))
        return model

    scaling = zeta.scale(build, {"layers": 2}, {"layers": 4}, "completep")
    found = [each for each in scaling.multipliers if each.where == "branch"]
    assert {each.module for each in found} == {f"h.{n}.{end}" for n in range(4) for end in ends}
    assert all(name.startswith(f"{each.module}.") for each in found for name in each.parameters)


def test_a_branch_that_ends_in_a_linear_layer_is_not_multiplied_at_a_norm_inside() -> None:
    """As in ConvNeXt: what comes after the norm is not linear."""

    class Next(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dwconv, self.norm = nn.Conv2d(8, 8, 7, groups=8, padding=3), nn.LayerNorm(8)
            self.pwconv1, self.pwconv2 = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
            return x + self.pwconv2(F.gelu(self.pwconv1(y))).permute(0, 3, 1, 2)

    def build(blocks: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*(Next() for _ in range(blocks))))

    scaling = zeta.scale(build, {"blocks": 1}, {"blocks": 2}, "completep")
    assert {each.module: each.factor for each in scaling.multipliers} == {f"1.{n}.pwconv2": 0.5 for n in range(2)}


def test_a_mixer_whose_end_is_not_known_is_an_error_beside_one_that_is() -> None:
    """Half of the blocks of a hybrid model would have their branch multiplied, and the other half not."""

    class Block(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            if number % 2:
                self.attn = nn.ModuleDict({f"{name}_proj": nn.Linear(32, 32) for name in "qkvo"})
            else:
                self.ssm = nn.ModuleDict({name: nn.Linear(32, 32) for name in ("mix", "turn", "back")})
            self.norm = nn.LayerNorm(32)
            self.mlp = nn.ModuleDict({"up_proj": nn.Linear(32, 64), "down_proj": nn.Linear(64, 32)})

    def build(layers: int) -> nn.Module:
        blocks = nn.ModuleList(Block(number) for number in range(layers))
        return nn.ModuleDict({"tok": nn.Embedding(50, 32), "h": blocks, "lm_head": nn.Linear(32, 50)})

    with pytest.raises(PlanError, match=r"no end of one is found in h\.0\.ssm, h\.2\.ssm, by the names of its layers"):
        zeta.scale(build, {"layers": 2}, {"layers": 4}, "completep")


def test_an_attention_of_torch_is_multiplied_as_a_whole() -> None:
    def build(layers: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    scaling = zeta.scale(build, {"layers": 1}, {"layers": 2}, "completep")
    model: Any = made(scaling, build, layers=2)
    x = torch.randn(2, 3, 32, dtype=torch.double)
    first = model.layers[0]
    y = first.norm1(x + first.self_attn(x, x, x)[0] / 2)
    expected = first.norm2(y + first.linear2(F.relu(first.linear1(y))) / 2)
    scaling.apply_multipliers_(model)
    assert torch.allclose(first(x), expected)
    with torch.no_grad():
        assert torch.allclose(first.eval()(x), expected)


class Around(Mlp):
    """Uses the weight of its read-out without calling it, in ways that its source does not show plainly."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__(width)
        self.way = way

    def read_out(self, x: Tensor) -> Tensor:
        weight, bias = self.out.weight, self.out.bias
        match self.way:
            case "called":
                return self.out(x)
            case "forward":
                return self.out.forward(x)
            case "parameters":
                return F.linear(x, *self.out.parameters())
            case _:
                return x @ weight.T + bias

    def forward(self, x: Tensor) -> Tensor:
        return self.read_out(F.relu(self.h2(F.relu(self.h1(F.relu(self.inp(x)))))))


@pytest.mark.parametrize("way", ["forward", "parameters", "another name"])
def test_a_multiplier_whose_module_is_not_called_is_said_once(way: str) -> None:
    build = partial(Around, way=way)
    scaling = zeta.scale(build, {"width": 64}, {"width": 256})
    model, x = made(scaling, build, width=256), torch.randn(5, 32, dtype=torch.double)
    before = model(x)
    scaling.apply_multipliers_(model)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for each in (model, twin):
        with pytest.warns(zeta.ZetaNotice, match=r"did not call the modules(?s:.*)input of out x 0\.25 \(readout\)"):
            assert torch.equal(each(x), before)
        each(x)  # a second notice would be an error


def test_a_multiplier_whose_module_is_called_is_not_said() -> None:
    build = partial(Around, way="called")
    scaling = zeta.scale(build, {"width": 64}, {"width": 256})
    model, x = made(scaling, build, width=256), torch.randn(5, 32, dtype=torch.double)
    before = model(x)
    handle = scaling.apply_multipliers_(model)
    assert len(handle) == 1
    assert torch.allclose(model(x) - model.out.bias, (before - model.out.bias) / 4)  # type: ignore[operator]
    handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
