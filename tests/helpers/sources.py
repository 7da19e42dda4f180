"""Tensors of any bits, and their comparison."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def of_bytes(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """A tensor of random bytes: every pattern of bits may come."""
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape) * dtype.itemsize
    high = 2 if dtype is torch.bool else 256
    return torch.randint(high, (size,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether ``found`` is contiguous and has the dtype, shape and bits of the other."""
    return (
        (found.dtype, found.shape) == (expected.dtype, expected.shape)
        and found.is_contiguous()
        and torch.equal(_bytes(found), _bytes(expected))
    )


def _bytes(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor).reshape(-1).view(torch.uint8)
