"""The progress of long work: a bar in a terminal or a notebook, or a function of the caller.

A bar has a fixed width, whatever the names are: the share that is done, the speed, the time left, and last the name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.base.text import bytes_text, in_notebook
from zeta.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

#: called with the name of what was done last, what is done so far, and all there is to do
Tell = Callable[[str, Any, Any], None]
#: bytes, or estimated seconds
Unit = Literal["B", "s"]

# characters: of a name, of the bar, and of what is done
_NAME: Final = 36
_BAR: Final = 20
_AMOUNT: Final[dict[Unit, int]] = {"B": 20, "s": 11}


def check_progress(progress: object, unit: Unit = "B") -> None:
    """Raise ``SpecError`` for what is neither a function nor a yes or no."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        takes = "(name, bytes_done, bytes_total)" if unit == "B" else "(what, seconds_done, seconds_total)"
        raise SpecError(f"progress must be a function {takes}, or True for a bar, got {shown(progress)}")


class Done:
    """Adds up what is done."""

    def __init__(self, total: int, tell: Tell | None) -> None:
        self._total, self._tell, self._done = total, tell, 0

    def add(self, name: str, amount: int) -> None:
        """Report that more is done."""
        self._done += amount
        if self._tell is not None:
            self._tell(name, self._done, self._total)


@contextlib.contextmanager
def progress_of(progress: Tell | bool | None, unit: Unit = "B") -> Iterator[Tell | None]:
    """The function to call: the caller's, that of a bar for ``True``, or ``None``."""
    check_progress(progress, unit)
    if progress is None or isinstance(progress, bool):
        with bar(unit) if progress else contextlib.nullcontext() as tell:
            yield tell
    else:
        yield progress


@contextlib.contextmanager
def bar(unit: Unit = "B", console: Console | None = None) -> Iterator[Tell | None]:
    """The function that moves a bar on stderr; ``None`` if that is neither a terminal nor a notebook."""
    if console is None and in_notebook() and (made := _tqdm()) is not None:
        with _notebook_bar(made, unit) as tell:
            yield tell
        return
    if console is None:
        from rich.console import Console  # imported when something is shown

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        yield None
        return
    with _terminal_bar(console, unit) as tell:
        yield tell


@contextlib.contextmanager
def _terminal_bar(console: Console, unit: Unit) -> Iterator[Tell]:
    from rich import progress as parts
    from rich.table import Column

    def fixed(width: int) -> Column:
        return Column(width=width, no_wrap=True, justify="right")

    columns: list[parts.ProgressColumn] = [
        parts.BarColumn(_BAR),
        parts.TextColumn("{task.percentage:>3.0f}%", table_column=fixed(4)),
        parts.TextColumn("{task.fields[amount]}", table_column=fixed(_AMOUNT[unit])),
    ]
    if unit == "B":
        columns += [parts.TransferSpeedColumn(fixed(10)), parts.TimeRemainingColumn(table_column=fixed(7))]
    columns.append(parts.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)))
    taken = _BAR + 4 + _AMOUNT[unit] + (10 + 7 + 2 if unit == "B" else 0) + 3
    room = max(min(console.width - taken - 1, _NAME), 1)
    with parts.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, amount="")

        def tell(name: str, done: Any, total: Any) -> None:
            amount = f"{bytes_text(done)} of {bytes_text(total)}" if unit == "B" else f"{total - done:.0f} s left"
            shown.update(task, description=short(name, room), completed=done, total=total, amount=amount)

        yield tell


@contextlib.contextmanager
def _notebook_bar(made: Callable[..., Any], unit: Unit) -> Iterator[Tell]:
    whole = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s, {postfix}"
    shown = made(total=0, unit="B", unit_scale=True, leave=False, bar_format=None if unit == "B" else whole)

    def tell(name: str, done: Any, total: Any) -> None:
        shown.total = total
        shown.set_postfix_str(short(name), refresh=False)
        shown.update(done - shown.n)

    try:
        yield tell
    finally:
        shown.close()


def _tqdm() -> Callable[..., Any] | None:
    """Tqdm's bar for notebooks, or its bar of text if there are no widgets; ``None`` without tqdm."""
    try:
        from tqdm import notebook, tqdm
    except ImportError:
        return None
    has_widgets = getattr(notebook, "IProgress", None) is not None
    made: Callable[..., Any] = notebook.tqdm if has_widgets else tqdm
    return made


def short(name: str, width: int = _NAME) -> str:
    """A name in a fixed number of characters; the middle of a longer one is left out.

    >>> short("model.layers.31.mlp.experts.127.down_proj.weight")
    'model.layers.31.m…7.down_proj.weight'
    """
    name = visible(name)
    if len(name) > width:
        end = width // 2
        name = f"{name[: width - end - 1]}…{name[len(name) - end :]}"
    return f"{name:{width}}"
