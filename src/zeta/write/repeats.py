"""A notice where a loop over layers draws the same values again: the same seed and names, for another layer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from torch import nn

from zeta.base.text import shape_text
from zeta.errors import notice
from zeta.initializers import Constant, Dirac, Identity, Initializer, Keep, Program
from zeta.resolve.plans import Entry


def is_random(initializer: Initializer) -> bool:
    """Whether the values depend on the seed."""
    if isinstance(initializer, Program):
        return bool(initializer.draws)
    return not isinstance(initializer, Constant | Dirac | Identity | Keep)


class _Drawn(Struct, frozen=True, kw_only=True, eq=False):
    """What a call drew for a module, which it does not keep alive; ``told``: there was a notice about these calls."""

    module: weakref.ref[nn.Module]
    seed: int
    tensors: frozenset[tuple[str, tuple[int, ...]]]
    told: bool


class _Last(threading.local):
    drawn: _Drawn | None = None


_LAST: Final = _Last()


def note_repeated(module: nn.Module, seed: int, entries: Iterable[Entry]) -> None:
    """Remember a call that was given a seed and no name; warn if the last such call drew the same for another module.

    The same is: a random tensor of the same name and shape, with the same seed. The calls of each thread are compared
    with each other. One ``ZetaNotice`` is given for several repetitions in a row, and none where the other module no
    longer exists.
    """
    tensors = frozenset((entry.name, entry.shape) for entry in entries if is_random(entry.initializer))
    if not tensors:
        return
    last, again = _LAST.drawn, ""
    other = None if last is None or last.seed != seed else last.module()
    if last is not None and other is not None and other is not module:
        again = next((f"{name} {shape_text(shape)}" for name, shape in sorted(tensors & last.tensors)), "")
    _LAST.drawn = _Drawn(module=weakref.ref(module), seed=seed, tensors=tensors, told=bool(again))
    if again and last is not None and not last.told:
        notice(
            f"seed {seed} gave two layers in a row the same values of {again}: the name is the same too. Pass "
            "name=, the layer's name in its model (name='' if the same values are wanted), or call the function once "
            "for the whole model"
        )
