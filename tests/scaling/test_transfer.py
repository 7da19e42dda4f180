"""The example of transfer: its runs are what it says, and its table has the best rates."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
import torch

from examples import transfer
from examples.transfer import Curve, Run, curves, page, runs, same_at_base, table, trained


def run(rate: float, seed: int = 0, size: int = 128, scheme: str = "mup", net: str = "mlp") -> Run:
    return Run(net=net, axis="width", scheme=scheme, size=size, seed=seed, rate=rate)


def test_the_table_has_the_best_rate_of_each_size_and_by_how_much_it_moves() -> None:
    losses = {run(0.25): 2.0, run(0.25, 1): 1.0, run(0.5): 1.0, run(0.5, 1): 1.5, run(1.0): math.inf, run(1.0, 1): 0.1}
    losses |= {run(0.25, size=256): 0.5, run(0.5, size=256): 3.0, run(1.0, size=256): 4.0, run(0.5, size=512): 1.0}
    found = curves(list(losses), losses)
    assert found == {
        ("mlp", "width", "mup"): {
            128: Curve({0.25: 1.5, 0.5: 1.25, 1.0: math.inf}, 2),
            256: Curve({0.25: 0.5, 0.5: 3.0, 1.0: 4.0}, 1),
        }
    }
    assert table(found).splitlines() == [
        "| mlp, width: 1 to 2 seeds | 128 | 256 | moves |",
        "|---|---|---|---|",
        "| mup | 2^-1 (1.250) | at most 2^-2 (0.500) | at least 1 |",
    ]
    assert table(found) in page(found)


def test_all_schemes_share_the_runs_of_the_base() -> None:
    wanted = runs(["mlp", "gpt"], ["width", "depth"], lambda axis: (transfer.BASE[axis],), 2)
    rates = len(transfer.NETS["mlp"].rates) + len(transfer.NETS["gpt"].rates)
    assert len(wanted) == 2 * (3 + 2) * rates
    assert len({*map(same_at_base, wanted)}) == 2 * rates
    larger = run(0.25, size=128)
    assert same_at_base(larger) is larger


@pytest.mark.parametrize("net", ["mlp", "gpt"])
def test_the_data_are_the_same_every_time_and_can_be_learnt(net: str) -> None:
    (x, y), (again, _) = (next(transfer.NETS[net].data(seed)) for seed in (0, 0))
    assert torch.equal(x, again)
    other, _ = next(transfer.NETS[net].data(1))
    assert not torch.equal(x, other)
    assert int(y.max()) < (10 if net == "mlp" else 128)
    if net == "gpt":
        assert torch.equal(x[:, 1:], y[:, :-1])


def test_a_rate_that_is_too_large_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(run(1e6)) == math.inf
    first = islice(transfer.classes(0), 3)
    assert len({tuple(y.tolist()) for _, y in first}) == 3
    assert trained(run(2.0**-8)) < 1.5


@pytest.mark.slow
def test_the_quick_sweep_writes_all_files_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sys.argv", ["transfer.py", "--quick", "--net", "mlp", "--out", str(tmp_path)])
    transfer.main()
    assert {path.name for path in tmp_path.iterdir()} == {"transfer.json", "transfer.md", "transfer.svg"}
    before = (tmp_path / "transfer.json").stat().st_mtime_ns
    transfer.main()
    assert (tmp_path / "transfer.json").stat().st_mtime_ns == before
