"""u-muP as a parametrization: absolute numbers, by hand from the paper's table 2 and from the unit-scaling package."""

from __future__ import annotations

import copy
import importlib.util
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.scaled import Gpt, Mlp, ResidualMlp, by_hand
from zeta import Scaling
from zeta.errors import PlanError, SpecError
from zeta.fans import Fans
from zeta.initializers import Normal, Uniform, Zeros
from zeta.resolve.scaling.schemes import Class, Size, scheme_of
from zeta.rules import Role

TOKENS = torch.arange(32).reshape(2, 16)


def size(group: str, fan_in: int, fan_out: int, role: Role | None = None) -> Size:
    return Size(group=Class(group), role=role, layers=4, target=Fans(fan_in=fan_in, fan_out=fan_out))


@pytest.mark.parametrize(
    ("given", "unit", "inputs", "rate"),
    [
        (size("hidden", 64, 256), True, 1 / 8, 1 / 16),  # 64^-1/2, and 64^-1/2 times 4^-1/2
        (size("hidden", 256, 64), True, 1 / 16, 1 / 32),
        (size("input", 16, 64), True, 1 / 4, 1 / 8),  # a first layer is a matrix, as in the package
        (size("fixed", 16, 16), True, 1 / 4, 1 / 8),  # also where no width grows
        (size("input", 1, 64, Role.EMBEDDING), True, 1.0, 1 / 16),  # by fan_out
        (size("fixed", 1, 64, Role.EMBEDDING), True, 1.0, 1 / 16),
        (size("output", 64, 100), True, 1 / 64, 1 / 2),
        (size("fixed", 64, 100, Role.READOUT), True, 1 / 64, 1 / 2),
        (Size(group=Class.VECTOR, width_out=4, layers=4), False, 1.0, 1 / 2),
        (Size(group=Class.FIXED), False, 1.0, 1.0),
    ],
)
def test_numbers_by_class(given: Size, unit: bool, inputs: float, rate: float) -> None:
    """All in 4 layers but the last."""
    scheme = scheme_of("umup", 1.0)
    assert scheme.unit is not None
    assert (scheme.unit(given), scheme.inputs(given), scheme.adam(given)) == (unit, inputs, rate)
    assert scheme.branch(given) == given.layers**-0.5


def made(scaling: Scaling, build: Any, **target: Any) -> nn.Module:
    model = build(**target).double()
    zeta.init_(model, scaling, seed=0)
    return model


def test_forward_of_a_plain_network_is_that_of_weights_of_std_1_times_powers_of_fan_in() -> None:
    scaling = zeta.scale(Mlp, {"width": 64}, {"width": 256}, "umup")
    for name in ("inp", "h1", "h2", "out"):  # nn.Linear's uniform law, on ±sqrt(3)
        law = scaling.plan[f"{name}.weight"].initializer
        assert isinstance(law, Uniform)
        assert law.bounds() == pytest.approx((-(3**0.5), 3**0.5))
    assert scaling.plan["h1.bias"].initializer == Uniform(-1 / 8, 1 / 8)  # the base's
    model: Any = made(scaling, Mlp, width=256)
    x = torch.randn(5, 32, dtype=torch.double)
    y = F.relu(F.linear(x, model.inp.weight * 32**-0.5, model.inp.bias))
    y = F.relu(F.linear(y, model.h1.weight / 16, model.h1.bias))
    y = F.relu(F.linear(y, model.h2.weight / 16, model.h2.bias))
    expected = F.linear(y, model.out.weight / 256, model.out.bias)
    scaling.apply_multipliers_(model)
    assert torch.allclose(model(x), expected, rtol=1e-12)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("experts", [0, 2])
def test_forward_of_a_gpt(packed: bool, tied: bool, experts: int) -> None:
    """Of 64 units and 4 heads of 16: scores over 16, branches times 6^-1/2, the read-out's input over 64."""
    build = partial(Gpt, packed=packed, tied=tied, experts=experts)
    target = {"width": 64, "layers": 6}
    scaling = zeta.scale(build, {"width": 16, "layers": 2}, target, "umup")
    model: Any = made(scaling, build, **target)
    expected = copy.deepcopy(model)
    for block in expected.h:
        for name, part in block.named_modules():
            if isinstance(part, nn.Linear):
                part.weight.data *= part.in_features ** (-1.0 if name.endswith("router") else -0.5)
    wanted = by_hand(expected, TOKENS, branch=6**-0.5, readout=1 / 64, query=1 / 4)
    scaling.apply_multipliers_(model)
    assert torch.allclose(model(TOKENS), wanted, rtol=1e-10)
    assert float(wanted.detach().std()) > 0.05


