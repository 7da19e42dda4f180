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


def test_steps_of_muon_have_the_spectral_norm_that_the_fans_ask_for() -> None:
    """With the rates of torch.optim.Muon itself: norm of a step over sqrt(fan_out/fan_in), at base and target."""
    base, target = {"width": 64, "stem": 32}, {"width": 512, "stem": 64}
    scaling = zeta.scale(Narrow, base, target, roles={"out.*": "output"})

    def ratios(model: nn.Module, groups: list[dict[str, Any]]) -> list[float]:
        before = {id(each): each.detach().clone() for each in model.parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        torch.optim.Muon(groups, weight_decay=0.0, ns_steps=12, ns_coefficients=(1.875, -1.25, 0.375)).step()
        weights = [model.get_parameter(f"{name}.weight") for name in ("wide", "back")]
        steps = [(each - before[id(each)]).detach() for each in weights]
        return [float(torch.linalg.matrix_norm(step, 2)) / (step.shape[0] / step.shape[1]) ** 0.5 for step in steps]

    small, large = Narrow(**base), Narrow(**target)
    plain = [{"params": [small.wide.weight, small.back.weight], "lr": 0.01}]
    muon, _ = scaling.muon_groups(large, lr=0.01, adamw_lr=0.01)
    assert ratios(large, muon) == pytest.approx(ratios(small, plain), rel=0.1)


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
