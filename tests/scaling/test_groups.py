"""Groups for optimizers: every trainable parameter in exactly one, with the numbers of its class."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.utils.parametrizations import weight_norm

import zeta
from tests.helpers.scaled import Gpt, Mlp
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules
from zeta.errors import PlanError, SpecError
from zeta.initializers import Normal, Orthogonal, Zeros

SIZES: tuple[dict[str, int], dict[str, int]] = {"width": 32, "heads": 2}, {"width": 128, "heads": 8}


def numbers(groups: list[dict[str, Any]], model: nn.Module, name: str) -> dict[str, Any]:
    parameter = model.get_parameter(name)
    [group] = [group for group in groups if any(each is parameter for each in group["params"])]
    return {key: value for key, value in group.items() if key != "params"}


def test_numbers_of_a_gpt_under_adamw() -> None:
    scaling, model = zeta.scale(Gpt, *SIZES), Gpt(**SIZES[1])
    groups = scaling.param_groups(model, lr=4e-3, weight_decay=0.1, betas=(0.9, 0.95))
    hidden = {"name": "hidden, lr x 0.25", "lr": 1e-3, "weight_decay": 0.4, "eps": 1e-8, "betas": (0.9, 0.95)}
    assert numbers(groups, model, "h.1.attn.q_proj.weight") == hidden
    for name in ("tok.weight", "h.0.n1.weight", "lm_head.weight", "h.0.attn.q_proj.bias"):
        assert numbers(groups, model, name)["lr"] == 4e-3
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups).step()


def test_decay_leaves_out_what_is_asked_for() -> None:
    scaling, model = zeta.scale(Gpt, *SIZES), Gpt(**SIZES[1])
    groups = scaling.param_groups(model, lr=1e-3, weight_decay=0.1, no_decay=("norm", "bias", "embedding"))
    names = ("h.0.n1.weight", "h.0.attn.q_proj.bias", "tok.weight", "pos.weight", "lm_head.weight")
    assert [numbers(groups, model, name)["weight_decay"] for name in names] == [0, 0, 0, 0, 0.1]
    assert numbers(groups, model, "tok.weight")["name"] == "input, lr x 1, no decay"
    with pytest.raises(SpecError, match="no_decay must be some of norm, bias, embedding, got"):
        scaling.param_groups(model, lr=1e-3, no_decay=("norms",))


def test_options_by_optimizer() -> None:
    scaling, model = zeta.scale(Gpt, *SIZES, "completep"), Gpt(**SIZES[1])
    adam = numbers(scaling.param_groups(model, "Adam", lr=1.0, eps=1e-6), model, "h.0.attn.q_proj.weight")
    assert adam["eps"] == pytest.approx(1e-6 / 4)
    for optimizer, made in (("sgd", torch.optim.SGD), ("adafactor", torch.optim.Adafactor)):
        groups = scaling.param_groups(model, optimizer, lr=1e-3)
        assert all("eps" not in group for group in groups)
        made(groups, lr=1e-3)
    # steps relative to a weight of half the std: a rate of 1/4 is a factor of 1/2
    adafactor = scaling.param_groups(model, "adafactor", lr=1.0)
    assert numbers(adafactor, model, "h.0.attn.q_proj.weight")["lr"] == 0.5
    with pytest.raises(SpecError, match="eps= is for adam, adamw; sgd gets its own options"):
        scaling.param_groups(model, "sgd", lr=1e-3, eps=1e-8)
    with pytest.raises(SpecError, match="optimizer must be one of sgd, adam, adamw, adafactor, lion, got 'adamx'"):
        scaling.param_groups(model, "adamx", lr=1e-3)
    with pytest.raises(SpecError, match="lr must be a finite number of at least 0, got"):
        scaling.param_groups(model, lr=-1.0)


def test_frozen_tied_and_parametrized_parameters() -> None:
    scaling, model = zeta.scale(partial(Gpt, tied=True), *SIZES), Gpt(**SIZES[1], tied=True)
    model.nf.weight.requires_grad_(False)
    weight_norm(model.h[0].attn.q_proj)
    groups = scaling.param_groups(model, lr=1e-3)
    placed = [id(each) for group in groups for each in group["params"]]
    trainable = {id(each) for each in model.parameters() if each.requires_grad}
    assert len(placed) == len({*placed})
    assert {*placed} == trainable
    assert id(model.nf.weight) not in placed
    for original in model.h[0].attn.q_proj.parametrizations["weight"].parameters():  # type: ignore[index,union-attr]
        [group] = [group for group in groups if any(each is original for each in group["params"])]
        # of W = g v/|v|, the directions v are as W, and the magnitudes g a vector, as the mup package has them
        assert group["lr"] == pytest.approx(1e-3 if original.shape[1] == 1 else 1e-3 / 4)


def test_frozen_magnitudes_of_a_trainable_weight_are_in_no_group() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), weight_norm(nn.Linear(width, width)), nn.Linear(width, 2))

    scaling, model = zeta.scale(build, {"width": 16}, {"width": 64}), build(64)
    magnitudes, directions = model[1].parametrizations.weight.original0, model[1].parametrizations.weight.original1  # type: ignore[index,union-attr]
    magnitudes.requires_grad_(False)
    given = [each for group in scaling.param_groups(model, lr=1.0) for each in group["params"]]
    assert not any(each is magnitudes for each in given)
    assert sum(each is directions for each in given) == 1
    assert len(given) == 6


def test_a_matrix_of_one_row_is_no_vector() -> None:
    """Inside of a network, from a width to one unit: rate 1/4, as of all that sums over the width."""

    class Gated(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inp, self.one, self.out = nn.Linear(4, width), nn.Linear(width, 1), nn.Linear(width, 2)

    scaling = zeta.scale(Gated, {"width": 16}, {"width": 64}, roles={"one.weight": "hidden"})
    model = Gated(64)
    assert numbers(scaling.param_groups(model, lr=1.0), model, "one.weight")["lr"] == 1 / 4


def test_adafactor_and_laws_whose_std_follows_the_shape() -> None:
    """An orthogonal matrix of 4 times the width has half the std by itself: a step of 1/4 is relative to that."""
    rules = Rules([Rule("h1.weight", Orthogonal()), Rule("*.weight", Normal(0.1)), Rule("*", Zeros())])
    scaling = zeta.scale(Mlp, {"width": 64}, {"width": 256}, init=rules)
    assert scaling.rates(scaling["h1.weight"], "adafactor").lr == 1 / 2
    assert scaling.rates(scaling["h2.weight"], "adafactor").lr == 1 / 2
    standard = zeta.scale(Mlp, {"width": 64}, {"width": 256}, "sp")
    assert {standard.rates(row, "adafactor").lr for row in standard.rows} == {1}


def test_a_model_with_other_parameters_is_an_error_that_names_them() -> None:
    scaling = zeta.scale(Mlp, {"width": 64}, {"width": 128})
    model = Mlp(128)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(PlanError, match=r"not for this model(?s:.*)extra\.weight of shape \(2, 2\) has no row"):
        scaling.param_groups(model, lr=0.1)
    model.extra.requires_grad_(False)
    scaling.param_groups(model, lr=0.1)
    with pytest.raises(PlanError, match=r"h1\.weight has the shape \(64, 64\), and the target's has \(128, 128\)"):
        scaling.param_groups(Mlp(64), lr=0.1)
    with pytest.raises(PlanError, match="no parameter of the model is trainable"):
        scaling.param_groups(Mlp(128).requires_grad_(False), lr=0.1)


def test_wrapped_models_have_the_same_groups() -> None:
    scaling, model = zeta.scale(Mlp, {"width": 64}, {"width": 128}), Mlp(128)
    plain = scaling.param_groups(model, lr=0.1)
    scaling.apply_multipliers_(model)
    wrapped: Any = torch.compile(model, backend="eager")
    assert scaling.param_groups(wrapped, lr=0.1) == plain


def test_muon_gets_hidden_matrices_and_adamw_the_rest() -> None:
    scaling, model = zeta.scale(partial(Gpt, experts=2), *SIZES), Gpt(**SIZES[1], experts=2)
    muon, adamw = scaling.muon_groups(model, lr=0.02, adamw_lr=1e-3, weight_decay=0.1, no_decay=("norm",))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices = {names[id(each)] for group in muon for each in group["params"]}
    ends = ("proj.weight",)
    assert matrices == {name for name in names.values() if name.endswith(ends)}
    assert {names[id(each)] for group in adamw for each in group["params"]} == {*names.values()} - matrices
    assert {group["lr"] for group in muon} == {0.02}  # both fans grow alike
    for optimizer in (torch.optim.Muon(muon), torch.optim.AdamW(adamw)):
        optimizer.step()


class Narrow(nn.Module):
    """Maps whose fans grow differently, stored as out x in."""

    def __init__(self, width: int, stem: int) -> None:
        super().__init__()
        self.stem, self.wide, self.back = nn.Linear(8, stem), nn.Linear(stem, width), nn.Linear(width, stem)
        self.out = nn.Linear(stem, 2)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_steps_of_muon_have_the_spectral_norm_that_the_fans_ask_for(adjust: str) -> None:
    """With the rates of torch.optim.Muon itself: norm of a step over sqrt(fan_out/fan_in), at base and target."""
    base, target = {"width": 64, "stem": 32}, {"width": 512, "stem": 64}
    scaling = zeta.scale(Narrow, base, target, roles={"out.*": "output"})

    def ratios(model: nn.Module, groups: list[dict[str, Any]]) -> list[float]:
        before = {id(each): each.detach().clone() for each in model.parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        exact: dict[str, Any] = {"ns_steps": 12, "ns_coefficients": (1.875, -1.25, 0.375)}
        torch.optim.Muon(groups, weight_decay=0.0, adjust_lr_fn=adjust, **exact).step()
        weights = [model.get_parameter(f"{name}.weight") for name in ("wide", "back")]
        steps = [(each - before[id(each)]).detach() for each in weights]
        return [float(torch.linalg.matrix_norm(step, 2)) / (step.shape[0] / step.shape[1]) ** 0.5 for step in steps]

    small, large = Narrow(**base), Narrow(**target)
    plain = [{"params": [small.wide.weight, small.back.weight], "lr": 0.01}]
    muon, _ = scaling.muon_groups(large, lr=0.01, adamw_lr=0.01, adjust=adjust)
    assert ratios(large, muon) == pytest.approx(ratios(small, plain), rel=0.1)


def divided_step(groups: list[dict[str, Any]]) -> None:
    """A step of a Muon that reads ``split_sizes`` and ``num_heads`` as dion's does, exactly orthogonal."""
    for group in groups:
        for parameter in group["params"]:
            rows = parameter.shape[0]
            sizes = group.get("split_sizes") or (rows // group.get("num_heads", 1),) * group.get("num_heads", 1)
            assert sum(sizes) == rows
            for weight, gradient in zip(parameter.data.split(sizes), parameter.grad.split(sizes), strict=True):
                left, _, right = torch.linalg.svd(gradient, full_matrices=False)
                weight -= group["lr"] * (weight.shape[0] / weight.shape[1]) ** 0.5 * left @ right


@pytest.mark.parametrize("packed", ["blocks", "heads"])
@pytest.mark.parametrize("how", ["mup", "completep"])
def test_a_divided_weight_gets_the_steps_of_separate_ones(packed: str, how: str) -> None:
    """Queries, keys and values in one weight, and in three, from the same weights and gradients."""
    base, target = {**SIZES[0], "layers": 1}, {**SIZES[1], "layers": 2}
    after = []
    for build in (Gpt, partial(Gpt, packed=True)):
        scaling, model = zeta.scale(build, base, target, how), build(**target)
        muon, _ = scaling.muon_groups(
            model, lr=0.02, adamw_lr=0.1, packed=packed, adjust="spectral_norm", weight_decay=0.1
        )
        assert {group["lr"] for group in muon} == {0.02}  # what the shapes ask for, this Muon does itself
        for group in muon:
            for parameter in group["params"]:
                length, width = parameter.shape
                parts = 3 if (length, width) == (384, 128) else 1
                generator = torch.Generator().manual_seed(length // parts)
                parameter.data = torch.cat([torch.randn(length // parts, width, generator=generator)] * parts)
                parameter.grad = torch.cat([torch.randn(length // parts, width, generator=generator)] * parts)
        divided_step(muon)
        attention: Any = model.h[1].attn  # type: ignore[index,union-attr]
        after.append(
            attention.c_attn.weight
            if hasattr(attention, "c_attn")
            else torch.cat([each.weight for each in (attention.q_proj, attention.k_proj, attention.v_proj)])
        )
    assert torch.allclose(*after, atol=1e-6)


def division_of(model_type: str, packed: str, **config: Any) -> dict[str, Any]:
    """By the end of a name, how each matrix of the last layer of a model of transformers is divided."""
    transformers = pytest.importorskip("transformers")

    def build(hidden_size: int) -> nn.Module:
        built = transformers.AutoConfig.for_model(
            model_type,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=2,
            vocab_size=100,
            pad_token_id=0,
            **config,
        )
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(built)
        return model

    scaling = zeta.scale(build, {"hidden_size": 64}, {"hidden_size": 128}, attention=False)
    with torch.device("meta"):
        model = build(128)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, _ = scaling.muon_groups(model, lr=0.1, adamw_lr=0.1, packed=packed, adjust="spectral_norm")
    return {
        names[id(each)].split(".")[-2]: group.get("split_sizes") or group.get("num_heads")
        for group in muon
        for each in group["params"]
        if ".1." in names[id(each)]
    }


def test_how_models_of_transformers_are_divided() -> None:
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    assert division_of("phi3", "blocks", **heads) == {
        "qkv_proj": (128, 64, 64), "gate_up_proj": (256, 256), "o_proj": None, "down_proj": None
    }  # fmt: skip
    assert division_of("phi3", "heads", **heads) == {
        "qkv_proj": 8, "gate_up_proj": (256, 256), "o_proj": None, "down_proj": None
    }  # fmt: skip
    llama = division_of("llama", "heads", **heads)
    assert {name: llama[f"{name}_proj"] for name in ("q", "k", "v", "o", "up")} == {
        "q": 4, "k": 2, "v": 2, "o": None, "up": None
    }  # fmt: skip
    # head by head: queries, keys and values of 32 rows in turn
    assert division_of("gpt_neox", "heads", num_attention_heads=4)["query_key_value"] == 12
    with pytest.raises(PlanError, match=r"query_key_value\.weight(?s:.*)the order of what is packed in it"):
        division_of("gpt_neox", "blocks", num_attention_heads=4)
    latent = division_of(
        "deepseek_v3", "heads", first_k_dense_replace=2, num_attention_heads=4, num_key_value_heads=4,
        q_lora_rank=16, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8,
    )  # fmt: skip
    assert (latent["q_b_proj"], latent["kv_b_proj"]) == (4, 4)
    assert latent["q_a_proj"] is latent["kv_a_proj_with_mqa"] is None


class Repeated(nn.Module):
    """Four queries for each key; its attributes say this, and not the size of a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, width), nn.Linear(width, 2)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width // 2), "o_proj": nn.Linear(width, width)})
        self.attn.num_key_value_groups = 4  # type: ignore[assignment]


def test_rows_of_a_packed_weight_by_queries_for_each_key() -> None:
    """Of 6 equal parts, 4 are queries."""
    scaling = zeta.scale(Repeated, {"width": 32}, {"width": 64}, attention=False)
    model = Repeated(64)
    muon, _ = scaling.muon_groups(model, lr=0.1, adamw_lr=0.1, packed="blocks", adjust="spectral_norm")
    assert numbers(muon, model, "attn.qkv.weight")["split_sizes"] == (64, 16, 16)


class Unsaid(nn.Module):
    """An attention that does not say how many heads it has, and one whose weight is stored as in x out."""

    def __init__(self, width: int, transposed: bool) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 2)
        self.attn = nn.ModuleDict({"c_attn": Transposed(width) if transposed else nn.Linear(width, 3 * width)})
        self.attn["o_proj"] = nn.Linear(width, width)


class Transposed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 3 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@pytest.mark.parametrize(
    ("transposed", "packed", "message"),
    [
        (False, "heads", r"attn\.c_attn\.weight of shape \(192, 64\): the size of its heads follows from no attribute"),
        (True, "blocks", r"attn\.c_attn\.weight of shape \(64, 192\): it is stored as in x out, and Muon divides rows"),
    ],
)
def test_what_cannot_be_divided_is_an_error_or_adamw_s(transposed: bool, packed: str, message: str) -> None:
    build = partial(Unsaid, transposed=transposed)
    scaling = zeta.scale(build, {"width": 32}, {"width": 64}, attention=False, roles={"out.*": "output"})
    model = build(64)
    with pytest.raises(PlanError, match=message):
        scaling.muon_groups(model, lr=0.1, adamw_lr=0.1, packed=packed, adjust="spectral_norm")
    for kept, matrices in (("whole", {"c_attn", "o_proj"}), ("adamw", {"o_proj"})):
        muon, _ = scaling.muon_groups(model, lr=0.1, adamw_lr=0.1, packed=kept)
        names = {id(parameter): name.split(".")[-2] for name, parameter in model.named_parameters()}
        assert {names[id(each)] for group in muon for each in group["params"]} == matrices


def test_options_of_muon_that_are_not_allowed() -> None:
    scaling, model = zeta.scale(Gpt, *SIZES), Gpt(**SIZES[1])
    for options, message in (
        ({"packed": "halves"}, "packed must be one of whole, blocks, heads, adamw, got 'halves'"),
        ({"adjust": "rms"}, "adjust must be one of original, match_rms_adamw, spectral_norm, got 'rms'"),
        ({"packed": "heads"}, "packed='heads' is for a Muon that divides weights(?s:.*)got 'original'"),
    ):
        with pytest.raises(SpecError, match=message):
            scaling.muon_groups(model, lr=0.1, adamw_lr=0.1, **options)


def test_sharded_models_have_the_groups_of_the_whole() -> None:
    """FSDP2 over tensor parallelism: classes and factors are those of the global shapes, with multipliers applied."""
    scaling = zeta.scale(Gpt, *SIZES, "completep")
    whole = Gpt(**SIZES[1])
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    expected = {
        names[id(each)]: (group["lr"], group["eps"])
        for group in scaling.param_groups(whole, lr=0.1)
        for each in group["params"]
    }
    with fake_mesh((2, 2), (1, 0)) as mesh:
        assert mesh.mesh_dim_names is not None
        data, tensor = (mesh[name] for name in mesh.mesh_dim_names)
        with torch.device("meta"):
            model = Gpt(**SIZES[1])
        for block in model.h:
            styles = {"mlp.up_proj": ColwiseParallel(), "mlp.down_proj": RowwiseParallel()}
            parallelize_module(block, tensor, styles)
            fully_shard(block, mesh=data)
        fully_shard(model, mesh=data)
        zeta.materialize_(model, scaling.plan, seed=0)
        assert len(scaling.apply_multipliers_(model)) == len(scaling.multipliers)
        groups = scaling.param_groups(model, lr=0.1)
        found = {id(each): (group["lr"], group["eps"]) for group in groups for each in group["params"]}
        assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == expected
