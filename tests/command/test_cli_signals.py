"""Ctrl-C and SIGTERM: a clean end, nothing half-written, and the exit code that a shell expects."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# what a shell starts in the background, as these tests, ignores SIGINT
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from zeta.command.cli import main
sys.argv = ["zeta", *sys.argv[1:]]
main()
"""
NET = """
from torch import nn
def net(): return nn.Sequential(*(nn.Linear(4096, 4096) for _ in range({layers})))
def batch():
    import time
    open("started", "w").close()
    time.sleep(600)
"""


def started(here: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def when(running: subprocess.Popen[str], path: Path) -> None:
    """Wait until a file is there."""
    for _ in range(6000):
        if path.exists():
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    raise AssertionError("too slow")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_while_workers_write(number: signal.Signals, code: int, word: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET.format(layers=60))
    running = started(tmp_path, "init", "nets.py:net", "--recipe", "torch", "--out", "out", "--no-check")
    try:
        when(running, tmp_path / "out" / ".zeta-partial")
        running.send_signal(number)
        _, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == code, errors
    assert errors.startswith(f"zeta: {word}; ")
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "zeta.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_while_a_check_runs(number: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET.format(layers=1))
    running = started(tmp_path, "check", "nets.py:net", "--recipe", "torch", "--batch", "nets.py:batch")
    try:
        when(running, tmp_path / "started")
        running.send_signal(number)
        _, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == code, errors
    assert "nothing was left half-written" in errors
    assert "Traceback" not in errors
