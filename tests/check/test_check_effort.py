"""What the full level leaves out where it would take too long: chosen by sizes alone, and said."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.helpers.networks import LanguageModel, Mlp, tokens, vectors
from zeta.check import check, examine
from zeta.check.measure import effort
from zeta.check.measure.effort import choice, shared_out
from zeta.errors import SpecError


@given(st.lists(st.floats(0.001, 10), max_size=60), st.floats(0, 200))
def test_what_is_chosen_costs_at_most_so_much(costs: list[float], most: float) -> None:
    chosen = choice(costs, most)
    assert sum(costs[position] for position in chosen.positions) == chosen.seconds
    assert chosen.seconds <= most
    assert list(chosen.positions) == sorted(set(chosen.positions))
    if sum(costs) <= most:
        assert chosen.positions == tuple(range(len(costs)))
        assert chosen.remark("these") is None
    elif len(chosen.positions) > 1:
        assert (chosen.positions[0], chosen.positions[-1]) == (0, len(costs) - 1)
        steps = [b - a for a, b in zip(chosen.positions, chosen.positions[1:], strict=False)]
        assert max(steps) - min(steps) <= 1


def test_equal_costs_fill_the_budget() -> None:
    assert choice([1.0] * 1000, 250.0).seconds > 240
    assert choice([1.0] * 1000, 0.5).positions == ()
    assert choice([], 1.0).positions == ()


def test_each_kind_gets_its_part() -> None:
    one, two = shared_out(([1.0] * 100, [3.0] * 100), 100.0)
    assert (round(one.seconds), round(two.seconds)) == (25, 75)
    assert [len(part.positions) for part in shared_out(([1.0] * 5, []), 100.0)] == [5, 0]
    assert [len(part.positions) for part in shared_out(([1.0] * 5, [1.0]), -1.0)] == [0, 0]
    assert [len(part.positions) for part in shared_out(([1.0] * 5, [1.0]), math.inf)] == [5, 1]


def told(model: nn.Module, batch: Any, **arguments: Any) -> tuple[Any, list[tuple[str, float, float]]]:
    calls: list[tuple[str, float, float]] = []
    report = check(model, batch, level="full", progress=lambda *call: calls.append(call), **arguments)
    return report, calls


def test_how_long_it_takes_is_said_before_it_begins() -> None:
    report, calls = told(Mlp(16, 32, 4), vectors(16))
    assert calls[0][:2] == ("full level", 0.0)
    assert calls[0][2] > 0
    assert len({total for _, _, total in calls}) == 1
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1][1] < calls[-1][2]
    measured = [layer.name for layer in report.layers if layer.singular is not None]
    weights = [parameter.name for parameter in report.parameters if parameter.spectral is not None]
    assert {what for what, _, _ in calls[1:]} >= {
        *(f"Jacobian of {name}" for name in measured),
        *(f"spectral norm of {name}" for name in weights),
    }
    assert report.sampled == ()


def test_too_much_is_sampled_and_what_needs_all_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(30) for part in (nn.Linear(24, 24), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=3 / math.sqrt(24))  # type: ignore[arg-type]
    model, x = nn.Sequential(*layers), vectors(24)
    everything, calls = told(model, x)
    total = calls[0][2]
    monkeypatch.setattr(examine, "MOST_SECONDS", total / 2)
    first, calls = told(model, x)
    assert 0.4 * total < calls[0][2] <= total / 2
    measured = [layer for layer in first.layers if layer.singular is not None]
    weights = [parameter for parameter in first.parameters if parameter.spectral is not None]
    assert 5 < len(measured) < len(everything.layers)
    assert 5 < len(weights) < 30
    assert len(first.sampled) == 2
    assert f"those of {len(measured)} of 60, at equal distances from the first to the last" in first.sampled[0]
    assert f"(Z802) are those of {len(weights)} of 30, at equal distances" in first.sampled[1]
    for remark in first.sampled:
        assert remark.split(":")[0] in " ".join(str(first).split())
    # the mean squares are of all layers, so that Z801 says the same
    jacobian = [[f for f in report.findings if f.rule.id == "Z801"] for report in (everything, first)]
    assert [len(found) for found in jacobian] == [1, 1]
    assert jacobian[0][0].message.split(" multiply")[0] == jacobian[1][0].message.split(" multiply")[0]
    again, _ = told(model, x)
    assert [p.spectral for p in again.parameters] == [p.spectral for p in first.parameters]
    assert [layer.singular for layer in again.layers] == [layer.singular for layer in first.layers]


def test_blocks_cost_what_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a deeper model, the estimate is larger by as much as there is more of it."""
    totals = [told(LanguageModel(depth=depth), tokens())[1][0][2] for depth in (2, 4, 6)]
    assert totals[2] - totals[1] == pytest.approx(totals[1] - totals[0], rel=0.01)
    monkeypatch.setattr(effort, "_CALL", 0.0)
    wide = [told(Mlp(width, width, width), vectors(width))[1][0][2] for width in (64, 128)]
    assert 2 < wide[1] / wide[0] < 9


def test_progress_must_be_a_function() -> None:
    with pytest.raises(SpecError, match="progress must be a function"):
        check(nn.Linear(3, 3), torch.randn(4, 3), progress=3)  # type: ignore[arg-type]
