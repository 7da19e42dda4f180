"""The batch of ``make demo``: random tokens for GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens() -> Tensor:
    """16 sequences of 8 tokens, (16, 8) int64."""
    return torch.randint(50257, (16, 8), generator=torch.Generator().manual_seed(0))
