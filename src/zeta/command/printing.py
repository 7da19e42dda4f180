"""Output of the command line: texts for people and JSON on stdout, errors and progress bars on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from rich.console import Console

from zeta.base.escaping import visible, visible_lines

_STDOUT: Final = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_STDERR: Final = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print text for people, on stdout."""
    _STDOUT.print(visible_lines(text))


def complain(text: str) -> None:
    """Print an error or a notice on stderr."""
    _STDERR.print(visible_lines(text))


def stdout_for_json(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """Send what the model's own code prints to stderr, if stdout is for one JSON document."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def width() -> int | None:
    """The width of the terminal; ``None`` if the output does not go to a terminal."""
    return _STDOUT.width if _STDOUT.is_terminal else None


def say_json(data: Any) -> None:
    """Print data as one JSON document."""
    from zeta.base.reading import json_text  # the import takes a tenth of the time of the help

    say_document(json_text(data))


def say_document(text: str) -> None:
    """Print JSON text in ASCII. JSON escapes every unprintable character except DEL, which is escaped here."""
    _STDOUT.print(text.replace("\x7f", "\\u007f"))


@contextlib.contextmanager
def bytes_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar of bytes on stderr, if that is a terminal."""
    if quiet or not _STDERR.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_STDERR, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=visible(name), completed=done, total=total)


@contextlib.contextmanager
def time_bar() -> Iterator[Callable[[str, float, float], None]]:
    """Print the estimated time of something on stderr; with a progress bar, if that is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]:.0f} s"))
    with Progress(*columns, console=_STDERR, transient=True, disable=not _STDERR.is_terminal) as bar:
        task = bar.add_task("", total=None, left=0.0)

        def show(what: str, done: float, total: float) -> None:
            if not done and bar.tasks[0].total is None:
                _STDERR.print(f"zeta: note: {what}: about {total:.0f} s")
            bar.update(task, description=visible(what), completed=done, total=total, left=total - done)

        yield show
