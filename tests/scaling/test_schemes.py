"""The factors of each scheme, worked out by hand from the papers' tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.scaled import Gpt, Mlp
from zeta.errors import PlanError, SpecError
from zeta.initializers import Normal
from zeta.resolve.scaling.schemes import NAMES, Class, Size, depth_rule, scheme_of

#: by scheme and class: std, lr of Adam, eps, decay under AdamW, lr of SGD, multiplier of a read-out
#: at width_in 4 and width_out 4 (an input and a vector have width_in 1, an output width_out 1), depth 8, alpha 1
TABLE: dict[str, dict[str, tuple[float, ...]]] = {
    # Yang et al. 2022, table 8, relative to the base; weight decay as mup.MuAdamW has it: lr times decay stays
    "mup": {
        "input": (1, 1, 1, 1, 4, 1),
        "hidden": (1 / 2, 1 / 4, 1, 4, 1, 1),
        # a read-out whose multiplier 1/4 is taken in: std and rate of Adam times 1/4, of SGD 4 times 1/16
        "narrow": (1 / 4, 1 / 4, 1, 4, 1 / 4, 1),
        "output": (1, 1, 1, 1, 4, 1 / 4),
        "vector": (1, 1, 1, 1, 4, 1),
        "fixed": (1, 1, 1, 1, 1, 1),
    },
    # Megatron: eps with the rate, decay as it is
    "megatron-mup": {
        "input": (1, 1, 1, 1, 4, 1),
        "hidden": (1 / 2, 1 / 4, 1 / 4, 1, 1, 1),
        "narrow": (1 / 2, 1 / 4, 1 / 4, 1, 1, 1),  # all hidden matrices alike
        "output": (1, 1, 1, 1, 4, 1 / 4),
        "vector": (1, 1, 1, 1, 4, 1),
        "fixed": (1, 1, 1, 1, 1, 1),
    },
    # Dey et al. 2025, table 1 and equation 40: m_N = 4; m_L = 8 only for what lies in a layer
    "completep": {
        "input": (1, 1, 1 / 4, 1, 4, 1),
        "hidden": (1 / 2, 1 / 4, 1 / 32, 4, 8, 1),
        "narrow": (1 / 4, 1 / 4, 1 / 8, 4, 2, 1),
        "output": (1, 1, 1 / 4, 1, 4, 1 / 4),
        "vector": (1, 1, 1 / 32, 1, 32, 1),
        "fixed": (1, 1, 1, 1, 1, 1),
    },
    "sp": dict.fromkeys(("input", "hidden", "narrow", "output", "vector", "fixed"), (1, 1, 1, 1, 1, 1)),
}
#: a weight that narrows is hidden, and leads to a size that stays
WIDTHS = {"input": (1, 4), "hidden": (4, 4), "narrow": (4, 1), "output": (4, 1), "vector": (1, 4), "fixed": (1, 1)}


@pytest.mark.parametrize("how", TABLE)
@pytest.mark.parametrize("group", WIDTHS)
def test_factors_by_the_table(how: str, group: str) -> None:
    into, out = WIDTHS[group]
    depth = 8.0 if group in ("hidden", "narrow", "vector") else 1.0
    size = Size(group=Class("hidden" if group == "narrow" else group), width_in=into, width_out=out, depth=depth)
    scheme = scheme_of(how, 1.0)
    rate = scheme.adam(size)
    found = (scheme.std(size), rate, scheme.eps(size), scheme.decay(size, rate), scheme.sgd(size), scheme.inputs(size))
    assert found == pytest.approx(TABLE[how][group])


def test_completep_with_another_exponent() -> None:
    """alpha 1/2 at depth 4: lr times 4^-1/2, eps times 4^-1/2, branch times 4^-1/2, decay that of the widths alone."""
    scheme = scheme_of("completep", 0.5)
    size = Size(group=Class.HIDDEN, width_in=2, width_out=2, depth=4)
    rate = scheme.adam(size)
    assert (rate, scheme.eps(size), scheme.branch(size)) == (1 / 4, 1 / 4, 1 / 2)
    assert scheme.decay(size, rate) == 2
    assert scheme.sgd(size) == 1


def test_spectral_has_the_norms_that_the_condition_asks_for() -> None:
    """Std (1/sqrt(in)) min(1, sqrt(out/in)): from 64 x 64 to 256 x 256 it halves; a read-out to 16 is sqrt(out)/in."""

    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 16))

    plan = zeta.scale(build, {"width": 64}, {"width": 256}, "spectral").plan
    assert plan["1.weight"].initializer.bounds()[1] == pytest.approx(1 / 8 / 2)
    assert plan["2.weight"].initializer.bounds()[1] == pytest.approx(1 / 8 / 4)  # 4/64 becomes 4/256
    assert plan["0.weight"].std == pytest.approx((3 * 8) ** -0.5)
    scaling = zeta.scale(build, {"width": 64}, {"width": 256}, "spectral")
    assert [scaling.rates(scaling[f"{n}.weight"], "adamw").lr for n in range(3)] == [1, 1 / 4, 1 / 4]
    assert [scaling.rates(scaling[f"{n}.weight"], "sgd").lr for n in range(3)] == [4, 1, 1 / 4]
    assert scaling.multipliers == ()


def test_a_read_out_that_is_tied_has_the_spectral_norm_of_one_that_is_not() -> None:
    """The table's entries keep their size; the input of the read-out is multiplied by 1/4, from 32 to 128."""
    sizes = {"width": 32, "heads": 2}, {"width": 128, "heads": 8}
    norms = []
    for tied in (True, False):
        scaling = zeta.scale(partial(Gpt, tied=tied), *sizes, "spectral")
        factor = {each.module: each.factor for each in scaling.multipliers}.get("lm_head", 1.0)
        name = "tok.weight" if tied else "lm_head.weight"
        before = scaling[name].base_law.moments(scaling.plan[name].site)
        assert before is not None
        norms.append(factor * (scaling.plan[name].std or 0.0) / before.std)
        assert scaling.rates(scaling[name], "adam").lr * factor == 1 / 4
    assert norms[0] == pytest.approx(1 / 4)
    assert norms[1] == pytest.approx(1 / 4, rel=0.5)  # min(1, sqrt(64/in)) bends between these widths