def test_a_table_of_positions_without_a_layer_and_a_bias_that_stays() -> None:
    """One row of 256 elements for each of 5 positions: std 1, rate 256^-1/2. A read-out's bias is no weight."""

    class Positions(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 3)
            self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 5, width))

    scaling = zeta.scale(Positions, {"width": 64}, {"width": 256}, "umup")
    assert scaling.plan["pos_embed"].std == pytest.approx(1)
    assert scaling.rates(scaling["pos_embed"], "adam").lr == pytest.approx(1 / 16)
    assert scaling.plan["out.bias"].initializer == Uniform(-1 / 8, 1 / 8)
    assert scaling.rates(scaling["out.bias"], "adam").lr == 1
    assert {each.module for each in scaling.multipliers} == {"inp", "out"}


@pytest.mark.parametrize("grows", [{"width": 64}, {"layers": 6}, {"width": 64, "layers": 6}])
def test_numbers_do_not_depend_on_the_base(grows: dict[str, int]) -> None:
    """But for vectors, which keep the base's laws."""
    target = {"width": 64, "layers": 6}
    base = {**target, **{name: number // 2 for name, number in grows.items()}}
    scaling = zeta.scale(Gpt, base, target, "umup")
    whole = zeta.scale(Gpt, {"width": 16, "layers": 2}, target, "umup")
    assert {*map(str, scaling.multipliers)} == {*map(str, whole.multipliers)}
    assert len(whole.multipliers) == 6 * (6 + 2 + 1) + 1  # matrices, branches, queries, the read-out
    for row in scaling.rows:
        assert scaling.rates(row, "adamw") == whole.rates(whole[row.name], "adamw")
        assert scaling.plan[row.name].initializer == whole.plan[row.name].initializer
    assert scaling.plan["tok.weight"].initializer == scaling.plan["h.5.mlp.up_proj.weight"].initializer == Normal(1.0)
    # 64^-1/2 times 6^-1/2; 256^-1/2 times 6^-1/2; 64^-1/2; 1
    names = ("h.0.mlp.up_proj.weight", "h.0.mlp.down_proj.weight", "tok.weight", "lm_head.weight")
    found = [scaling.rates(scaling[name], "adam").lr for name in names]
    assert found == pytest.approx([6**-0.5 / 8, 6**-0.5 / 16, 1 / 8, 1])
    groups = scaling.param_groups(Gpt(**target), lr=2.0, weight_decay=0.1)
    assert all(group["lr"] * group["weight_decay"] == pytest.approx(0.2) for group in groups)


def test_absorbed_multipliers_train_the_same_model() -> None:
    outputs = []
    for multipliers in (True, False):
        scaling = zeta.scale(Gpt, {"width": 16}, {"width": 64}, "umup", multipliers=multipliers)
        model = made(scaling, Gpt, width=64)
        scaling.apply_multipliers_(model)
        optimizer = torch.optim.AdamW(scaling.param_groups(model, lr=0.1, weight_decay=0.1, eps=1e-12))
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
            optimizer.step()
        outputs.append(model(TOKENS).detach())
    # std of q: 1 times 64^-1/2 times 16^-1/2 of its head
    assert scaling.plan["h.0.attn.q_proj.weight"].std == pytest.approx(1 / 8 / 4)
    assert torch.allclose(*outputs, rtol=1e-7, atol=1e-9)


class Stack(nn.Module):
    """Experts in one tensor, which a class of its own multiplies by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 2)
        self.up_proj = nn.Parameter(torch.randn(3, width, 2 * width))
        self.down_proj = nn.Parameter(torch.randn(3, 2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        return self.out(
            torch.einsum("neh,ehd->nd", F.relu(torch.einsum("nd,edh->neh", y, self.up_proj)), self.down_proj)
        )


def test_where_a_multiplier_has_no_place() -> None:
    sizes = {"width": 16}, {"width": 64}
    zeta.register_fans(Stack, {"*_proj": zeta.Axes(fan_in=(1,), fan_out=(2,), batch=(0,))})
    with pytest.raises(
        PlanError, match=r"up_proj: its module Stack does more than multiply by it when it is called; pass"
    ):
        zeta.scale(Stack, *sizes, "umup")
    scaling = zeta.scale(Stack, *sizes, "umup", multipliers=False)
    assert scaling.plan["up_proj"].std == pytest.approx(1 / 8)
    assert scaling.rates(scaling["up_proj"], "adam").lr == pytest.approx(1 / 64)

    def attention(width: int) -> nn.Module:
        return nn.ModuleDict({"inp": nn.Linear(8, width), "attn": nn.MultiheadAttention(width, width // 8)})

    with pytest.raises(PlanError, match=r"in_proj_weight: its module MultiheadAttention(?s:.*)out_proj\.weight: its"):
        zeta.scale(attention, *sizes, "umup", attention=False)


def test_what_umup_has_no_numbers_for() -> None:
    sizes = {"width": 16}, {"width": 64}
    scaling = zeta.scale(Mlp, *sizes, "umup")
    for optimizer in ("sgd", "adafactor"):
        with pytest.raises(SpecError, match=f"umup has rates for adam, adamw, lion, and none for {optimizer}"):
            scaling.param_groups(Mlp(64), optimizer, lr=0.1)
    with pytest.raises(SpecError, match="umup has rates for adam, adamw, lion, and none for muon"):
        scaling.muon_groups(Mlp(64), lr=0.1, adamw_lr=0.1)
    with pytest.raises(SpecError, match="depth='fixup' goes with mup, megatron-mup or spectral; umup has its own rule"):
        zeta.scale(Mlp, *sizes, "umup", depth="fixup")

    class Unknown(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 2)
            self.maps = nn.Parameter(torch.randn(3, width, width))

    with pytest.raises(PlanError, match=r"maps: its fans are not known, and umup needs them; zeta\.register_fans says"):
        zeta.scale(Unknown, *sizes, "umup", roles={"maps": "hidden"})


def test_layers_that_cannot_be_counted_are_an_error() -> None:
    def build(width: int) -> nn.Module:
        towers = nn.ModuleList(ResidualMlp(width, layers=2) for _ in range(2))
        return nn.ModuleDict({"encoders": towers, "lm_head": nn.Linear(width, 8)})

    roles = {"encoders.*.out.weight": "output"}
    assert zeta.scale(build, {"width": 16}, {"width": 64}, roles=roles).multipliers
    with pytest.raises(PlanError, match=r"umup needs the number of layers around these(?s:.*)encoders\.0\.blocks\.0"):
        zeta.scale(build, {"width": 16}, {"width": 64}, "umup", roles=roles)


def test_zeros_stay_and_programs_are_an_error() -> None:
    class Started(nn.Module):
        def __init__(self, width: int, drawn: bool) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 2)
            nn.init.zeros_(self.out.weight)
            if drawn:
                with torch.no_grad():
                    self.inp.weight.copy_(torch.rand(width, 8).exp().sqrt())

    base, target = {"width": 16, "drawn": False}, {"width": 64, "drawn": False}
    assert zeta.scale(Started, base, target, "umup").plan["out.weight"].initializer == Zeros()
    with pytest.raises(PlanError, match=r"inp\.weight: the std of .* is not known, and it is to be 1; give a law"):
        zeta.scale(Started, {**base, "drawn": True}, {**target, "drawn": True}, "umup")


def test_written_and_read() -> None:
    scaling = zeta.scale(Gpt, {"width": 16, "layers": 2}, {"width": 64, "layers": 6}, "umup")
    again = Scaling.from_json(scaling.to_json())
    assert again == scaling
    assert "input of h.{0..5}.mlp.up_proj x 0.125 (weight)" in str(again)
    old = scaling.to_json().replace(',"layers":6', "").replace(',"layers":1', "")
    assert Scaling.from_json(old)["tok.weight"].size.layers == 1


# -- against the unit-scaling package ----------------------------------------------------------------------------------

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("unit_scaling") is None, reason="unit-scaling is not installed"
)
TORCH = SimpleNamespace(
    Linear=nn.Linear, Readout=nn.Linear, Embedding=nn.Embedding, Norm=nn.LayerNorm, List=nn.ModuleList
)


class Twin(nn.Module):
    """A transformer of torch's layers, or of those of unit-scaling."""

    def __init__(self, width: int, layers: int = 3, kit: Any = TORCH) -> None:
        super().__init__()
        self.tok = kit.Embedding(50, width)
        self.inp = kit.Linear(24, width, bias=True)
        self.layers = kit.List(
            [
                nn.ModuleDict(
                    {
                        **{f"{name}_proj": kit.Linear(width, width, bias=True) for name in "qkvo"},
                        "up_proj": kit.Linear(width, 4 * width, bias=True),
                        "down_proj": kit.Linear(4 * width, width, bias=True),
                        "norm": kit.Norm(width, elementwise_affine=True),
                    }
                )
                for _ in range(layers)
            ]
        )
        self.lm_head = kit.Readout(width, 50, bias=True)


@needs_package
@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("layers", [3, 8])
def test_as_the_unit_scaling_package(width: int, layers: int) -> None:
    """Std, rate under Adam, and multiplier of each parameter of its Linear, LinearReadout, Embedding and LayerNorm."""
    import unit_scaling as uu
    from unit_scaling.optim import lr_scale_func_adam

    kit = SimpleNamespace(
        Linear=uu.Linear, Readout=uu.LinearReadout, Embedding=uu.Embedding, Norm=uu.LayerNorm, List=uu.DepthModuleList
    )
    torch.manual_seed(0)
    theirs = Twin(width, layers, kit)
    scaling = zeta.scale(Twin, {"width": 32, "layers": 2}, {"width": width, "layers": layers}, "umup", attention=False)
    factors = {each.module: each.factor for each in scaling.multipliers if each.where != "branch"}
    for name, parameter in theirs.named_parameters():
        rate = scaling.rates(scaling[name], "adam").lr
        assert rate == pytest.approx(lr_scale_func_adam(parameter)), name
        if parameter.ndim == 2:
            assert float(parameter.detach().std()) == pytest.approx(1, rel=0.05)
            assert scaling.plan[name].std == pytest.approx(1)
        path = name.rpartition(".")[0]
        module: Any = theirs.get_submodule(path)
        if isinstance(module, nn.Linear):
            x = torch.randn(3, module.in_features)
            assert torch.allclose(module(x), F.linear(x * factors[path], module.weight, module.bias), atol=1e-5)
    # its decay is a number of its own, and torch's is multiplied by lr
    ours = scaling.param_groups(Twin(width, layers), lr=0.5, weight_decay=0.125)
    groups = [*ours, *uu.optim.AdamW(theirs.parameters(), 0.5, weight_decay=0.0625).param_groups]
    assert [group["lr"] * group["weight_decay"] for group in groups] == pytest.approx([0.0625] * len(groups))


@needs_package
def test_its_rule_for_residual_branches_is_one_multiplier_before_a_norm() -> None:
    """``residual_split`` and ``residual_add`` with the default rule's tau, and stream + branch / sqrt(layers)."""
    import unit_scaling.functional as U
    from unit_scaling.core.functional import transformer_residual_scaling_rule

    layers, width = 5, 32
    rule = transformer_residual_scaling_rule()
    weights = torch.randn(2 * layers, width, width, dtype=torch.double) * width**-0.5
    theirs = ours = torch.randn(4, width, dtype=torch.double)
    branch = scheme_of("umup", 1.0).branch(Size(group=Class.HIDDEN, layers=layers))
    for number, weight in enumerate(weights):
        inner, skip = U.residual_split(theirs, tau=rule(number, 2 * layers))
        theirs = U.residual_add(_branch(inner, weight), skip, tau=rule(number, 2 * layers))
        ours = ours + branch * _branch(ours, weight)
    assert torch.allclose(F.rms_norm(theirs, (width,)), F.rms_norm(ours, (width,)), rtol=1e-10)
    assert torch.allclose(ours, 3**0.5 * theirs, rtol=1e-10)  # a sum of three equal parts


def _branch(x: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(F.linear(F.rms_norm(x, (x.shape[-1],)), weight))
