"""What a constructor does that a recording does not see or changes, and the notices that say so.

Operations in a thread that it starts are not recorded. An error of the recording that it catches would not have come
with real tensors. What it draws from other generators than torch's is kept as it came out.

The code of ``Thread.start`` is replaced, because it may be called through any name and has no hook. Needed as long as a
recording covers one thread only.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any, Final

from zeta.base.process.exchange import Exchanged
from zeta.errors import notice
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
    from zeta.resolve.recording.tracing.unseen import started

    return started(self, *args, **kwargs)


#: entered while any thread records
THREADS: Final = Exchanged({"start": threading.Thread.start}, {"start": _code_of_start.__code__})


def notice_unseen(threads: list[Any], refused: Collection[str], drawn: list[str]) -> None:
    """Give a notice of each: lines that started threads, errors that were caught, generators that were drawn from."""
    if threads:
        notice(
            f"the constructor started a thread ({threads[0]}): what is done there is not recorded, and what "
            "it made is kept as it came out, whatever the seed. Build the model in one thread, or give those parameters"
            " a rule"
        )
    if refused:
        notice(
            "the constructor caught an error that only a recording raises, and went on, so that its values may not be "
            f"those of a real run: {next(iter(refused))}. Let it do without what failed, or give those parameters a "
            "rule"
        )
    if drawn:
        notice(
            f"the constructor drew random numbers from {' and '.join(drawn)}: what it made of them is kept as it "
            "came out, whatever the seed. Draw them with torch, or give those parameters a rule"
        )