def test_the_spectral_norm_needs_fans() -> None:
    class Stacked(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inp, self.maps = nn.Linear(8, width), nn.Parameter(torch.randn(3, width, width))

    sizes: tuple[dict[str, int], dict[str, int]] = {"width": 64}, {"width": 256}
    with pytest.raises(PlanError, match=r"maps: needs its fan_in and fan_out for the spectral norm"):
        zeta.scale(Stacked, *sizes, "spectral", roles={"maps": "hidden"})
    assert zeta.scale(Stacked, *sizes, roles={"maps": "hidden"}).plan["maps"].initializer == Normal(0.5)


def test_deepnorm_and_fixup_go_with_a_scheme_for_width() -> None:
    """From 2 to 32 layers: deepnorm's beta by 16^-1/4, and the branch likewise; fixup by 16^-1/2 for two layers."""
    sizes = {"width": 32, "layers": 2, "heads": 2}, {"width": 128, "layers": 32, "heads": 8}

    def init(model: nn.Module) -> None:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.08)

    deep = zeta.scale(Gpt, *sizes, depth="deepnorm", init=init)
    assert deep.plan["h.7.attn.v_proj.weight"].initializer == Normal(0.08 / 2 / 2)
    assert deep.plan["h.7.attn.q_proj.weight"].initializer == Normal(0.08 / 2)
    assert {each.factor for each in deep.multipliers if each.where == "branch"} == {0.5}
    fixup = zeta.scale(Gpt, *sizes, depth="fixup", init=init)
    assert fixup.plan["h.7.mlp.up_proj.weight"].initializer == Normal(0.08 / 2 / 4)
    assert not [each for each in fixup.multipliers if each.where == "branch"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "muP"}, "how must be one of sp, mup, completep, megatron-mup, spectral, umup, got 'muP'"),
        ({"how": "completep", "alpha": 0.2}, "alpha, the exponent of the depth, must be a number from 0.5 to 1, got"),
        ({"how": "mup", "alpha": 0.5}, "alpha is the depth exponent of completep, and mup has none"),
        ({"depth": "rezero"}, "depth must be None or one of deepnorm, fixup, got 'rezero'"),
        ({"how": "completep", "depth": "fixup"}, "completep has its own rule for depth"),
        ({"multipliers": 1}, "multipliers must be True or False, got 1"),
        ({"head_dim": (64,)}, r"head_dim must be the sizes of a head in base and target, as \(64, 128\), got"),
        ({"init": 3}, "init must be rules, the name of a recipe, a plan or a function, got 3"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        zeta.scale(Mlp, {"width": 8}, {"width": 16}, **options)


def test_every_scheme_is_in_the_docs() -> None:
    assert {*TABLE, "spectral", "umup"} == {*NAMES}
    assert all(f'"{name}"' in (zeta.scale.__doc__ or "") for name in NAMES)


@pytest.mark.parametrize(
    ("group", "branch", "factor"), [("hidden", 2, 1 / 2), ("hidden", 3, 4**-0.25), ("hidden", 1, 1), ("vector", 2, 1)]
)
def test_fixup_scales_the_matrices_of_branches_of_several_layers(group: str, branch: int, factor: float) -> None:
    """L^(-1/(2m - 2)) of m layers, at L 4; one layer of a branch has no others to be scaled with."""
    rule = depth_rule("fixup", "mup")
    assert rule is not None
    assert rule.std(Size(group=Class(group), depth=4, branch=branch)) == pytest.approx(factor)


def test_the_table_shows_how_both_fans_grow() -> None:
    lines = zeta.scale(Mlp, {"width": 64}, {"width": 256}).text(width=200).splitlines()
    texts = {words[0]: line for line in lines if (words := line.split())}
    found = {name: texts[name].split("  ") for name in ("inp.weight", "h1.weight", "out.weight", "out.bias")}
    widths = {name: [cell.strip() for cell in cells if " / " in cell] for name, cells in found.items()}
    assert widths == {"inp.weight": ["1 / 4"], "h1.weight": ["4 / 4"], "out.weight": ["4 / 1"], "out.bias": []}


def test_deepnorm_of_an_encoder_alone() -> None:
    """From 2 to 32 layers: branches times 16^-1/4, and so the std of values."""

    def build(layers: int) -> nn.Module:
        return nn.ModuleDict({"encoder": Gpt(16, layers, 2)})

    scaling = zeta.scale(build, {"layers": 2}, {"layers": 32}, depth="deepnorm", init=_normal)
    assert {each.factor for each in scaling.multipliers} == {0.5}
    assert len(scaling.multipliers) == 64
    assert scaling.plan["encoder.h.9.mlp.up_proj.weight"].std == pytest.approx(0.01)


def _normal(model: nn.Module) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)


