"""Which modules a constructor builds, apart from those that it was given."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from zeta.base.process.exchange import Exchanged
from zeta.resolve.recording.active import ACTIVE

#: for each recording that runs, the ``id`` of the dictionary of each module made meanwhile in a thread that does not
#: record; the constructor may wait for that thread
ELSEWHERE: Final[list[set[int]]] = []


def made(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Do what the method ``name`` of ``nn.Module`` does, and note the module's dictionary, which holds its tables.

    A dictionary that has tables before ``__setstate__`` was made already, here or outside.
    """
    is_new = name == "__init__" or "_parameters" not in vars(module)
    BUILDING.originals[name](module, *args, **kwargs)
    if not is_new:
        return
    recorder = ACTIVE.recorder
    if recorder is not None:
        recorder.built.add(id(vars(module)))
    else:
        for found in tuple(ELSEWHERE):
            found.add(id(vars(module)))


# This code runs with the globals of torch's module, so it must import zeta's names itself.
def _code_of_init(self, *args, **kwargs):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.building import made

    made("__init__", self, args, kwargs)


def _code_of_set_state(self, *args, **kwargs):  # type: ignore[no-untyped-def]
    from zeta.resolve.recording.tracing.building import made

    made("__setstate__", self, args, kwargs)


#: held while this thread, or another, records; copies and unpickled modules are made by ``__setstate__``
BUILDING: Final = Exchanged(
    {"__init__": nn.Module.__init__, "__setstate__": nn.Module.__setstate__},
    {"__init__": _code_of_init.__code__, "__setstate__": _code_of_set_state.__code__},
)
