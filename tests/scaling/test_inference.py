"""What grows between two sizes of a model: arguments, classes of parameters, laws."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.scaled import Cnn, Gpt, Mlp
from zeta import Axes, Rule, Rules, Scaling, register_fans
from zeta.errors import LayerTypeError, PlanError, SpecError
from zeta.initializers import Blocks, Constant, Normal, Ones, Orthogonal, Uniform, Zeros, kaiming_normal
from zeta.resolve.scaling.alignment import aligned


def classes(scaling: Scaling) -> dict[str, str]:
    return {row.name: row.size.group.value for row in scaling.rows}


def effects(scaling: Scaling) -> dict[str, str]:
    return {each.name: each.effect.value for each in scaling.arguments if each.effect != "none"}


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_width_and_depth_are_told_apart_by_trial() -> None:
    scaling = zeta.scale(Gpt, {"width": 32, "layers": 2, "heads": 2}, {"width": 64, "layers": 6, "heads": 4})
    assert effects(scaling) == {"width": "width", "layers": "depth"}
    assert "layers 2 -> 6 (no parameter changes with heads 2 -> 4);" in repr(scaling)  # as would shared layers
    row = scaling["h.5.attn.q_proj.weight"]
    assert (row.size.width_in, row.size.width_out, row.size.depth) == (2, 2, 3)
    assert scaling["tok.weight"].size.depth == scaling["nf.weight"].size.depth == 1


class Divided(nn.Module):
    """Neither argument can change alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width == 16 * heads, "the size of heads is 16"
        self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 2)


def test_arguments_that_cannot_change_alone_change_together() -> None:
    scaling = zeta.scale(Divided, {"width": 64, "heads": 4}, {"width": 128, "heads": 8})
    assert effects(scaling) == {"width": "width", "heads": "width"}


class Listed(nn.Module):
    """The number of layers and their kinds must agree, and the width goes with its heads."""

    def __init__(self, width: int, heads: int, kinds: tuple[str, ...], layers: int) -> None:
        super().__init__()
        assert len(kinds) == layers, "a kind for each layer"
        assert width % heads == 0
        self.inp = nn.Linear(8, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in kinds)
        self.out = nn.Linear(width, 2)


def test_depths_that_cannot_change_alone_change_together() -> None:
    base: dict[str, Any] = {"width": 8, "heads": 8, "kinds": ("a",) * 2, "layers": 2}
    target: dict[str, Any] = {"width": 24, "heads": 3, "kinds": ("a",) * 6, "layers": 6}
    scaling = zeta.scale(Listed, base, target)  # heads alone fail: they go with the width, and change no parameter
    assert effects(scaling) == {"width": "width", "kinds": "depth", "layers": "depth"}


def test_arguments_that_change_with_all_others_alone_are_widths_or_an_error() -> None:
    base: dict[str, Any] = {"width": 8, "layers": 2, "b": 1, "c": 1, "d": 1}
    target: dict[str, Any] = {"width": 16, "layers": 2, "b": 2, "c": 2, "d": 2}
    deeper = {**target, "layers": 4}

    def build(**arguments: int) -> nn.Module:
        if arguments not in (base, target, deeper):
            raise ValueError("no such size")
        return Gpt(arguments["width"], arguments["layers"])

    scaling = zeta.scale(build, base, target, attention=False)
    assert effects(scaling) == dict.fromkeys(("width", "b", "c", "d"), "width")
    with pytest.raises(PlanError, match="changes widths and depth at once, they cannot be told apart: give build"):
        zeta.scale(build, base, {**deeper, "layers": 4})


def test_a_middle_that_cannot_be_built_is_an_error() -> None:
    def build(width: int, layers: int) -> nn.Module:
        if (width, layers) == (16, 4):
            raise ValueError("too narrow")
        return Gpt(width, layers)

    with pytest.raises(PlanError, match="cannot be told apart"):
        zeta.scale(build, {"width": 16, "layers": 2}, {"width": 32, "layers": 4})


def test_experts_are_no_depth() -> None:
    scaling = zeta.scale(Gpt, {"width": 32, "experts": 2}, {"width": 64, "experts": 4})
    assert scaling["h.0.mlp.experts.3.up_proj.weight"].size.depth == 1
    router = scaling["h.0.mlp.router.weight"]
    assert (router.size.group.value, router.size.width_in) == ("output", 2)