def test_deepnorm_of_an_encoder_with_a_decoder_is_an_error() -> None:
    """There its factors are (N^4 M)^(-1/16) and (12 M)^(-1/4), and not L^(-1/4) (Wang et al. 2022, section 3)."""

    def build(n: int) -> nn.Module:
        return nn.Transformer(32, 2, n, n, 64, batch_first=True)

    with pytest.raises(PlanError, match="DeepNorm of an encoder with a decoder depends on the layers of both"):
        zeta.scale(build, {"n": 1}, {"n": 2}, depth="deepnorm")
    assert zeta.scale(build, {"n": 1}, {"n": 2}, "completep").multipliers


def test_packed_values_are_an_error_under_deepnorm() -> None:
    def build(width: int, layers: int) -> nn.Module:
        return Gpt(width, layers, heads=width // 16, packed=True)

    with pytest.raises(PlanError, match=r"c_attn\.weight: packs queries, keys and values, and DeepNorm"):
        zeta.scale(build, {"width": 32, "layers": 2}, {"width": 64, "layers": 4}, depth="deepnorm")


# -- against Megatron's formulas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("heads", [2, 8])
def test_as_megatron_has_it(optimizer: str, heads: int) -> None:
    """``get_mup_config_overrides`` and ``transformer_config``, by hand: they look at names and dimensions alone.

    With m the ratio of hidden sizes: what is no embedding, no output layer and has two dimensions is a hidden matrix.
    """
    base, target = {"width": 32, "heads": 2, "layers": 4}, {"width": 128, "heads": heads, "layers": 4}
    m, sigma, lr, eps, decay = 128 / 32, 0.02, 0.3, 1e-6, 0.1

    def init(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            ends = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=sigma / (2 * 4) ** 0.5 if ends else sigma)

    scaling = zeta.scale(Gpt, base, target, "megatron-mup", init=init)
    model = Gpt(**target)
    options = {"eps": eps} if optimizer == "adam" else {}
    groups = scaling.param_groups(model, optimizer, lr=lr, weight_decay=decay, **options)
    for name, parameter in model.named_parameters():
        [group] = [each for each in groups if any(parameter is one for one in each["params"])]
        embedding = name in ("tok.weight", "pos.weight", "lm_head.weight")
        hidden = not embedding and parameter.ndim > 1
        if optimizer == "adam":
            expected = (lr / m, eps / m) if hidden else (lr, eps)
            assert (group["lr"], group["eps"]) == pytest.approx(expected), name
        else:
            assert group["lr"] == pytest.approx(lr if hidden else lr * m), name
        assert group["weight_decay"] == decay
        if parameter.ndim == 2:
            depth = (2 * 4) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
            assert scaling.plan[name].std == pytest.approx(sigma / depth / (m**0.5 if hidden else 1)), name
    # softmax_scale is sqrt(base head) / head, which scaled_dot_product_attention has 1/sqrt(head) of; logits times 1/m
    head = 128 // heads
    queries = {each.factor for each in scaling.multipliers if each.where == "attention"} or {1.0}
    assert [*queries] == [pytest.approx(16**0.5 / head * head**0.5)]
    assert [each.factor for each in scaling.multipliers if each.where == "readout"] == [1 / m]


# -- against the mup package, on models as its examples are ------------------------------------------------------------

needs_mup = pytest.mark.skipif(importlib.util.find_spec("mup") is None, reason="mup is not installed")


class ResNet(nn.Module):
    """Three stages of residual blocks; ``readout`` is nn.Linear or MuReadout."""

    def __init__(self, width: int, readout: Any = nn.Linear) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.a1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.a2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)
        self.fc = readout(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.down(x + self.bn2(self.a2(F.relu(self.a1(x))))).mean((2, 3)))


