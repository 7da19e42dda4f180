"""What a check runs besides the model has afterwards what it had: the loss, the batch, its loader, the optimizer."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from tests.helpers.networks import Mlp
from zeta.check import check
from zeta.errors import SpecError

X, Y = torch.arange(32 * 8.0).reshape(32, 8).sin(), torch.arange(32) % 4


class Criterion(nn.Module):
    """A loss with statistics, and with more that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))
        self.losses: list[float] = []
        self.calls = 0

    def forward(self, output: Tensor, batch: Any) -> Tensor:
        self.seen += 1
        self.calls += 1
        loss = F.cross_entropy(self.norm(output), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def state(self) -> list[Any]:
        return [*(t.tolist() for t in self.state_dict().values()), list(self.losses), self.calls, self.training]


class Trainer:
    def __init__(self, criterion: Criterion, model: nn.Module) -> None:
        self.criterion, self.model, self.calls = criterion, model, 0

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        self.calls += 1
        return self.criterion(output, batch)


def _function(one: Criterion, model: nn.Module) -> Callable[..., Tensor]:
    return lambda output, batch: one(output, batch)


def _partial(one: Criterion, model: nn.Module) -> Callable[..., Tensor]:
    return functools.partial(lambda held, output, batch: held(output, batch), one)


def _nested(one: Criterion, model: nn.Module) -> Callable[..., Tensor]:
    inner, trainer = _function(one, model), Trainer(one, model)
    return lambda output, batch: inner(output, batch) + trainer.criterion(output, batch)


LOSSES: list[Callable[[Criterion, nn.Module], Any]] = [
    lambda one, model: one,
    lambda one, model: Trainer(one, model).loss,
    _function,
    _partial,
    _nested,
]


@pytest.mark.parametrize("loss_of", LOSSES)
def test_a_loss_with_statistics(loss_of: Callable[[Criterion, nn.Module], Any]) -> None:
    model, criterion = Mlp(8, 16, 4), Criterion()
    before, loss = criterion.state(), loss_of(criterion, model)
    check(model, (X, Y), loss)
    assert criterion.state() == before
    trainer = getattr(loss, "__self__", None)
    assert trainer is None or trainer.calls == 0


def test_a_function_may_note_what_it_sees() -> None:
    seen: list[Any] = []

    def loss(output: Tensor, batch: Any) -> Tensor:
        seen.append((loss, output.shape))
        return F.cross_entropy(output, batch[1])

    check(Mlp(8, 16, 4), (X, Y), loss)
    assert seen[0] == (loss, (32, 4))


def test_a_loss_that_raises() -> None:
    class Failing(Criterion):
        def forward(self, output: Tensor, batch: Any) -> Tensor:
            super().forward(output, batch)
            raise ZeroDivisionError

    criterion = Failing()
    before = criterion.state()
    with pytest.raises((ZeroDivisionError, SpecError)):
        check(Mlp(8, 16, 4), (X, Y), criterion)
    assert criterion.state() == before


class Nested:
    """A batch as detection models have it: an object of tensors with ``to``."""

    def __init__(self, tensors: Tensor) -> None:
        self.tensors = tensors

    def to(self, device: torch.device) -> Nested:
        return Nested(self.tensors.to(device))


class Bare:
    def __init__(self, tensors: Tensor) -> None:
        self.tensors = tensors


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Any) -> Tensor:
        x = x if isinstance(x, Tensor) else x.tensors
        return self.fc(x.add_(1))


@pytest.mark.parametrize("kind", [Nested, Bare])
def test_a_batch_of_a_class_of_its_own(kind: Any) -> None:
    batch = kind(X.clone())
    check(InPlace(), batch)
    assert torch.equal(batch.tensors, X)


def test_each_pass_has_the_batch_as_it_was_given() -> None:
    class Centred(nn.Module):
        """Samples mix, in a way that a second pass does not show, as the batch is centred then."""

        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.fc, self.in_place = nn.Linear(8, 4), in_place

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.sub_(x.mean()).mul_(1e-2) if self.in_place else (x - x.mean()) * 1e-2)

    found = []
    for in_place in (False, True):
        torch.manual_seed(0)
        report = check(Centred(in_place), X * 50 + 100)
        found.append([finding.rule.id for finding in report.findings])
    assert found[0] == found[1]
    assert "Z907" in found[0]


class Shuffling(Sampler[int]):
    """A sampler with a generator of Python and an order of its own."""

    def __init__(self) -> None:
        self.epoch, self.draws, self.order = 0, random.Random(1), list(range(32))

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        self.draws.shuffle(self.order)
        return iter(self.order)

    def __len__(self) -> int:
        return 32


def test_a_sampler_with_a_state_of_its_own() -> None:
    sampler = Shuffling()
    loader = DataLoader(TensorDataset(X, Y), 16, sampler=sampler)
    state = sampler.draws.getstate()
    check(Mlp(8, 16, 4), loader)
    assert (sampler.epoch, sampler.order) == (0, list(range(32)))
    assert sampler.draws.getstate() == state


class Noisy(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(torch.randn_like(parameter), alpha=random.random() * np.random.rand())


@pytest.mark.parametrize("given", [True, False])
def test_an_optimizer_that_draws(given: bool) -> None:
    model = Mlp(8, 16, 4)
    states = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    check(model, (X, Y), optimizer=Noisy(model.parameters()) if given else Noisy)
    assert (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())) == states


class Wrapping(torch.optim.Optimizer):
    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:
        self.inner.step()


def test_an_optimizer_around_another_one_is_refused() -> None:
    model = Mlp(8, 16, 4)
    with pytest.raises(SpecError, match=r"another Wrapping cannot be made of its options .*optimizer=lambda"):
        check(model, (X, Y), optimizer=Wrapping(torch.optim.SGD(model.parameters(), 0.1)))
    report = check(model, (X, Y), optimizer=lambda parameters: Wrapping(torch.optim.SGD(parameters, 0.1)))
    assert "Z701" not in dict(report.skipped)