@pytest.mark.parametrize(
    ("base", "target", "error", "message"),
    [
        ({"width": 32}, {"width": 32}, SpecError, "base and target are equal: there is nothing to scale"),
        ({"width": 32}, {"wide": 64}, SpecError, "only one of them has wide, width"),
        ({"width": 32}, {"width": 16}, PlanError, "a dimension shrinks(?s:.*)tok.weight: 64 x 32 in the base, 64 x 16"),
        ({"width": 32, "layers": 4}, {"width": 32, "layers": 2}, PlanError, "layers: the target has fewer blocks"),
        ({"width": 32, "heads": 4}, {"width": 32, "heads": 2}, PlanError, "nothing to scale: heads changes no param"),
        ({"width": 32, "experts": 0}, {"width": 32, "experts": 2}, PlanError, "experts changes which parameters the"),
        ([32], {"width": 32}, SpecError, "base must be a mapping of arguments of build"),
    ],
)
def test_what_cannot_be_compared_is_an_error(base: Any, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zeta.scale(Gpt, base, target)


def test_a_module_is_no_factory() -> None:
    with pytest.raises(LayerTypeError, match="a class or a function that builds the model, got a Linear"):
        zeta.scale(nn.Linear(2, 2), {}, {})


class Changing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width, bias=width > 100)
        self.out = nn.Linear(width, 2)


def test_a_structure_that_changes_with_the_width_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"width changes which parameters .*: only the target has inp\.bias"):
        zeta.scale(Changing, {"width": 64}, {"width": 128})


def test_blocks_are_aligned_by_their_contents() -> None:
    """Sparse and dense blocks take turns; the last block of the deeper model is dense, as that of the base."""
    base = {"h.0.dense": 1, "h.1.moe": 1, "h.2.dense": 1, "head": 1}
    other = {f"h.{n}.{'moe' if n % 2 else 'dense'}": 1 for n in range(5)} | {"head": 1}
    found = aligned(base, other)
    assert found is not None
    assert {name: each.name for name, each in found.items()} == {
        "h.0.dense": "h.0.dense",
        "h.1.moe": "h.1.moe",
        "h.2.dense": "h.0.dense",  # both are as near
        "h.3.moe": "h.1.moe",
        "h.4.dense": "h.2.dense",
        "head": "head",
    }
    assert aligned(base, {**other, "tail": 1}) is None
    assert aligned(base, dict.fromkeys(other, 2)) is None


# -- classes -----------------------------------------------------------------------------------------------------------


def test_classes_of_a_gpt() -> None:
    found = classes(zeta.scale(Gpt, {"width": 32, "experts": 2}, {"width": 64, "experts": 2}))
    block = {
        "attn.q_proj.weight": "hidden", "attn.o_proj.weight": "hidden", "attn.q_proj.bias": "vector",
        "n1.weight": "vector", "n1.bias": "vector", "mlp.router.weight": "output",
        "mlp.experts.0.up_proj.weight": "hidden", "mlp.experts.1.down_proj.weight": "hidden",
    }  # fmt: skip
    expected = {"tok.weight": "input", "pos.weight": "input", "nf.weight": "vector", "lm_head.weight": "output"}
    expected |= {f"h.1.{name}": group for name, group in block.items()}
    assert {name: found[name] for name in expected} == expected


def test_classes_of_a_cnn() -> None:
    scaling = zeta.scale(Cnn, {"width": 8}, {"width": 32})
    assert classes(scaling) == {
        "c1.weight": "input", "c1.bias": "vector", "deep.weight": "vector", "deep.bias": "vector",
        "c2.weight": "hidden", "c2.bias": "vector", "fc.weight": "output", "fc.bias": "fixed",
    }  # fmt: skip
    assert scaling["deep.weight"].size.width_out == 4


def test_a_tied_table_is_an_input_and_has_the_multiplier_of_a_read_out() -> None:
    scaling = zeta.scale(partial(Gpt, tied=True), {"width": 32}, {"width": 128})
    assert classes(scaling)["tok.weight"] == "input"
    assert [(each.module, each.factor) for each in scaling.multipliers if each.where == "readout"] == [
        ("lm_head", 0.25)
    ]