class Plain(nn.Module):
    def __init__(self, width: int, readout: Any = nn.Linear) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(3072, width, bias=False)
        self.fc_2 = nn.Linear(width, width, bias=True)
        self.fc_3 = readout(width, 10)


class Transformer(nn.Module):
    def __init__(self, width: int, readout: Any = nn.Linear) -> None:
        super().__init__()
        self.encoder = nn.Embedding(200, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "q_proj": nn.Linear(width, width),
                    "k_proj": nn.Linear(width, width),
                    "v_proj": nn.Linear(width, width),
                    "o_proj": nn.Linear(width, width),
                    "norm1": nn.LayerNorm(width),
                    "up_proj": nn.Linear(width, 2 * width),
                    "down_proj": nn.Linear(2 * width, width),
                }
            )
            for _ in range(2)
        )
        self.decoder = readout(width, 200)


@needs_mup
@pytest.mark.parametrize("width", [128, 512, 2048])
@pytest.mark.parametrize("build", [Plain, ResNet, Transformer])
def test_as_the_mup_package(build: Callable[..., nn.Module], width: int) -> None:
    """Std, rates of MuAdam, MuAdamW and MuSGD, decay and multiplier of each parameter, from a base of width 64."""
    import mup

    base = 64
    torch.manual_seed(0)
    theirs = build(width, mup.MuReadout)
    mup.set_base_shapes(theirs, build(base, mup.MuReadout), delta=build(2 * base, mup.MuReadout), rescale_params=True)
    scaling = zeta.scale(build, {"width": base}, {"width": width}, attention=False)
    for name, parameter in theirs.named_parameters():
        expected = scaling.plan[name].std
        if expected and parameter.numel() > 500:  # the std of a sample
            assert float(parameter.detach().std()) == pytest.approx(
                expected, rel=0.12 if parameter.numel() < 5000 else 0.03
            )
    ours = build(width)
    for optimizer, made in (("adam", mup.MuAdam), ("adamw", mup.MuAdamW), ("sgd", mup.MuSGD)):
        rates = {
            name: (group["lr"], group["weight_decay"])
            for group in made(theirs.parameters(), lr=0.1, weight_decay=0.01).param_groups
            for name, parameter in theirs.named_parameters()
            if any(parameter is each for each in group["params"])
        }
        found = {
            name: (group["lr"], group["weight_decay"])
            for group in scaling.param_groups(ours, optimizer, lr=0.1, weight_decay=0.01)
            for name, parameter in ours.named_parameters()
            if any(parameter is each for each in group["params"])
        }
        assert found.keys() == rates.keys()
        for name in rates:
            assert found[name] == pytest.approx(rates[name]), (optimizer, name)
    [multiplier] = scaling.multipliers
    module: Any = theirs.get_submodule(multiplier.module)
    assert multiplier.factor == pytest.approx(1 / module.width_mult())
