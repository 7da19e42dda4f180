"""Change parameters a little, without a random generator."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_GOLDEN_ANGLE: Final = math.pi * (3 - math.sqrt(5))
#: the rms of the change of a parameter that is zero, over the given size
_OF_ZERO: Final = 0.1


def noisy(values: Tensor, size: float) -> Tensor:
    """A copy that requires a gradient as ``values`` does, plus a change of ``size`` times its rms.

    The change is ``cos(k^2 phi)`` of the index ``k``: it repeats nowhere, so that no two units change alike.
    """
    with torch.no_grad():
        index = torch.arange(values.numel(), device=values.device, dtype=torch.float64)
        change = (torch.cos(index * index * _GOLDEN_ANGLE) * math.sqrt(2)).view(values.shape)
        rms = float(values.detach().abs().double().square().mean().sqrt()) if values.numel() else 0.0
        change *= size * (rms or _OF_ZERO)
        moved = values.detach() + change.to(values.dtype)
    return moved.requires_grad_(values.requires_grad)
