"""The threads that write: what they are given is there in the end, in any order, and an error comes out."""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zeta.write.checkpoint import Writer

Job = Callable[[], tuple[Tensor, tuple[int, ...]]]


def given(*numbers: int, after: float = 0.0) -> Job:
    def job() -> tuple[Tensor, tuple[int, ...]]:
        time.sleep(after)
        return torch.tensor(numbers, dtype=torch.uint8), numbers

    return job


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def ignore(_: object) -> None:
    pass


def write_files(folder: Path, jobs: Sequence[Job], names: str = "abcde") -> None:
    with Writer() as writer:
        for name in names:
            writer.begin(opened(folder / name), b"")
            for i, job in enumerate(jobs):
                writer.write(job, [i], ignore)
            writer.finish(len(jobs))


def uncounted() -> int:
    """The threads that Python's own module does not count, such as those of a crew, and of libraries."""
    return _thread._count() + 1 - threading.active_count()


def no_thread_stays(before: int) -> bool:
    """Whether no more such threads are left than there were."""
    end = time.monotonic() + 10  # the last steps of a thread come after its last job
    while uncounted() > before and time.monotonic() < end:
        time.sleep(0.01)
    return uncounted() <= before


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread and no open file stays behind, whatever happened."""
    before, others = torch.get_num_threads(), uncounted()
    files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    yield
    torch.set_num_threads(before)
    assert no_thread_stays(others)
    if files:
        assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_files_have_what_was_written_and_results_come_in_order(threads: int, tmp_path: Path) -> None:
    torch.set_num_threads(threads)
    told: list[tuple[int, ...]] = []
    with Writer() as writer:
        for name in "abcd":
            writer.begin(opened(tmp_path / name), b"<>")
            for i in range(6):  # the first are the slowest
                writer.write(given(i, i, after=0.01 * (6 - i)), [2 + 2 * i, 14 + 2 * i], told.append)
            writer.finish(26)
        assert writer.found == 0
    once = bytes(i // 2 for i in range(12))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys("abcd", b"<>" + once + once)
    assert told == [(i, i) for i in range(6)] * 4


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    torch.set_num_threads(3)
    together = threading.Barrier(3, timeout=30)

    def job() -> tuple[Tensor, None]:
        together.wait()
        return torch.zeros(1, dtype=torch.uint8), None

    with Writer() as writer:
        writer.begin(opened(tmp_path / "a"), b"")
        for i in range(3):
            writer.write(job, [i], ignore)
        writer.finish(3)


def test_few_jobs_wait(tmp_path: Path) -> None:
    """What is given waits in memory: at most one job for each thread, and one more."""
    torch.set_num_threads(2)
    told: list[tuple[int, ...]] = []
    with Writer() as writer:
        writer.begin(opened(tmp_path / "a"), b"")
        for i in range(20):
            writer.write(given(i), [i], told.append)
            assert len(told) >= i - 2
        writer.finish(20)


def test_what_is_there_already_is_found_and_what_differs_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"<>\1\2\0\4\5\6 and more")
    with Writer() as writer:
        writer.begin(opened(path), b"<>")
        for start in (1, 3, 5):
            writer.write(given(start, start + 1), [1 + start], ignore)
        writer.finish(8)
    assert path.read_bytes() == b"<>\1\2\3\4\5\6"
    assert writer.found == 6


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", range(6))
def test_an_error_in_a_job_comes_out(number: int, error: BaseException, tmp_path: Path) -> None:
    """Whether the file is being written, finished or waited for."""

    def fails() -> tuple[Tensor, tuple[int, ...]]:
        raise error

    with pytest.raises(type(error)) as caught:
        write_files(tmp_path, [fails if i == number else given(i) for i in range(6)])
    assert caught.value is error


@pytest.mark.parametrize("names", ["a", "abcdefgh"])
def test_an_error_of_the_disk_comes_out(names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fails(file: int) -> None:
        calls.append(file)
        raise OSError("the disk")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="the disk"):
        write_files(tmp_path, [given(1)], names)
    assert len(calls) < 8


class _Interrupting(deque[Any]):
    """Ctrl-C is pressed when the fsync of a file has just been handed to its thread."""

    def append(self, _: Any) -> None:
        raise KeyboardInterrupt


def test_a_file_is_closed_once_at_an_interrupt(tmp_path: Path) -> None:
    """A second close would be an error, or would close what another thread has opened meanwhile."""

    def write() -> None:
        with Writer() as writer:
            writer.begin(opened(tmp_path / "a"), b"a")
            writer._syncing = _Interrupting()
            writer.finish(1)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (tmp_path / "a").read_bytes() == b"a"
