"""Families of models, for coordinate checks: each size as ``zeta.scale`` makes it, and the base as it is."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import zeta
from tests.helpers.scaled import Gpt, Mlp
from zeta.scaling import family


def test_a_size_is_what_scale_makes_of_it() -> None:
    model, groups = family(Mlp, {"width": 32}, "width", lr=0.02, optimizer="adamw", weight_decay=0.1, seed=3)(128)
    scaling = zeta.scale(Mlp, {"width": 32}, {"width": 128}, "mup")
    wanted = Mlp(128)
    zeta.init_(wanted, scaling, seed=3)
    assert all(map(torch.equal, model.parameters(), wanted.parameters()))
    said = scaling.param_groups(wanted, "adamw", lr=0.02, weight_decay=0.1)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        (g["name"], g["lr"], g["weight_decay"]) for g in said
    ]
    assert {g["lr"] for g in groups} == {0.02, 0.005}
    x = torch.ones(2, 32)
    plain = wanted(x)
    scaling.apply_multipliers_(wanted)
    assert torch.equal(model(x), wanted(x))
    assert not torch.equal(model(x), plain)


def test_the_base_is_as_its_constructor_or_init_says() -> None:
    model, groups = family(Mlp, {"width": 32}, "width", lr=0.02)(32)
    own, plan = zeta.record(Mlp, 32)
    zeta.materialize_(own, plan, 0)
    assert all(map(torch.equal, model.parameters(), own.parameters()))
    assert [(group["name"], group["lr"], group["eps"]) for group in groups] == [("base", 0.02, 1e-8)]
    assert [len(group["params"]) for group in groups] == [8]
    zeros = zeta.Rules([zeta.Rule("*", zeta.initializers.Zeros())])
    assert not any(p.any() for p in family(Mlp, {"width": 32}, "width", lr=0.02, init=zeros)(32)[0].parameters())


def test_the_base_of_an_absolute_scheme_is_none_of_the_sizes() -> None:
    sizes = family(Mlp, {"width": 32}, "width", "umup", lr=0.3)
    stds = [float(sizes(size)[0].h1.weight.detach().std()) for size in (64, 256)]
    assert stds == pytest.approx([1, 1], rel=0.05)
    with pytest.raises(zeta.SpecError, match=r"its base, width=32, only says what grows; give a base that is smaller"):
        sizes(32)


def test_another_argument_may_vary() -> None:
    made = family(partial(Gpt, 64), {"layers": 2, "heads": 4}, "layers", "completep", lr=0.02)
    assert [len(made(layers)[0].h) for layers in (2, 6)] == [2, 6]


def test_wrong_arguments_are_errors() -> None:
    with pytest.raises(zeta.SpecError, match="base must be a mapping of arguments with 'depth', which varies"):
        family(Mlp, {"width": 32}, "depth", lr=0.1)
    with pytest.raises(zeta.SpecError, match="lr must be"):
        family(Mlp, {"width": 32}, "width", lr=-1)
    with pytest.raises(zeta.SpecError, match="how must be one of"):
        family(Mlp, {"width": 32}, "width", "mop", lr=0.1)(64)
