"""A model that is sharded over real processes is checked as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.processes import run


@pytest.mark.parametrize(
    ("module", "ranks"),
    [
        ("tests.helpers.check_ranks", 2),
        ("tests.helpers.check_fsdp_ranks", 2),
        pytest.param("tests.helpers.check_fsdp_ranks", 4, marks=pytest.mark.slow),
    ],
)
def test_several_processes_find_what_one_finds(tmp_path: Path, module: str, ranks: int) -> None:
    run(module, ranks, tmp_path)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_all_processes_end_where_one_raises(tmp_path: Path, ranks: int) -> None:
    run("tests.helpers.check_failing_ranks", ranks, tmp_path)