class Grouped(nn.Module):
    """Queries grow, keys and values do not; a vocabulary grows with the width; LoRA beside a layer."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocabulary, width)
        self.attn = nn.ModuleDict(
            {"q_proj": nn.Linear(width, width), "k_proj": nn.Linear(width, 16), "v_proj": nn.Linear(width, 16),
             "o_proj": nn.Linear(width, width), "lora_A": nn.Linear(width, 4), "lora_B": nn.Linear(4, width)}
        )  # fmt: skip
        self.lm_head = nn.Linear(width, vocabulary, bias=False)


def test_grouped_queries_adapters_and_vocabularies() -> None:
    scaling = zeta.scale(Grouped, {"width": 64, "vocabulary": 100}, {"width": 128, "vocabulary": 300}, attention=False)
    found = classes(scaling)
    assert found["attn.k_proj.weight"] == found["attn.v_proj.weight"] == found["attn.lora_A.weight"] == "hidden"
    assert found["attn.lora_B.weight"] == found["tok.weight"] == "input"
    assert found["lm_head.weight"] == "output"
    assert scaling["lm_head.weight"].size.width_in == 2
    assert found["attn.k_proj.bias"] == "fixed"


class TwoHeads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.side, self.out = nn.Linear(8, width), nn.Linear(width, 3), nn.Linear(width, 2)


class Bare(nn.Module):
    """Tensors of two dimensions that are no matrices, and a part for each head that is one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(6, width))
        self.relative_bias_table = nn.Parameter(torch.randn(9, heads))
        self.q_bias = nn.Parameter(torch.randn(heads, 8))
        self.segments = nn.Parameter(torch.randn(2, heads, 8))
        self.inner = nn.Linear(width, 8 * heads)
        self.score_head = nn.Linear(8 * heads, 3)

    def forward(self, offsets: Tensor) -> Tensor:
        latents = self.latents.expand(2, -1, -1)
        q = self.inner(latents).unflatten(-1, self.q_bias.shape) + self.q_bias
        scores = torch.einsum("bnhd,shd->bhns", q, self.segments)
        scores = scores + self.relative_bias_table[offsets].mT[:, :, None]
        return self.score_head(q.flatten(-2)) * scores.mean()


def test_tables_tokens_and_biases_of_heads_are_no_matrices() -> None:
    scaling = zeta.scale(Bare, {"width": 32, "heads": 4}, {"width": 128, "heads": 16})
    assert classes(scaling) == {
        "latents": "input",
        "relative_bias_table": "input",
        "q_bias": "vector",
        "segments": "vector",
        "inner.weight": "hidden",
        "inner.bias": "vector",
        "score_head.weight": "output",
        "score_head.bias": "fixed",
    }
    for name in ("latents", "relative_bias_table", "q_bias", "segments"):
        assert scaling[name].size.width_in == 1
        assert scaling[name].size.width_out == 4
        assert scaling.plan[name].std == pytest.approx(1)
    assert Bare(16, 3)(torch.arange(4).reshape(2, 2)).shape == (2, 6, 3)


def test_an_unclear_class_is_an_error_with_candidates_and_roles_say_it() -> None:
    sizes: tuple[dict[str, int], dict[str, int]] = {"width": 64}, {"width": 128}
    with pytest.raises(PlanError, match=r"side\.weight \(3 x 64 becomes 3 x 128\): .* hidden, .*, or output"):
        zeta.scale(TwoHeads, *sizes)
    assert classes(zeta.scale(TwoHeads, *sizes, roles={"side.*": "output"}))["side.weight"] == "output"
    assert classes(zeta.scale(TwoHeads, *sizes, roles={"side.*": "hidden"}))["side.weight"] == "hidden"
    with pytest.raises(SpecError, match=r"the class of 'side' must be one of input, hidden, .*, got 'readout'"):
        zeta.scale(TwoHeads, *sizes, roles={"side": "readout"})
    with pytest.raises(SpecError, match=r"roles names what the model does not have(?s:.*)sid"):
        zeta.scale(TwoHeads, *sizes, roles={"sid": "output"})


