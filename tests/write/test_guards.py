"""Layer functions and verbs inside a constructor that is recorded: the same values, or one error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import zeta
from zeta import utils
from zeta.initializers import Constant, Normal, Orthogonal, Zeros

CALLS: dict[str, Callable[..., Any]] = {
    "init_zero_": utils.init_zero_,
    "init_constant_": lambda layer: utils.init_constant_(layer, 0.5, bias=0.25),
    "init_ones_": utils.init_ones_,
    "init_uniform_": lambda layer, **seed: utils.init_uniform_(layer, -1, 2, **seed),
    "init_normal_": lambda layer, **seed: utils.init_normal_(layer, 1.0, 0.02, bias=0.5, **seed),
    "init_trunc_normal_": lambda layer, **seed: utils.init_trunc_normal_(layer, std=0.02, cutoff=3, **seed),
    "init_xavier_uniform_": utils.init_xavier_uniform_,
    "init_xavier_normal_": utils.init_xavier_normal_,
    "init_kaiming_uniform_": utils.init_kaiming_uniform_,
    "init_kaiming_normal_": utils.init_kaiming_normal_,
    "init_lecun_uniform_": utils.init_lecun_uniform_,
    "init_lecun_normal_": utils.init_lecun_normal_,
    "init_orthogonal_": utils.init_orthogonal_,
    "init_identity_": utils.init_identity_,
    "init_dirac_": utils.init_dirac_,
    "init_sparse_": lambda layer, **seed: utils.init_sparse_(layer, 0.5, **seed),
    "init_default_": utils.init_default_,
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 4),
    "bf16": lambda: nn.Linear(8, 4, dtype=torch.bfloat16),
    "embedding": lambda: nn.Embedding(6, 4, padding_idx=1),
    "grouped": lambda: nn.Conv2d(4, 4, 3, groups=2),
    "lstm": lambda: nn.LSTM(4, 5, 2),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "norm": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.PReLU()),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 4)),
}
DETERMINISTIC = ("init_zero_", "init_constant_", "init_ones_", "init_identity_", "init_dirac_")


def test_the_family_is_complete() -> None:
    assert set(CALLS) == {name for name in utils.__all__ if name == getattr(utils, name).__name__ != "exists"}


@pytest.mark.keeps_rng
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", CALLS)
def test_a_layer_function_is_recorded_with_the_values_that_it_writes(name: str, layer: str) -> None:
    call = CALLS[name]

    def build() -> nn.Module:
        model = nn.Sequential(LAYERS[layer]())
        assert call(model) is model
        return model

    with torch.random.fork_rng(devices=[]):
        expected = nn.Sequential(LAYERS[layer]())
    try:
        call(expected) if name in DETERMINISTIC else call(expected, seed=3)
    except zeta.PlanError as error:  # Dirac of a matrix
        with pytest.raises(zeta.PlanError, match=str(error).splitlines()[0]):
            zeta.record(build)
        return
    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=3)
    for place, module in model.named_modules():
        twin = expected.get_submodule(place)
        # a weight of zero has no direction, which weight norm keeps apart
        for key in ({"weight", "bias", *module._parameters} & set(dir(module))) - {"original1"}:
            if isinstance(value := getattr(module, key), torch.Tensor):
                assert torch.equal(value, getattr(twin, key)), f"{place}.{key}"


def test_the_plan_names_function_and_line() -> None:
    def build() -> nn.Module:
        return utils.init_normal_(nn.Linear(3, 3), std=0.02)

    plan = zeta.record(build)[1]
    line = inspect.getsourcelines(build)[1] + 1
    assert plan["weight"].initializer == Normal(0.02)
    assert plan["weight"].rule.startswith(f"test_guards.py:{line} in ")
    assert plan["weight"].rule.endswith("(init_normal_, Linear)")
    assert plan["bias"].rule.endswith("(init_normal_, Linear)")
    assert plan["bias"].initializer == Zeros()


def test_writes_mix_and_the_last_wins() -> None:
    def build() -> nn.Module:
        layer = utils.init_orthogonal_(nn.Linear(4, 4), 2.0, seed=1)
        nn.init.constant_(layer.bias, 0.5)
        with torch.no_grad():
            layer.weight.mul_(0.5)
        return nn.Sequential(layer, utils.init_zero_(nn.init.normal_ and nn.Linear(4, 2)))

    plan = zeta.record(build)[1]
    assert plan["0.weight"].initializer == Orthogonal(1.0)
    assert plan["0.bias"].initializer == Constant(0.5)
    assert plan["1.weight"].initializer == Zeros()


def test_seed_and_generator_change_nothing_but_are_checked() -> None:
    def build(**seed: Any) -> nn.Module:
        return utils.init_normal_(nn.Linear(3, 3), **seed)

    expected = zeta.record(build)[1]
    assert zeta.record(build, seed=7)[1] == expected
    assert zeta.record(build, generator=torch.Generator().manual_seed(1))[1] == expected
    with pytest.raises(zeta.SpecError, match="not both"):
        zeta.record(build, seed=7, generator=torch.Generator())
    with pytest.raises(zeta.SpecError, match="seed"):
        zeta.record(build, seed=-1)


@pytest.mark.keeps_rng
def test_spectral_norm_gets_the_vectors_of_the_new_weight() -> None:
    def build() -> nn.Module:
        return utils.init_normal_(parametrizations.spectral_norm(nn.Linear(8, 4)), std=0.02)

    model, plan = zeta.record(build)
    with pytest.warns(zeta.ZetaNotice, match="under spectral_norm"):
        zeta.materialize_(model, plan, seed=0)
    assert float(torch.linalg.matrix_norm(model.eval().weight.detach(), 2)) == pytest.approx(1, abs=0.01)  # type: ignore[arg-type, operator, union-attr]


def test_what_cannot_be_written_is_listed() -> None:
    outside = nn.Linear(2, 2)

    def build(layer: nn.Module) -> nn.Module:
        return utils.init_zero_(nn.Sequential(nn.Linear(2, 2), layer))

    with pytest.raises(zeta.TargetError, match=r"1\.weight, 1\.bias: is real, from before the recording"):
        zeta.record(build, outside)
    with pytest.raises(zeta.LayerTypeError):
        zeta.record(lambda: utils.init_zero_(3))  # type: ignore[type-var]


# -- verbs -------------------------------------------------------------------------------------------------------------

RULES = zeta.Rules([zeta.Rule("*.weight", Normal(0.02)), zeta.Rule("*.bias", Zeros())])


class Initialized(nn.Module):
    """Initializes itself, as somebody may who reads of ``zeta.init_``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.embed = nn.Linear(4, 3), nn.Embedding(5, 4, padding_idx=2)
        if how == "init_":
            self.report = zeta.init_(self, RULES, seed=None)
        elif how == "apply_":
            self.report = zeta.apply_(self, zeta.plan(self, RULES), seed=9)
        else:
            self.report = zeta.apply_(self, zeta.plan(self, RULES), only="layer.*", seed=0)
            zeta.apply_(self.embed, zeta.plan(self, RULES), prefix="embed", seed=0)


