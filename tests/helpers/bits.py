"""Compare tensors bit by bit."""

from __future__ import annotations

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.distributed import local


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two strided tensors have the same bits, NaN and signed zeros included."""
    if first.shape != second.shape or first.dtype is not second.dtype or first.device != second.device:
        return False
    return torch.equal(*(dtypes.bits(local(tensor.detach())) for tensor in (first, second)))
