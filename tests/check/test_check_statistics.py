"""What is measured in few passes over a tensor is what its definition says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import Mlp, vectors
from zeta.check import check
from zeta.check.measure.duplicates import hashes
from zeta.check.watch import probe
from zeta.check.watch.moments import measures_of, pending


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5])  # between samples, over that between units
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_variance_between_samples(unit: int, spread: float, mean: float) -> None:
    shape = [1, 1, 1]
    shape[unit] = 24
    x = mean + torch.randn(shape, generator=generator()) + spread * torch.randn(8, 24, 24, generator=generator(1))
    x[0, :, :3] = 0.0
    found = measures_of([pending(x, unit)])
    assert found is not None
    over = [dim for dim in range(3) if dim != unit]
    wide = x.double()
    assert found.signal == pytest.approx(float(wide.var(dim=over, correction=0).mean()), rel=2e-3)
    assert found.stats.std == pytest.approx(float(wide.std(correction=0)), rel=1e-5)
    assert found.stats.mean == pytest.approx(float(wide.mean()), rel=1e-5, abs=1e-7)
    assert (found.stats.low, found.stats.high) == (float(x.min()), float(x.max()))
    assert found.stats.zeros == int((x == 0).sum()) / x.numel()


def test_samples_that_are_alike_have_no_variance() -> None:
    x = torch.randn(24, generator=generator()).expand(64, 24)
    found = measures_of([pending(x, 1)])
    assert found is not None
    assert found.signal == 0.0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
def test_the_cross_entropy_and_that_at_random(masked: bool, ignored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ROWS", 100)  # a few rows at a time

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 12)

        def forward(self, x: Tensor) -> Tensor:
            logits = self.fc(x)
            return logits.masked_fill(torch.arange(12) >= 10, -torch.inf) if masked else logits

    torch.manual_seed(0)
    model, x = Classifier(), vectors(8, 50)
    labels = torch.arange(50) % 10
    if ignored:
        labels[::3] = -100
    report = check(model, (x, labels))
    logits = model(x).detach()[labels >= 0].double()
    kept = logits[:, :10] if masked else logits
    assert report.loss is not None
    assert report.loss.value == pytest.approx(float(F.cross_entropy(logits, labels[labels >= 0])), rel=1e-6)
    assert report.loss.expected == pytest.approx(float((logits.logsumexp(1) - kept.mean(1)).mean()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("down", [False, True])
def test_equal_rows_have_equal_hashes(dtype: torch.dtype, width: int, down: bool) -> None:
    rows = torch.randn(300, width, generator=generator()).to(dtype)
    rows[7], rows[8] = rows[200], rows[100]
    rows[8, 3], rows[100, 3] = 0.0, -0.0
    rows = rows.T.contiguous().T if down else rows
    whole, cut = hashes(rows), hashes(rows[:, :4]) + hashes(rows[:, 4:], 4)
    for found in (whole, cut):
        assert found[7] == found[200]
        assert found[8] == found[100]
        assert len(found.unique()) == 298
    assert torch.equal(hashes(rows[:50], 0, some_zero=False).diff() == 0, whole[:50].diff() == 0)


@pytest.mark.parametrize(
    ("rules", "calls"), [((), 3), (("Z905", "Z907", "Z908"), 3), (("Z905", "Z907", "Z908", "Z909"), 1)]
)
def test_what_is_suppressed_everywhere_is_not_run(rules: Any, calls: int) -> None:
    torch.manual_seed(0)
    model = Mlp(8, 16, 4)
    ran: list[int] = []
    model.register_forward_hook(lambda *_: ran.append(1))
    report = check(model, vectors(8), suppress=rules)
    assert len(ran) == calls
    left_out = {rule for rule, reason in report.skipped if reason == "it is suppressed"}
    assert left_out == (set(rules) if calls == 1 else set())
