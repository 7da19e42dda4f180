"""A notice where a loop draws the same values again: the same seed and names, for another layer or tensor."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from zeta.base.distributed import local
from zeta.base.text import shape_text
from zeta.errors import notice
from zeta.resolve.plans import Entry


class _Drawn(Struct, frozen=True, kw_only=True, eq=False):
    """What a call drew; ``told``: there was a notice about these calls.

    ``target`` identifies the module or the memory that was filled, without keeping it alive: it returns ``None`` once
    that is gone.
    """

    target: Callable[[], object]
    seed: int
    tensors: frozenset[tuple[str, tuple[int, ...]]]
    told: bool


class _Last(threading.local):
    drawn: _Drawn | None = None


_LAST: Final = _Last()


def note_repeated(filled: nn.Module | Tensor, seed: int, entries: Iterable[Entry]) -> None:
    """Remember a call that was given a seed and no name; warn if the last such call drew the same for another target.

    The same is: a random tensor of the same name and shape, with the same seed. The calls of each thread are compared
    with each other. One ``ZetaNotice`` is given for several repetitions in a row, and none where the other module or
    memory no longer exists.
    """
    drawn = [(entry.name, entry.shape) for entry in entries if entry.initializer.is_random]
    if not drawn:
        return
    tensors = frozenset(drawn)
    last, again = _LAST.drawn, ""
    target = _identity(filled)
    other = None if last is None or last.seed != seed else last.target()
    if last is not None and other is not None and other != target():
        again = next((f"{name} {shape_text(shape)}".lstrip() for name, shape in sorted(tensors & last.tensors)), "")
    _LAST.drawn = _Drawn(target=target, seed=seed, tensors=tensors, told=bool(again))
    if again and last is not None and not last.told:
        what, instead = "tensors", ""
        if isinstance(filled, nn.Module):
            what, instead = "layers", ", or call the function once for the whole model"
        notice(
            f"seed {seed} gave two {what} in a row the same values of {again}: the name is the same too. Pass name=, "
            f"the {what.removesuffix('s')}'s name in its model (name='' if the same values are wanted){instead}"
        )


def _identity(filled: nn.Module | Tensor) -> Callable[[], object]:
    if isinstance(filled, nn.Module):
        module = weakref.ref(filled)
        return lambda: None if module() is None else id(module())
    # not a weak reference to the tensor: torch's swap_tensors refuses tensors that have one
    memory = local(filled)
    storage: Any = StorageWeakRef(memory.untyped_storage())  # type: ignore[no-untyped-call]
    offset = memory.storage_offset()
    return lambda: None if storage.expired() else (storage.cdata, offset)
