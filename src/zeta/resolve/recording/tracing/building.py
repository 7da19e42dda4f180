"""Which modules a constructor builds, apart from those that it was given."""

from __future__ import annotations

import weakref
from typing import Any, Final

from torch import nn

from zeta.base.process.exchange import Exchanged
from zeta.resolve.recording.active import ACTIVE

#: modules made while a recording ran in another thread, which may be one that the constructor waits for
IN_OTHER_THREADS: Final[weakref.WeakSet[nn.Module]] = weakref.WeakSet()


def made(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Do what the method ``name`` of ``nn.Module`` does, and note the module."""
    BUILDING.originals[name](module, *args, **kwargs)
    recorder = ACTIVE.recorder
    if recorder is not None:
        recorder.built.add(id(module))
    else:
        IN_OTHER_THREADS.add(module)


class _Methods:
    # Looked up in torch's module, where this code runs, so zeta is imported inside. torch's __init__ has a variable
    # __class__ of its class, so the code in its place needs one.
    def init(self, *args: Any, **kwargs: Any) -> None:
        __class__  # type: ignore[name-defined]  # noqa: B018
        from zeta.resolve.recording.tracing.building import made

        made("__init__", self, args, kwargs)  # type: ignore[arg-type]

    def set_state(self, state: Any) -> None:
        from zeta.resolve.recording.tracing.building import made

        made("__setstate__", self, (state,), {})  # type: ignore[arg-type]


#: held while this thread, or another, records; copies and unpickled modules are made by ``__setstate__``
BUILDING: Final = Exchanged(
    {"__init__": nn.Module.__init__, "__setstate__": nn.Module.__setstate__},
    {"__init__": _Methods.init.__code__, "__setstate__": _Methods.set_state.__code__},
)
