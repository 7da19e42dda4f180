"""PPO against torch code that draws as the references say, and against the numbers, on agents of several forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recipe_truth import ONE, ZERO, Plain, assert_plan, draw
from zeta.errors import PlanError

HIDDEN, POLICY, VALUE = ("orthogonal", math.sqrt(2)), ("orthogonal", 0.01), ("orthogonal", 1.0)


def orthogonal(layer: nn.Linear, gain: float = math.sqrt(2)) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Continuous(nn.Module):
    """Two networks, the critic first, and a vector of log stds."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(orthogonal(nn.Linear(17, 64)), nn.Tanh(), orthogonal(nn.Linear(64, 1), 1.0))
        self.actor_mean = nn.Sequential(orthogonal(nn.Linear(17, 64)), nn.Tanh(), orthogonal(nn.Linear(64, 6), 0.01))
        self.actor_logstd = nn.Parameter(torch.zeros(1, 6))


class Atari(nn.Module):
    """A shared network of convolutions and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 64))
        self.lstm = nn.LSTM(64, 32)
        self.actor, self.critic = nn.Linear(32, 5), nn.Linear(32, 1)


class Extracting(nn.Module):
    """The names of Stable-Baselines3, inside of an algorithm; the networks of both come before both last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Module()
        self.policy.log_std = nn.Parameter(torch.zeros(3))
        self.policy.mlp_extractor = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
                for name in ("policy_net", "value_net")
            }
        )
        self.policy.action_net, self.policy.value_net = nn.Linear(64, 3), nn.Linear(64, 1)


class Heads(nn.Module):
    """An action of several parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16))
        self.vf = nn.Linear(16, 1)
        self.action_heads = nn.ModuleList(nn.Linear(16, n) for n in (2, 3))


def biases(model: nn.Module) -> dict[str, Plain]:
    return {name: ZERO for name, _ in model.named_parameters() if name.endswith("bias") or "bias_" in name}


AGENTS: dict[str, tuple[Callable[[], nn.Module], dict[str, Plain]]] = {
    "continuous": (
        Continuous,
        {
            "critic.0.weight": HIDDEN,
            "critic.2.weight": VALUE,
            "actor_mean.0.weight": HIDDEN,
            "actor_mean.2.weight": POLICY,
            "actor_logstd": ZERO,
        },
    ),
    "atari": (
        Atari,
        {
            "network.0.weight": HIDDEN,
            "network.3.weight": HIDDEN,
            "lstm.weight_ih_l0": ("orthogonal", 1.0),
            "lstm.weight_hh_l0": ("orthogonal", 1.0),
            "actor.weight": POLICY,
            "critic.weight": VALUE,
        },
    ),
    "extracting": (
        Extracting,
        {
            "policy.log_std": ZERO,
            **{f"policy.mlp_extractor.{name}_net.{n}.weight": HIDDEN for name in ("policy", "value") for n in (0, 2)},
            "policy.action_net.weight": POLICY,
            "policy.value_net.weight": VALUE,
        },
    ),
    "heads": (
        Heads,
        {
            "body.0.weight": HIDDEN,
            "body.1.weight": ONE,
            "vf.weight": VALUE,
            "action_heads.0.weight": POLICY,
            "action_heads.1.weight": POLICY,
        },
    ),
}


@pytest.mark.parametrize(("build", "weights"), AGENTS.values(), ids=AGENTS)
def test_ppo(build: Callable[[], nn.Module], weights: dict[str, Plain]) -> None:
    assert_plan(zeta.plan(build(), "ppo"), {**biases(build()), **weights})


def test_ppo_is_what_the_references_draw() -> None:
    _, recorded = zeta.record(Continuous)
    difference = zeta.diff(recorded, zeta.plan(Continuous(), "ppo"))
    assert difference.same, str(difference)


def test_recurrent_kernels_are_one_matrix() -> None:
    def reset(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            (nn.init.zeros_ if "bias" in name else nn.init.orthogonal_)(parameter)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 4)
            self.pi, self.v = nn.Linear(4, 2), nn.Linear(4, 1)

    difference = zeta.diff(zeta.plan(Small(), reset), zeta.plan(Small(), "ppo"))
    assert [change.name for change in difference] == ["pi.weight"]  # whose gain is 0.01
    weight: Tensor = draw(Small(), "ppo").lstm.weight_hh_l0.detach()
    assert torch.allclose(weight.T @ weight, torch.eye(4), atol=1e-5)


def body(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(*pair) for pair in itertools.pairwise(widths)))


def heads(**outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(32, out) for name, out in outputs.items()})


ACTORS: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "layers of mean and log std": (
        nn.ModuleDict({"net": body(4, 32), "mu_layer": nn.Linear(32, 2), "log_std_layer": nn.Linear(32, 2)}),
        ("mu_layer", "log_std_layer"),
    ),
    "std first": (
        nn.ModuleDict({"std": nn.Linear(32, 2), "trunk": body(4, 32, 32), "mean": nn.Linear(32, 2)}),
        ("std", "mean"),
    ),
    "square mean": (nn.ModuleDict({"mean": nn.Linear(32, 32), "std": nn.Linear(32, 32)}), ("mean", "std")),
    "dictionary of heads": (heads(move=4, fire=2), ("move", "fire")),
    "heads on a trunk": (
        nn.ModuleDict({"first": nn.Linear(4, 32), "second": nn.Linear(32, 32), **heads(move=4, fire=2)}),
        ("move", "fire"),
    ),
    "deep heads": (nn.ModuleDict({"move": body(8, 32, 4), "fire": body(8, 16, 2)}), ("move.1", "fire.1")),
    "dictionary of layers": (nn.ModuleDict({"one": nn.Linear(4, 32), "two": nn.Linear(32, 3)}), ("two",)),
    "layers that keep their width": (nn.ModuleDict({"one": nn.Linear(32, 32), "two": nn.Linear(32, 3)}), ("two",)),
    "a list of layers": (nn.ModuleList([nn.Linear(4, 32), nn.Linear(32, 3)]), ("1",)),
}


@pytest.mark.parametrize("path", ["actor", "pi"])
@pytest.mark.parametrize(("actor", "last"), ACTORS.values(), ids=ACTORS)
def test_each_last_layer_of_a_policy(path: str, actor: nn.Module, last: tuple[str, ...]) -> None:
    critics = {name: body(4, 32, 1) for name in ("target_critic", "critic", "critic_target")}
    model = nn.ModuleDict({**critics, path: actor})
    truth = biases(model)
    truth |= {name: HIDDEN for name, _ in model.named_parameters() if name.endswith("weight")}
    truth |= {f"{critic}.1.weight": VALUE for critic in critics} | {f"{path}.{each}.weight": POLICY for each in last}
    assert_plan(zeta.plan(model, "ppo"), truth)


def test_heads_by_name() -> None:
    model = nn.ModuleDict({"torso": nn.Linear(4, 8), "a": nn.Linear(8, 2), "b": nn.Linear(8, 1)})
    with pytest.raises(PlanError, match=r"(?s)never win.*the policy's last layer.*the value's last layer"):
        zeta.plan(model, "ppo")
    plan = zeta.plan(model, "ppo", policy="a.weight", value="b.weight")
    assert_plan(plan, {**biases(model), "torso.weight": HIDDEN, "a.weight": POLICY, "b.weight": VALUE})
