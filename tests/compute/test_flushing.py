"""Subnormal numbers are values like others, though the caller and torch's threads flush them to zero."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.bits import same_bits
from zeta import Rule, Rules
from zeta.initializers import (
    Blocks,
    Constant,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
)

#: made where they are used: what is made of their numbers must not be flushed either
LAWS: dict[str, tuple[Callable[[], Initializer], torch.dtype]] = {
    "constant": (lambda: Constant(1e-42), torch.float32),
    "constant in bf16": (lambda: Constant(1e-39), torch.bfloat16),
    "constant in fp16": (lambda: Constant(1e-6), torch.float16),
    "complex constant": (lambda: Constant(1e-42), torch.complex64),
    "constant in fp64": (lambda: Constant(1e-318), torch.float64),
    "identity": (lambda: Identity(1e-42), torch.float32),
    "complex identity": (lambda: Identity(-1e-42), torch.complex64),
    "identity in fp64": (lambda: Identity(1e-317), torch.float64),
    "sparse": (lambda: Sparse(0.3, 1e-41), torch.float32),
    "sparse in bf16": (lambda: Sparse(0.3, 1e-39), torch.bfloat16),
    "sparse in fp64": (lambda: Sparse(0.3, 1e-317), torch.float64),
    "orthogonal": (lambda: Orthogonal(1e-39), torch.float32),
    "blocks": (lambda: Blocks(Constant(1e-42), Sparse(0.3, 1e-41), Identity(1e-42)), torch.float32),
    "uniform": (lambda: Uniform(-2e-42, 3e-42), torch.float32),
    "uniform in fp64": (lambda: Uniform(1e-318, 2e-318), torch.float64),
    "normal in fp64": (lambda: Normal(1e-317), torch.float64),
    "truncated": (lambda: TruncatedNormal(1e-41, low=-2e-41, high=3e-41), torch.float32),
    "truncated in fp64": (lambda: TruncatedNormal(1e-317, low=-2e-317, high=3e-317), torch.float64),
    "truncated by sigmas in fp64": (lambda: TruncatedNormal(1e-317, cutoff=1.5, correct_std=True), torch.float64),
    "corrected in fp64": (lambda: TruncatedNormal(1e-317, low=-2e-317, high=3e-317, correct_std=True), torch.float64),
}
SHAPES = [(6, 4), (300, 300)]


def _initialized(name: str, shape: tuple[int, ...]) -> tuple[Any, zeta.Plan, zeta.Report]:
    make, dtype = LAWS[name]
    model: Any = nn.Module()
    model.weight = nn.Parameter(torch.zeros(shape, dtype=dtype))
    plan = zeta.plan(model, Rules([Rule("weight", make())]))
    report = zeta.apply_(model, plan, seed=0)
    assert report.text()
    return model, plan, report


def _flushing(work: Callable[[], None]) -> None:
    """Run in a thread that flushes, and whose helpers in torch do so too: they begin with its setting."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            torch.set_num_threads(2)
            if not torch.set_flush_denormal(True):
                pytest.skip("this processor flushes nothing")
            (torch.ones(10**6) * 2).sum()  # begins the helpers
            work()
            assert float(torch.tensor(1e-40) * 1.0) == 0.0, "the caller's setting holds afterwards"
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_values_do_not_depend_on_flushing(name: str, shape: tuple[int, int]) -> None:
    expected, plan, report = _initialized(name, shape)
    assert bool(expected.weight.any())
    found: list[Any] = []

    def work() -> None:
        found.extend([*_initialized(name, shape), zeta.verify(expected, plan, seed=0)])

    _flushing(work)
    model, other, again, verification = found
    assert same_bits(model.weight, expected.weight)
    assert other == plan
    assert again.ok == report.ok
    assert verification.ok


def test_one_tensor_and_kernels_of_convolutions() -> None:
    def filled() -> list[Tensor]:
        kernel = nn.Conv2d(3, 3, 3)
        zeta.init_(kernel, Rules([Rule("weight", Dirac(1e-42)), Rule("bias", Constant(-1e-42))]), seed=0)
        return [zeta.fill_(torch.empty(9), Uniform(1e-42, 3e-42), seed=0), *kernel.parameters()]

    expected, found = filled(), []
    _flushing(lambda: found.extend(filled()))
    assert all(same_bits(one, other) for one, other in zip(expected, found, strict=True))


def test_an_error_restores_the_setting() -> None:
    def work() -> None:
        with pytest.raises(zeta.PlanError):
            zeta.plan(nn.Linear(2, 2), Rules([Rule("weight", Zeros())]))

    _flushing(work)


def test_the_std_between_bounds_is_found_among_the_smallest_numbers() -> None:
    """Half of the smallest number is none: a search that asks for more digits never ends."""
    model = nn.Linear(2, 2, dtype=torch.float64)
    law = TruncatedNormal(1e-317, low=-2e-317, high=3e-317, correct_std=True)
    plan = zeta.plan(model, Rules([Rule("weight", law), Rule("bias", Zeros())]))
    assert plan["weight"].std == pytest.approx(1e-317, rel=1e-5)
