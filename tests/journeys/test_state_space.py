"""A state space block by hand: three rules for its own parameters; verified, sharded and saved like the rest."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

import zeta
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules, from_function
from zeta.initializers import Normal, Ones
from zeta.rules import kind


class Mixer(nn.Module):
    def __init__(self, d: int = 32, n: int = 8, r: int = 4) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(d, 2 * d, bias=False), nn.Linear(d, d, bias=False)
        self.scan, self.dt = nn.Linear(d, r + 2 * n, bias=False), nn.Linear(r, d)
        self.A_log, self.D = nn.Parameter(torch.empty(d, n)), nn.Parameter(torch.empty(d))


def steps(t: Tensor) -> Tensor:
    dt = t.uniform_(math.log(0.001), math.log(0.1)).exp()
    return dt + torch.log(-torch.expm1(-dt))


RULES = Rules(
    [
        Rule("*.A_log", from_function(lambda t: torch.arange(1, t.shape[1] + 1).log().expand_as(t))),
        Rule("*.D", Ones()),
        Rule("*.dt.bias", from_function(steps)),
        Rule(kind("weight"), Normal(0.02)),
    ]
)


def model() -> nn.Module:
    return nn.ModuleDict({"mixer": Mixer(), "other": Mixer(d=512)})


def whole() -> dict[str, Tensor]:
    made = model()
    zeta.init_(made, RULES, seed=3)
    return {name: parameter.detach() for name, parameter in made.named_parameters()}


def test_the_values_are_what_was_asked_for() -> None:
    values = whole()
    assert torch.allclose(values["mixer.A_log"], torch.arange(1.0, 9.0).log().expand(32, 8))
    assert torch.equal(values["other.D"], torch.ones(512))
    logs = nn.functional.softplus(values["other.dt.bias"].double()).log()
    low, high = math.log(0.001), math.log(0.1)
    assert low - 1e-4 < logs.min() < low + 0.1
    assert high - 0.1 < logs.max() < high + 1e-4
    # a uniform law: five standard errors of the mean
    assert abs(float(logs.mean()) - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 512)


def test_verified_and_a_change_is_seen() -> None:
    made = model()
    plan = zeta.plan(made, RULES)
    zeta.apply_(made, plan, seed=3)
    assert zeta.verify(made, plan, seed=3).ok
    with torch.no_grad():
        made["mixer"].dt.bias[7] += 1e-3  # type: ignore[index]
    assert not zeta.verify(made, plan, seed=3).ok


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_shard_has_its_part_of_the_whole(rank: int) -> None:
    values = whole()
    with fake_mesh((3,), (rank,)) as mesh:
        made = model()
        plan = zeta.plan(made, RULES)

        def shard(name: str, module: nn.Module, mesh: object) -> None:
            for local, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[local] = nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)]))

        distribute_module(made, mesh, shard)
        assert zeta.apply_(made, plan, seed=3).ok
        for name, parameter in made.named_parameters():
            part = values[name].chunk(3)[rank]
            assert torch.equal(parameter.to_local(), part), name  # type: ignore[attr-defined]


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = model()
    zeta.save(made, zeta.plan(made, RULES), tmp_path / "out", seed=3)
    assert zeta.verify(tmp_path / "out").ok
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in whole().items():
        assert torch.equal(loaded[name], value), name