class Stacked(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.maps = nn.Parameter(torch.randn(3, width, width))
        self.out = nn.Linear(width, 2)


def test_axes_that_are_not_known_are_an_error_until_they_are_registered() -> None:
    class Known(Stacked):
        pass

    with pytest.raises(PlanError, match=r"maps .* it is not known which of its dimensions are in and out"):
        zeta.scale(Stacked, {"width": 64}, {"width": 128})
    register_fans(Known, {"maps": Axes(fan_in=(1,), fan_out=(2,), batch=(0,))})
    assert classes(zeta.scale(Known, {"width": 64}, {"width": 128}))["maps"] == "hidden"


# -- laws --------------------------------------------------------------------------------------------------------------


def test_laws_are_those_of_the_base_times_the_factor_of_their_class() -> None:
    """Literal: nn.Linear draws on ±1/sqrt(fan_in), which is 1/8 at the base's width of 64; the target's is 1024."""
    plan = zeta.scale(Mlp, {"width": 64}, {"width": 1024}).plan
    assert plan["h1.weight"].initializer == Uniform(-1 / 32, 1 / 32)  # 1/8 / sqrt(16)
    assert plan["h1.bias"].initializer == plan["out.weight"].initializer == Uniform(-1 / 8, 1 / 8)
    assert plan["inp.weight"].std == pytest.approx((3 * 32) ** -0.5)


def test_without_a_rule_for_depth_laws_are_those_of_the_target_s_depth() -> None:
    """0.05/sqrt(2 layers) is 0.0125 at 8 layers, and 0.025 at the base's 2; halved by the width."""
    sizes = {"width": 32, "layers": 2, "heads": 2}, {"width": 128, "layers": 8, "heads": 8}
    name = "h.7.attn.o_proj.weight"
    assert zeta.scale(Gpt, *sizes, "mup").plan[name].initializer == Normal(0.00625)
    assert zeta.scale(Gpt, *sizes, "completep").plan[name].initializer == Normal(0.0125)
    assert zeta.scale(Gpt, *sizes, "sp").plan[name].initializer == Normal(0.0125)


def test_the_base_starts_from_rules_a_recipe_a_function_or_a_plan() -> None:
    sizes: tuple[dict[str, int], dict[str, int]] = {"width": 64}, {"width": 256}
    rules = Rules([Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())])
    expected = Normal((2 / 64) ** 0.5 / 2)
    assert zeta.scale(Mlp, *sizes, init=rules).plan["h1.weight"].initializer == expected
    planned = zeta.plan(Mlp(64), rules)
    assert zeta.scale(Mlp, *sizes, init=planned).plan["h1.weight"].initializer == expected
    with pytest.raises(PlanError, match=r"init is not a plan of the base(?s:.*)inp\.weight"):
        zeta.scale(Mlp, *sizes, init=zeta.plan(Mlp(128), rules))

    def function(model: nn.Module) -> None:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)

    assert zeta.scale(Mlp, *sizes, init=function).plan["h1.weight"].initializer == Normal(0.25)
    gpt = zeta.scale(Gpt, {"width": 64, "heads": 4}, {"width": 256, "heads": 16}, init="gpt2")
    assert gpt.plan["h.0.attn.q_proj.weight"].initializer == Normal(0.01)


def test_laws_of_matrices_and_blocks_have_the_std_that_is_asked_for() -> None:
    rules = Rules(
        [
            Rule("h1.weight", Orthogonal(3.0)),
            Rule("h2.weight", Blocks(Normal(0.5), Orthogonal(2.0))),
            Rule("*", Constant(0.1)),
        ]
    )
    plan = zeta.scale(Mlp, {"width": 64}, {"width": 256}, init=rules).plan
    # an orthogonal matrix has the std gain/sqrt(width), so that its gain stays
    assert plan["h1.weight"].initializer == Orthogonal(3.0)
    [first, second] = plan["h2.weight"].initializer.parts  # type: ignore[attr-defined]
    assert (first, second) == (Normal(0.25), Orthogonal(2.0))
    assert plan["inp.bias"].initializer == Constant(0.1)


class Programmed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.mid, self.out = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2)
        with torch.no_grad():
            self.inp.bias.copy_(torch.rand(width).exp().sqrt())
            self.mid.weight.copy_(torch.rand(width, width).exp().sqrt())


def test_a_program_is_kept_where_its_factor_is_1_and_an_error_elsewhere() -> None:
    with pytest.raises(
        PlanError, match=r"cannot be rescaled(?s:.*)mid\.weight: is a program, .* multiplied by 0\.7071"
    ):
        zeta.scale(Programmed, {"width": 64}, {"width": 128})
    init = zeta.record(Programmed, 64)[1].override(Rules([Rule("mid.weight", Normal(0.1))]), Programmed(64))
    plan = zeta.scale(Programmed, {"width": 64}, {"width": 128}, init=init).plan
    assert plan["inp.bias"].initializer == zeta.record(Programmed, 128)[1]["inp.bias"].initializer


