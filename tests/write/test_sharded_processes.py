"""Real processes: the same bits at any world size, however sharded, without a collective call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.processes import run


@pytest.mark.parametrize("world", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3)), 4])
def test_all_ways_to_shard_give_the_same_bits(world: int, tmp_path: Path) -> None:
    """The last process is killed at the end, and the others finish all the same."""
    run("tests.helpers.sharded_ranks", world, tmp_path, dying=[world - 1])


@pytest.mark.slow
def test_the_example_has_the_same_loss_on_any_number_of_processes(tmp_path: Path) -> None:
    losses = set()
    for world in (1, 4):
        outputs = run("tests.helpers.example_ranks", world, tmp_path / str(world), timeout=200)
        losses.add(re.findall(r"loss (\d+\.\d{4})", outputs[0])[0])
    assert len(losses) == 1