@pytest.mark.keeps_rng
@pytest.mark.parametrize("how", ["init_", "apply_", "in parts"])
def test_a_model_that_initializes_itself(how: str) -> None:
    model, plan = zeta.record(Initialized, how)
    assert plan["layer.weight"].initializer == Normal(0.02)
    assert plan["layer.weight"].rule.endswith(f"({'init_' if how == 'init_' else 'apply_'}, Linear)")
    assert not list(model.report)
    assert model.report.ok
    zeta.materialize_(model, plan, seed=5)
    with torch.random.fork_rng(devices=[]):
        twin = Initialized("apply_")
    zeta.init_(twin, RULES, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_recorded_program_is_refused() -> None:
    def cubes() -> nn.Module:
        layer = nn.Linear(4, 4)
        with torch.no_grad():
            layer.weight.pow_(3)
        return layer

    plan = zeta.record(cubes)[1]

    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        zeta.apply_(layer, plan, seed=0)
        return layer

    with pytest.raises(zeta.TargetError, match="weight: gets a recorded program; call the function"):
        zeta.record(build)


@pytest.mark.parametrize("name", ["materialize_", "save", "verify", "check"])
def test_verbs_that_need_values_are_refused(name: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        plan = zeta.plan(layer, zeta.Rules([zeta.Rule("*", Normal())]))
        arguments = {"save": (layer, plan, tmp_path), "check": (layer, torch.ones(2, 4))}.get(name, (layer, plan))
        getattr(zeta, name)(*arguments)
        return layer

    with pytest.raises(zeta.RecordingError, match=f"zeta.{name} needs values, and inside a recording there are none"):
        zeta.record(build)
    assert not list(tmp_path.iterdir())
