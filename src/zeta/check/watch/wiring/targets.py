"""Compare the targets of a loss with the tokens that the model gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from zeta.check.watch.batches import Call, tensors_in
from zeta.check.watch.criteria.calls import BY_HAND, LossCall
from zeta.check.watch.moments import plain

#: the largest offset that is looked for: labels that were shifted twice
_MOST: Final = 2
# targets that are needed: of masked tokens, one in ten is also the input's (Devlin et al. 2019), and all by no chance
_FEWEST: Final = 8


def tokens_of(call: Call) -> Tensor | None:
    """The first input that is integers of two dimensions, which vary."""
    inputs = (tensor for _, tensor in tensors_in((*call.args, call.kwargs)) if tensor.dtype is torch.int64)
    return next((t for t in inputs if t.ndim == 2 and t.shape[1] > _MOST and bool((t != t[:, :1]).any())), None)


def offsets_of(tokens: Tensor | None, losses: Iterable[LossCall]) -> frozenset[int]:
    """By how many places the targets of losses over classes are ahead of the tokens.

    0 for targets that are the tokens themselves, 1 for next tokens. A loss by hand is left out: it may shift the
    batch's targets itself.
    """
    if tokens is None:
        return frozenset()
    known = [loss for loss in losses if loss.of_classes and loss.function != BY_HAND]
    return frozenset(at for loss in known if (at := _offset(tokens, plain(loss.target), loss.ignored)) is not None)


def _offset(tokens: Tensor, targets: Tensor, ignored: int) -> int | None:
    count, length = tokens.shape
    if targets.is_floating_point() or targets.numel() % count:
        return None
    rows = targets.reshape(count, -1)
    for offset in range(_MOST + 1):
        wanted = tokens[:, offset:]
        if wanted.shape[1] <= rows.shape[1] <= length:
            ahead, rest = rows[:, : wanted.shape[1]], rows[:, wanted.shape[1] :]
            kept = ahead != ignored
            known = int(kept.sum()) >= _FEWEST and not bool((rest != ignored).any())
            if known and torch.equal(ahead[kept], wanted[kept]):
                return offset
    return None
