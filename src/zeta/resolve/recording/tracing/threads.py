"""Threads that a constructor starts: nothing that is done in them is recorded, which is said."""

from __future__ import annotations

import threading
from typing import Final

from zeta.base.process.exchange import Exchanged
from zeta.resolve.recording.active import ACTIVE
from zeta.resolve.recording.sources import source_here


def started(thread: threading.Thread) -> None:
    """Start a thread, and note the line where the recording thread does so."""
    recorder = ACTIVE.recorder
    if recorder is not None:
        recorder.threads.append(source_here())
    THREADS.originals["start"](thread)


# looked up in Python's module, where this code runs, so zeta is imported inside
def _code_of_start(self):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.threads import started

    return started(self)


#: held while this thread, or another, records
THREADS: Final = Exchanged({"start": threading.Thread.start}, {"start": _code_of_start.__code__})
