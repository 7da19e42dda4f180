"""Detect threads that a constructor starts: operations in them are not recorded, and a notice says so.

The code of ``Thread.start`` is replaced, because it may be called through any name and has no hook. Needed as long as a
recording covers one thread only.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from zeta.base.process.exchange import Exchanged
from zeta.resolve.recording.active import ACTIVE
from zeta.resolve.recording.sources import source_here


def started(thread: threading.Thread, *args: Any, **kwargs: Any) -> None:
    """Start a thread; if the calling thread is recording, also note the line."""
    recorder = ACTIVE.recorder
    if recorder is not None:
        recorder.threads.append(source_here())
    THREADS.originals["start"](thread, *args, **kwargs)


# this code runs with the globals of the threading module, so it must import zeta's names itself
def _code_of_start(self, *args, **kwargs):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.threads import started

    return started(self, *args, **kwargs)


#: entered while any thread records
THREADS: Final = Exchanged({"start": threading.Thread.start}, {"start": _code_of_start.__code__})
