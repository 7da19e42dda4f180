"""Output of the command line: texts for people and JSON on stdout, errors and progress bars on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console

from zeta.base.escaping import visible_lines
from zeta.base.progress import Tell, bar
from zeta.base.reading import json_text
from zeta.errors import UsageError

_STDOUT: Final = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_STDERR: Final = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print text for people, on stdout."""
    _print(visible_lines(text))


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
    say_document(json_text(data))


def say_document(text: str) -> None:
    """Print JSON text in ASCII. JSON escapes every unprintable character except DEL, which is escaped here."""
    _print(text.replace("\x7f", "\\u007f"))


def _print(text: str) -> None:
    try:
        _STDOUT.print(text)
    except BrokenPipeError:  # whoever reads the output has ended, as head does
        raise
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # otherwise Python fails again when it flushes the rest at its end
        raise UsageError(f"the output cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def bytes_bar(quiet: bool) -> Iterator[Tell | None]:
    """A progress bar of bytes on stderr, if that is a terminal."""
    with contextlib.nullcontext() if quiet else bar("B", _STDERR) as tell:
        yield tell


@contextlib.contextmanager
def time_bar() -> Iterator[Tell]:
    """Print the estimated time of something on stderr; with a progress bar, if that is a terminal."""
    announced = False
    with bar("s", _STDERR) as tell:

        def show(what: str, done: float, total: float) -> None:
            nonlocal announced
            if not announced:
                announced = True
                complain(f"zeta: note: {what}: about {total:.0f} s")
            if tell is not None:
                tell(what, done, total)

        yield show
