"""The recording in progress in each thread, and its interface."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zeta.fans import Axes
    from zeta.initializers import Initializer
    from zeta.resolve.recording.sources import Source


class Draws(Protocol):
    """The interface of a recorder for functions that fill tensors."""

    #: the lines where the constructor started threads
    threads: list[Source | None]
    #: the ``id`` of the dictionary of each module that the constructor made
    built: set[int]

    def draw_into(
        self,
        tensor: Tensor,
        initializer: Initializer,
        axes: Axes | None,
        called: str,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Record that a tensor was filled with values drawn from ``initializer``."""

    def unnoted(self, *tensors: Tensor) -> AbstractContextManager[None]:
        """Temporarily drop the references to these tensors, which torch would refuse to swap."""

    def spoil(self, tensor: Tensor, reason: str, called: str) -> Tensor:
        """Record that a tensor was filled with unknown values, and why."""


class _Active(threading.local):
    recorder: Draws | None = None


ACTIVE: Final = _Active()
