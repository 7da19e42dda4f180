"""Four threads of each verb, beside threads that draw, train and checkpoint: nobody notices the others."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

import zeta
from zeta import utils
from zeta.initializers import Normal, Orthogonal, Zeros

RULES = zeta.Rules([zeta.Rule("*.weight", Normal(0.02)), zeta.Rule("*.bias", Zeros())])
SIZE = 16


class Net(nn.Module):
    """Draws in its constructor and in its forward pass, and checkpoints."""

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 3)
        self.reentrant = reentrant
        nn.init.trunc_normal_(self.first.weight, std=0.2)
        nn.init.orthogonal_(self.second.weight)

    def inner(self, x: Tensor) -> Tensor:
        y = nn.functional.dropout(torch.relu(self.first(x)), 0.1, self.training)
        return self.second(y + 0.01 * torch.randn_like(y))

    def forward(self, x: Tensor) -> Tensor:
        y: Any = checkpoint(self.inner, x, use_reentrant=self.reentrant)
        return self.head(torch.relu(y))


def initialize(model: Any) -> None:
    for layer in (model.first, model.second, model.head):
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)


def drawn() -> Tensor:
    return torch.cat([torch.rand(3), torch.randn(2), nn.init.trunc_normal_(torch.empty(2))])


def trained(seed: int, steps: int) -> list[float]:
    """The losses of a few steps with dropout and checkpoints, from torch's global generator."""
    torch.manual_seed(seed)
    losses: list[float] = []
    models = [Net(reentrant=reentrant) for reentrant in (False, True)]
    for _ in range(steps):
        for model in models:
            x = torch.randn(8, SIZE, requires_grad=True)
            loss = model(x).square().mean()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
            losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return torch.randn(16, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def often_switched() -> Iterator[None]:
    """Threads take turns every few operations."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def record(batch: Tensor, folder: Path) -> Any:
    return zeta.record(Net)[1]


def plan(batch: Tensor, folder: Path) -> Any:
    return zeta.plan(Net(), initialize)


def init(batch: Tensor, folder: Path) -> Any:
    model = Net()
    zeta.init_(model, RULES, seed=1)
    return model.state_dict()


def apply(batch: Tensor, folder: Path) -> Any:
    model = nn.utils.parametrizations.orthogonal(nn.Linear(SIZE, 4))
    zeta.apply_(
        model, zeta.plan(model, zeta.Rules([zeta.Rule("weight", Orthogonal()), zeta.Rule("bias", Zeros())])), seed=0
    )
    return model.state_dict()


def materialize(batch: Tensor, folder: Path) -> Any:
    model, recorded = zeta.record(Net)
    zeta.materialize_(model, recorded, seed=2)
    return model.state_dict()


def save(batch: Tensor, folder: Path) -> Any:
    model, recorded = zeta.record(Net)
    path = folder / str(threading.get_ident())
    zeta.save(model, recorded, path, seed=3, force=True)
    return (path / "model.safetensors").read_bytes()


def verify(batch: Tensor, folder: Path) -> Any:
    model = Net()
    planned = zeta.plan(model, RULES)
    zeta.apply_(model, planned, seed=4)
    return zeta.verify(model, planned, seed=4).ok


def check(batch: Tensor, folder: Path) -> Any:
    model = zeta.utils.init_kaiming_normal_(Net(reentrant=True), seed=5)
    report = zeta.check(model, batch)
    return [(layer.name, layer.output.rms) for layer in report.layers]


def full_check(batch: Tensor, folder: Path) -> Any:
    model = zeta.utils.init_kaiming_normal_(Net(), seed=5)
    report = zeta.check(model, batch, level="full", depth=lambda depth: Net(), depths=(1, 2))
    return [(layer.name, layer.singular) for layer in report.layers], report.points


def diff(batch: Tensor, folder: Path) -> Any:
    return str(zeta.diff(zeta.record(Net)[1], zeta.plan(Net(), RULES)))


VERBS = {
    verb.__name__: verb for verb in (record, plan, init, apply, materialize, save, verify, check, full_check, diff)
}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return all(torch.equal(value, second[name]) for name, value in first.items())
    return bool(first == second)


class Beside:
    """A thread that repeats something until it is stopped, and raises what that raised."""

    def __init__(self, step: Callable[[], object]) -> None:
        self.step, self.stopped, self.failure = step, threading.Event(), None
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                self.step()
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> Beside:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        if self.failure is not None:
            raise self.failure


#: verbs whose own models draw from torch's generator when they are built, in the test
BUILDING = ("plan", "init", "apply", "verify", "check", "full_check", "diff")


@pytest.mark.parametrize("name", [name for name in VERBS if name not in BUILDING])
def test_a_thread_that_draws_gets_what_it_would_get_alone(name: str, batch: Tensor, tmp_path: Path) -> None:
    drew: list[Tensor] = []
    others: list[tuple[float, float]] = []

    def draw() -> None:
        drew.append(drawn())
        others.append((random.random(), float(np.random.rand())))

    torch.manual_seed(11)
    random.seed(11), np.random.seed(11)
    with Beside(draw), ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: VERBS[name](batch, tmp_path), range(12)):
            pass
    torch.manual_seed(11)
    random.seed(11), np.random.seed(11)
    assert len(drew) > 3
    assert all(torch.equal(got, drawn()) for got in drew)
    assert others == [(random.random(), float(np.random.rand())) for _ in others]


def test_a_thread_that_draws_beside_checks_gets_what_it_would_get_alone(batch: Tensor, tmp_path: Path) -> None:
    """And beside plans of functions, and values given to parametrized weights: the models are there already."""
    models = [Net(reentrant=bool(number % 2)) for number in range(4)]
    orthogonal = [nn.utils.parametrizations.orthogonal(nn.Linear(SIZE, 4)) for _ in range(4)]
    planned = zeta.plan(orthogonal[0], zeta.Rules([zeta.Rule("weight", Orthogonal()), zeta.Rule("bias", Zeros())]))
    drew: list[Tensor] = []

    def work(number: int) -> None:
        for _ in range(3):
            zeta.check(models[number], batch)
            zeta.plan(models[number], initialize)
            zeta.apply_(orthogonal[number], planned, seed=0)
            utils.init_normal_(models[number], std=0.02, seed=1)

    torch.manual_seed(12)
    with Beside(lambda: drew.append(drawn())), ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, range(4)):
            pass
    torch.manual_seed(12)
    assert len(drew) > 3
    assert all(torch.equal(got, drawn()) for got in drew)


@pytest.mark.parametrize("name", [name for name in VERBS if name not in BUILDING])
def test_training_with_checkpoints_beside_verbs_is_as_alone(name: str, batch: Tensor, tmp_path: Path) -> None:
    expected = trained(13, 4)
    results: list[list[float]] = []
    with Beside(lambda: results.append(trained(13, 4))), ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: VERBS[name](batch, tmp_path), range(12)):
            pass
    assert results
    assert all(losses == expected for losses in results)


def test_training_with_checkpoints_beside_checks_is_as_alone(batch: Tensor) -> None:
    models = [Net(reentrant=bool(number % 2)) for number in range(4)]
    expected = trained(14, 4)
    results: list[list[float]] = []
    with Beside(lambda: results.append(trained(14, 4))), ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda number: zeta.check(models[number], batch), [0, 1, 2, 3] * 3):
            pass
    assert results
    assert all(losses == expected for losses in results)


@pytest.mark.parametrize("name", VERBS)
def test_four_threads_of_a_verb_find_what_one_finds(name: str, batch: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = VERBS[name](batch, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: VERBS[name](batch, tmp_path), range(12)))
    assert all(same(one, expected) for one in found)
    assert "apply" not in vars(CheckpointFunction)


def test_threads_that_check_one_model_wait_for_each_other(batch: Tensor) -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = [(layer.name, layer.output.rms) for layer in zeta.check(model, batch).layers]

    def work(number: int) -> Any:
        if number % 2:
            return zeta.plan(model, initialize)
        return [(layer.name, layer.output.rms) for layer in zeta.check(model, batch).layers]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(12)))
    assert found[::2] == [expected] * 6
    assert found[1::2] == [zeta.plan(model, initialize)] * 6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_check_of_checkpoints_repeats_itself_and_moves_no_generator(batch: Tensor) -> None:
    """The backward pass of a checkpointed layer draws the same values again, through ``torch.set_rng_state``."""
    model = Net().eval()
    state = torch.get_rng_state()
    first, second = (zeta.check(model, batch) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.parameters == second.parameters

    class Unchecked(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.inner(x)))

    other = Unchecked().eval()
    other.load_state_dict(model.state_dict())
    for found, expected in zip(first.parameters, zeta.check(other, batch).parameters, strict=True):
        assert found.gradient == expected.gradient
