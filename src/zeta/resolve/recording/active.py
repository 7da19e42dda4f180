"""The recording that is under way in each thread, and what may be said to it."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Final, Protocol

import torch
from torch import Tensor

from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.resolve.recording.sources import Source


class Draws(Protocol):
    """What a recorder does with these functions."""

    #: where the constructor started threads
    threads: list[Source | None]

    def draw_into(
        self,
        tensor: Tensor,
        initializer: Initializer,
        axes: Axes | None,
        called: str,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Note that a tensor was filled with what ``initializer`` draws."""

    def unnoted(self, *tensors: Tensor) -> AbstractContextManager[None]:
        """Forget some tensors for a while, as if they were not recorded."""

    def spoil(self, tensor: Tensor, reason: str, called: str) -> Tensor:
        """Note that nobody knows what a tensor was filled with, and why."""


class _Active(threading.local):
    recorder: Draws | None = None


ACTIVE: Final = _Active()
