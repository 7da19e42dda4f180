"""Real processes: the same bits at any world size, however sharded, without a collective call."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: torch's own import of its compiler warns about torch itself
IGNORED = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"


@pytest.mark.parametrize("world", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3)), 4])
def test_all_ways_to_shard_give_the_same_bits(world: int, tmp_path: Path) -> None:
    """The last process is killed at the end, and the others finish all the same."""
    command = [sys.executable, "-W", "error", "-W", IGNORED, "-m", "tests.sharded_ranks"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(tmp_path / "store")],
            cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0] * (world - 1) + [-signal.SIGKILL], "\n".join(outputs)


@pytest.mark.slow
def test_the_example_has_the_same_loss_on_any_number_of_processes() -> None:
    losses = set()
    for world in (1, 4):
        done = subprocess.run(
            [
                Path(sys.executable).parent / "torchrun",
                "--standalone",
                f"--nproc-per-node={world}",
                "examples/fsdp_tp.py",
            ],
            cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
        losses.add(re.findall(r"loss (\d+\.\d{4})", done.stdout)[0])
    assert len(losses) == 1
