"""Python's search for cyclic garbage, put off while objects that live on are made by the ten thousand."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Let no search run in the block, which makes no cycles.

    A search that new objects set off goes over all objects of the process, of which torch alone has 300,000: it takes
    longer than to check and measure ten thousand parameters. One that is off already stays off.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
