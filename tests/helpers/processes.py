"""Tests of several real processes: start them, let each do its part, and say what went wrong on which.

Gloo's threads now and then abort a process that ends as Python does ("terminate called without an active exception",
1 of 30 runs of four processes). So each process writes its result to a file, meets the others at a barrier, so that
nobody's last collective call loses its peer, and leaves by ``os._exit``, past all destructors. What counts is the
result that was written.

A module of such a test has ``main(rank, ranks, folder)`` and calls :func:`join`.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

import torch
import torch.distributed as dist

ROOT: Final = Path(__file__).parents[2]
#: torch's own import of its compiler warns about torch itself
_IGNORED: Final = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
#: seconds that the others get to end when one has failed, so that they can say what they saw of it
_PATIENCE: Final = 15


def run(module: str, ranks: int, folder: Path, *, dying: Collection[int] = (), timeout: float = 150) -> list[str]:
    """Run ``module.main`` in so many processes, and return what each has printed.

    Fails with the traceback and the output of every process that did not end well, or in time. Those in ``dying`` are
    to be killed by the test, and to write no result.
    """
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-W", "error", "-W", _IGNORED, "-m", "tests.helpers.processes", module, str(folder)]
    outputs = [folder / f"output.{rank}" for rank in range(ranks)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank, output in enumerate(outputs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with output.open("wb") as file:
                started = subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | common | own, stdout=file, stderr=subprocess.STDOUT
                )
            processes.append(started)
        _wait(processes, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = [_result(folder, rank) for rank in range(ranks)]
    texts = [output.read_text(errors="replace") for output in outputs]
    expected = ["" if rank in dying else "done" for rank in range(ranks)]
    assert results == expected, "\n".join(
        f"-- rank {rank}: {result or 'no result'}, exit code {process.returncode}\n{text}"
        for rank, (result, process, text) in enumerate(zip(results, processes, texts, strict=True))
    )
    return texts


def _wait(processes: list[subprocess.Popen[bytes]], end: float) -> None:
    """Until all have ended, or one has failed and the others had time to notice."""
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() not in (None, 0, -9) for process in processes):
            end = min(end, time.monotonic() + _PATIENCE)
        time.sleep(0.05)


def _result(folder: Path, rank: int) -> str:
    path = folder / f"result.{rank}"
    return path.read_text() if path.exists() else ""


def join(rank: int, ranks: int, folder: Path, *, seconds: int = 60) -> None:
    """Make the default process group; no collective call waits for longer."""
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store, timeout=timedelta(seconds=seconds))


def leave(folder: Path, rank: int, *, meet: bool = True) -> NoReturn:
    """Write the result of a process that did its part, and end it; without ``meet`` whatever became of the others."""
    (folder / f"result.{rank}").write_text("done")
    if meet and dist.is_initialized():
        dist.barrier()
    _end(0)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main(module: str, folder: Path) -> NoReturn:
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    try:
        importlib.import_module(module).main(rank, ranks, folder)
        leave(folder, rank)
    except BaseException:
        traceback.print_exc()
        _end(1)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
