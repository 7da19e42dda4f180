"""Threads that cannot start or die without a word: an error, what is written stays, and nobody waits forever."""

from __future__ import annotations

import _thread
import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

import pytest
import torch

from tests.write.checkpoint.test_checkpoint import contents
from tests.write.checkpoint.test_checkpoint_resume import PARTIAL, write
from tests.write.checkpoint.test_files_writing import no_thread_stays, uncounted
from zeta.errors import CheckpointError
from zeta.write.checkpoint.crew import Crew

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
WANT = "a thread could not be started, or has died"


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """A wait without end is an error after a minute; no thread and no setting stays."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits forever")

    threads, before = torch.get_num_threads(), signal.signal(signal.SIGALRM, late)
    torch.set_num_threads(3)
    others = uncounted()
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    torch.set_num_threads(threads)
    assert no_thread_stays(others)


def test_jobs_are_done_and_their_errors_come_out() -> None:
    crew, error = Crew(2), TimeoutError("the job's own")

    def fails() -> int:
        raise error

    futures = [crew.submit(lambda i=i: i * i) for i in range(10)]
    with pytest.raises(TimeoutError) as caught:
        crew.result(crew.submit(fails))
    assert caught.value is error
    assert [crew.result(future) for future in futures] == [i * i for i in range(10)]
    crew.leave()


def test_leaving_waits_for_what_is_in_work() -> None:
    crew, go, done = Crew(2), threading.Event(), []
    for number in range(5):
        crew.submit(lambda number=number: (go.wait(), done.append(number)))
    threading.Timer(0.05, go.set).start()
    crew.leave()
    assert sorted(done) == [0, 1, 2, 3, 4]


Spoil = Callable[[pytest.MonkeyPatch, int], None]


def nth(number: int, spoilt: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """The original, but for one call, or for all with -1."""
    calls = iter(range(10**9))
    return lambda *args, **options: (spoilt if number in (next(calls), -1) else original)(*args, **options)


def raising(error: BaseException) -> Callable[..., Any]:
    def raises(*_: object, **__: object) -> Any:
        raise error

    return raises


def no_thread(patch: pytest.MonkeyPatch, number: int) -> None:
    error = RuntimeError("can't start new thread")
    patch.setattr(_thread, "start_new_thread", nth(number, raising(error), _thread.start_new_thread))


def no_memory_to_start(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(_thread, "start_new_thread", nth(number, raising(MemoryError()), _thread.start_new_thread))


def dies_at_once(patch: pytest.MonkeyPatch, number: int) -> None:
    """Before the first line of what it was to run."""
    original = _thread.start_new_thread
    dying = lambda function, arguments: original(lambda *_: None, arguments)  # noqa: E731
    patch.setattr(_thread, "start_new_thread", nth(number, dying, original))


def dies_when_it_begins(patch: pytest.MonkeyPatch, number: int) -> None:
    begin = nth(number, raising(MemoryError()), lambda: None)
    patch.setattr("zeta.write.checkpoint.writing.stay_on_this_thread", begin)


def dies_with_a_result(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(Future, "set_result", nth(number, raising(MemoryError()), Future.set_result))


def dies_when_it_looks_for_work(patch: pytest.MonkeyPatch, number: int) -> None:
    class Queue:
        def __init__(self) -> None:
            self.queue: SimpleQueue[Any] = SimpleQueue()
            self.put = self.queue.put
            self.get = nth(number, raising(MemoryError()), self.queue.get)

    patch.setattr("zeta.write.checkpoint.crew.SimpleQueue", Queue)


SPOILT = (
    no_thread,
    no_memory_to_start,
    dies_at_once,
    dies_when_it_begins,
    dies_with_a_result,
    dies_when_it_looks_for_work,
)


@pytest.mark.parametrize("number", range(-1, 4))
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_save_ends_with_an_error_and_goes_on_later(spoil: Spoil, number: int, tmp_path: Path) -> None:
    write(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, number)
        try:
            write(tmp_path / "out")
        except CheckpointError as error:
            assert WANT in str(error)  # noqa: PT017
            assert set(contents(tmp_path / "out")) <= {f"{PARTIAL}/{name}" for name in NAMES}
        else:
            assert number >= 0, "the threads that were left have done it"
            assert spoil not in (no_thread, no_memory_to_start)
            assert contents(tmp_path / "out") == contents(tmp_path / "whole")
            return
    write(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


NAMES = {"request.json", *(f"model-0000{i}-of-00006.safetensors.part" for i in range(1, 7))}


def test_a_crew_without_threads() -> None:
    crew = Crew(2)
    with pytest.MonkeyPatch.context() as patch:
        no_thread(patch, 0)
        with pytest.raises(OSError, match=WANT) as caught:
            crew.submit(lambda: 1)
        assert caught.value.errno == errno.ENOMEM
        assert crew.result(crew.submit(lambda: 2)) == 2
    crew.leave()


WITHOUT_MEMORY = """
import resource, sys, torch
from pathlib import Path
from tests.write.checkpoint.test_checkpoint_resume import write
from zeta.errors import CheckpointError

torch.set_num_threads(8)
write(Path(sys.argv[1]) / "first")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20, -1))
try:
    write(Path(sys.argv[1]) / "out")
except (CheckpointError, MemoryError, RuntimeError) as error:
    print("error", error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how much memory is used is read there")
@pytest.mark.parametrize("room", [0, 3])
def test_a_process_without_memory_ends(room: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path), str(room)]
    done = subprocess.run(command, check=False, timeout=50, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        assert contents(tmp_path / "out") == contents(tmp_path / "first")
        return
    write(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "first")


def test_an_interrupt_while_a_thread_starts_does_not_make_leave_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    start = _thread.start_new_thread

    def interrupted(*given: Any) -> None:
        start(*given)
        del given  # the traceback holds this frame
        raise KeyboardInterrupt

    crew = Crew(2)
    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", interrupted)
        with pytest.raises(KeyboardInterrupt) as found:
            crew.submit(lambda: 1)
    waiting = threading.Thread(target=crew.leave, daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()
    assert found.traceback  # alive until here
