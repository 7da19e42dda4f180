"""Give back what a block has changed, even if Ctrl-C is pressed in the middle.

Python raises ``KeyboardInterrupt`` between any two steps of its main thread: in a block, and just as well while the
block's changes are taken back. A block that must not leave anything behind looks like this::

    with undone_on_error(restore), undone(restore):
        change()
        ...  # what the change is for

Two of them, as an interrupt may come after the block and before the inner one has begun; the outer one is there for it.
Everything that ``restore`` needs is found before ``with``. It looks at what is still changed, and not at what was noted
of the changes, so that it is right at each point, and may be called again after it was interrupted or has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: after so many interrupts it gives up: a person does not press Ctrl-C so often
_PATIENCE: Final = 1000


def insist(restore: Callable[[], object]) -> None:
    """Call a function until it ends without an interrupt, and raise the last interrupt then.

    An ``Exception`` is raised at once.
    """
    stopped: BaseException | None = None
    for _ in range(_PATIENCE):
        try:
            restore()
            break
        except Exception as error:
            raise error from (error.__cause__ or stopped)
        except BaseException as error:
            stopped = error
    if stopped is not None:
        raise stopped


class undone:  # noqa: N801 (as contextlib names its own)
    """A block after which a function is called, to its end (``insist``)."""

    def __init__(self, restore: Callable[[], object]) -> None:
        self._restore = restore

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        insist(self._restore)


class undone_on_error(undone):  # noqa: N801
    """A block after which a function is called if the block has raised anything."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            insist(self._restore)
