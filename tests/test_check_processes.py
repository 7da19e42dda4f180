"""A model that is sharded over real processes is checked as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_sharded_processes import IGNORED, ROOT


@pytest.mark.parametrize("module", ["tests.check_ranks", "tests.check_fsdp_ranks"])
def test_two_processes_find_what_one_finds(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-W", "error", "-W", IGNORED, "-m", module]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