def test_copied_layers_are_rescaled_and_stay_copies() -> None:
    """``nn.TransformerEncoder`` copies one layer, so that all of its layers start equal."""

    def build(width: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(width, width // 16, 2 * width, batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    scaling = zeta.scale(build, {"width": 32}, {"width": 128})
    model = build(128)
    assert zeta.init_(model, scaling, seed=0).ok
    first, second = model.layers[0].linear1.weight, model.layers[1].linear1.weight  # type: ignore[index,union-attr]
    assert torch.equal(first, second)
    assert first.abs().max() <= 32**-0.5 / 2 < 1.01 * first.abs().max()


# -- how a model is initialized ----------------------------------------------------------------------------------------


def test_a_scaling_is_taken_where_rules_are() -> None:
    scaling = zeta.scale(Mlp, {"width": 64}, {"width": 256})
    model = Mlp(256)
    report = zeta.init_(model, scaling, seed=3)
    assert report.ok
    assert zeta.verify(model, scaling.plan, seed=3).ok
    half = zeta.plan(Mlp(256).bfloat16(), scaling)
    assert half["h1.weight"].dtype is torch.bfloat16
    with torch.device("meta"):
        empty = Mlp(256)
    assert zeta.init_(empty, scaling, seed=3).ok
    assert torch.equal(empty.h1.weight, model.h1.weight)
    before = model.h1.weight.clone()
    zeta.init_(model, scaling, seed=4, only="out.*")
    assert torch.equal(model.h1.weight, before)


def test_another_model_is_refused() -> None:
    scaling = zeta.scale(Mlp, {"width": 64}, {"width": 256})
    with pytest.raises(
        PlanError, match=r"this scaling is not for this model: .* the model must be build\(\*\*target\)"
    ):
        zeta.init_(Mlp(128), scaling, seed=0)


@pytest.mark.parametrize("how", ["mup", "completep", "megatron-mup", "spectral"])
def test_where_nothing_grows_nothing_changes(how: str) -> None:
    """The second block's width grows alone: all other parameters have the laws and the rates of the base."""

    def build(wide: int) -> nn.Module:
        return nn.ModuleDict({"one": Mlp(64), "other": Mlp(wide)})

    scaling = zeta.scale(build, {"wide": 32}, {"wide": 128}, how, roles={"one.*": "fixed", "other.out.*": "output"})
    own = zeta.record(build, 32)[1]
    for row in scaling.rows:
        if row.name.startswith("one."):
            assert scaling.plan[row.name].initializer == own[row.name].initializer
            for optimizer in ("sgd", "adamw"):
                rates = scaling.rates(row, optimizer)
                assert (rates.lr, rates.eps, rates.decay) == (1, 1, 1)


def test_shown_and_written_and_read() -> None:
    scaling = zeta.scale(Gpt, {"width": 32, "layers": 2}, {"width": 64, "layers": 4}, "completep", alpha=0.75)
    again = Scaling.from_json(scaling.to_json())
    assert again == scaling
    assert again.to_json() == scaling.to_json()
    assert repr(scaling).startswith("Scaling(completep (alpha 0.75): width 32 -> 64, layers 2 -> 4; ")
    text = str(scaling)
    assert "h.{0..3}.attn.o_proj.weight" in text
    assert "input of lm_head x 0.5 (readout)" in text
    assert "h.{0..3}.attn.o_proj.weight" in scaling._repr_html_()
    with pytest.raises(PlanError, match="not a scaling in JSON"):
        Scaling.from_json(scaling.to_json().replace('"hidden"', '"hiden"'))
    with pytest.raises(PlanError, match="it has format 9"):
        Scaling.from_json(scaling.to_json().replace('"format": 1', '"format": 9', 1))
    assert scaling.plan["nf.weight"].initializer == Ones()


def test_forward_of_helpers() -> None:
    tokens = torch.arange(8).reshape(2, 4)
    for model in (Gpt(16), Gpt(16, experts=2), Gpt(16, packed=True, tied=True)):
        out: Tensor = model(tokens)
        assert out.shape == (2, 4, 64)
