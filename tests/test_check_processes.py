"""A model that is sharded over real processes is checked as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_sharded_processes import IGNORED, ROOT


@pytest.mark.parametrize(
    ("module", "ranks"), [("tests.check_ranks", 2), ("tests.check_fsdp_ranks", 2), ("tests.check_fsdp_ranks", 4)]
)
def test_several_processes_find_what_one_finds(tmp_path: Path, module: str, ranks: int) -> None:
    command = [sys.executable, "-W", "error", "-W", IGNORED, "-m", module]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(ranks)],
            cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(outputs)
