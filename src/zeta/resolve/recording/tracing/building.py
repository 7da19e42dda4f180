"""Which modules a constructor builds, apart from those that it was given."""

from __future__ import annotations

import weakref
from typing import Any, Final

from torch import nn

from zeta.base.process.exchange import Exchanged
from zeta.resolve.recording.active import ACTIVE


def initialized(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Do what ``nn.Module.__init__`` does, and note the module."""
    BUILDING.originals["__init__"](module, *args, **kwargs)
    recorder = ACTIVE.recorder
    if recorder is not None:
        recorder.built.add(id(module))
    else:
        IN_OTHER_THREADS.add(module)


#: modules made while a recording ran in another thread, which may be one that the constructor waits for
IN_OTHER_THREADS: Final[weakref.WeakSet[nn.Module]] = weakref.WeakSet()


class _Holder:
    # in a class, and with a use of __class__: torch's function has that variable of its class, so this code needs it.
    # Looked up in torch's module, where this code runs, so zeta is imported inside.
    def init(self, *args: Any, **kwargs: Any) -> None:
        __class__  # type: ignore[name-defined]  # noqa: B018
        from zeta.resolve.recording.tracing.building import initialized

        initialized(self, args, kwargs)  # type: ignore[arg-type]


#: held while this thread, or another, records
BUILDING: Final = Exchanged({"__init__": nn.Module.__init__}, {"__init__": _Holder.init.__code__})
