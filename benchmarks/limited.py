"""Do a task for each of many names, each in a process with limits on time and memory; go on where a run stopped."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch

#: how much longer than its processor time a task may take, as other programs run too
_PATIENCE: Final = 20


class Named(Protocol):
    """The result of a task: a dataclass with the name that the task was for."""

    name: str


R = TypeVar("R", bound=Named)


def arguments(text: str | None, *, seconds: int = 60) -> argparse.ArgumentParser:
    """The arguments that all sweeps have."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seconds", type=int, default=seconds)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--json", type=Path)
    return parser


def quiet() -> None:
    """One thread, and no warnings of libraries, here and in what is forked."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def said(error: BaseException) -> str:
    """An error in one line, with the place where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"


def limited(task: Callable[[], R], failed: Callable[[str, str], R], *, seconds: int, gib: int) -> R:
    """Return the result of a task that runs in a forked process, without output.

    Args:
        task: The task.
        failed: Makes the result of a task that has none, from "raised" or "limits" and a reason.
        seconds: How much processor time the task may take.
        gib: How much memory it may hold in addition to that of this process, in GiB.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(task, seconds, gib << 30, there))
    process.start()
    there.close()
    result, why = None, f"more than {seconds} s or {gib} GiB"
    outcome = "limits"
    try:
        if here.poll(_PATIENCE * seconds):
            received = here.recv()
            if isinstance(received, str):
                outcome, why = "raised", received
            else:
                result = received
    except EOFError:
        pass
    process.kill()
    process.join()
    return failed(outcome, why) if result is None else result


def _child(task: Callable[[], Named], seconds: int, memory: int, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    most = int(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        pipe.send(task())
    except BaseException as error:
        pipe.send(said(error))


def swept(
    names: Iterable[str],
    task: Callable[[str, list[R]], R],
    shown: Callable[[R], str],
    read: Callable[[dict[str, Any]], R],
    file: Path | None,
) -> list[R]:
    """Return a result for each name, and those that a file of results has already.

    Args:
        names: The names, in order.
        task: Makes the result for a name, given all earlier ones.
        shown: One line of progress.
        read: Makes a result from its dictionary in JSON.
        file: Is read first if it exists, and written after each result; none: nothing is kept.
    """
    results = [read(one) for one in json.loads(file.read_text())] if file and file.exists() else []
    there = {one.name for one in results}
    for name in names:
        if name in there:
            continue
        results.append(task(name, results))
        print(shown(results[-1]), flush=True)
        if file:
            file.write_text(json.dumps([asdict(one) for one in results], indent=1))  # type: ignore[call-overload]
    return results
