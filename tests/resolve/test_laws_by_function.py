"""The laws that docs/rules.md writes as functions: their moments are those of the textbook."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import Rule, Rules

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
FUNCTIONS = dict(re.findall(r"^\| ([^|]+) \| `(lambda t: .*)` \|$", PAGE, re.MULTILINE))
A, B, R, G, STD, M, S = 1e-3, 0.1, 2.0, 0.5, 0.3, 0.5, 0.25
NAMES = {"math": math, "torch": torch, "a": A, "b": B, "r": R, "g": G, "std": STD, "m": M, "s": S}
WIDTH = math.log(B / A)


def softplus_of(values: Tensor) -> Tensor:
    return torch.nn.functional.softplus(values.double()).log()


#: by law: what is averaged, and its mean and std
TRUTH: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "log-uniform on [a, b]": (torch.log, math.log(A) + WIDTH / 2, WIDTH / math.sqrt(12)),
    "exponential, rate r": (lambda x: x, 1 / R, 1 / R),
    "Laplace, scale b": (lambda x: x, 0.0, B * math.sqrt(2)),
    # the quantiles of a Cauchy law are uniform
    "Cauchy, scale g": (lambda x: torch.atan(x / G), 0.0, math.pi / math.sqrt(12)),
    "signs, 1 or -1": (lambda x: x, 0.0, 1.0),
    "half-normal": (lambda x: x, STD * math.sqrt(2 / math.pi), STD * math.sqrt(1 - 2 / math.pi)),
    "lognormal, of N(m, s²)": (torch.log, M, S),
    "Mamba's dt bias, the inverse softplus of a log-uniform value": (
        softplus_of,
        math.log(A) + WIDTH / 2,
        WIDTH / math.sqrt(12),
    ),
}


def test_each_function_of_the_page_has_a_truth() -> None:
    assert set(FUNCTIONS) == set(TRUTH)


@pytest.mark.parametrize("law", TRUTH)
def test_moments(law: str) -> None:
    layer = nn.Module()
    layer.p = nn.Parameter(torch.empty(2000, 500))
    plan = zeta.plan(layer, Rules([Rule("p", zeta.from_function(eval(FUNCTIONS[law], NAMES)))]))
    assert zeta.apply_(layer, plan, seed=0).ok
    assert zeta.verify(layer, plan, seed=0).ok
    look, mean, std = TRUTH[law]
    seen = look(layer.p.detach().double())
    assert abs(float(seen.mean()) - mean) < 5 * std / math.sqrt(seen.numel())
    # the kurtosis of an exponential law, 9, is the largest
    assert abs(float(seen.std()) / std - 1) < 5 * math.sqrt(8 / (4 * seen.numel()))
    # a region is the same as in the whole
    region = zeta.values(plan, "p", 0, region=(slice(10, 20), slice(3, 5)))
    assert torch.equal(region, layer.p.detach()[10:20, 3:5])
