"""The entropy of attention and a small map of it, computed for a sample of its queries."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

#: queries and sequences that are measured
_QUERIES: Final = 32
_BATCH: Final = 4
#: heads per sequence that are measured, if scores are given for all sequences and heads in one dimension
_HEADS: Final = 8
#: scores below this count as masked: a mask adds the most negative number of a dtype, or something like -10000
_MASKED: Final = -9e3
#: rows and columns of a map: queries, and groups of neighbouring keys
_CELLS: Final = 16

#: mean entropy, largest absolute score, and the map of one head
Observed = tuple[Tensor, Tensor, Tensor]


def of_call(
    query: Tensor,
    key: Tensor,
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **_: Any,
) -> Observed | None:
    """For ``scaled_dot_product_attention``: mean entropy over ln(keys that are not masked), largest score, a map."""
    query, key = query.detach(), key.detach()
    rows, columns = query.shape[-2], key.shape[-2]
    chosen = torch.arange(0, rows, max(1, rows // _QUERIES), device=query.device)
    if query.ndim == 4:
        few = slice(0, _BATCH)
        query, key = query[few], key[few]
        if attn_mask is not None and attn_mask.ndim == 4 and attn_mask.shape[0] > 1:
            attn_mask = attn_mask[few]
        if query.shape[1] != key.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query[..., chosen, :].float() @ key.float().transpose(-2, -1)
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        seen = torch.arange(columns, device=query.device)[None, :] <= chosen[:, None]
        scores = scores.masked_fill(~seen, -math.inf)
    if attn_mask is not None:
        mask = attn_mask.detach()
        mask = mask[..., chosen, :] if mask.shape[-2] == rows and rows > 1 else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask.float()
    return of_scores(scores)


def of_scores(scores: Tensor) -> Observed | None:
    """The same, from the scores before the softmax; masked ones are very negative."""
    if scores.shape[-1] < 2 or scores.ndim < 2:
        return None
    x = scores.detach()
    if x.shape[-2] > _QUERIES:
        x = x[..., :: x.shape[-2] // _QUERIES, :]
    if x.ndim > 2:
        x = x[: _BATCH * _HEADS]
    x = x.float()
    seen = x > _MASKED
    count = seen.sum(-1)
    weights = torch.softmax(x, -1)
    entropy = -torch.xlogy(weights, weights).sum(-1)
    several = count >= 2
    if not bool(several.any()):
        return None
    share = entropy[several] / count[several].double().log()
    return share.mean().double(), x[seen].abs().amax().double(), _map(weights, entropy / count.clamp(min=2).log())


def _map(weights: Tensor, shares: Tensor) -> Tensor:
    """Of the head with the median entropy, the weights of some queries, as ten times their square roots.

    Weights of neighbouring keys are added, so that the squares of the tenths in a row have a sum of about one.
    """
    heads = weights.flatten(0, -3) if weights.ndim > 2 else weights[None]
    means = shares.reshape(heads.shape[:2]).mean(-1)
    chosen = heads[means.nan_to_num(torch.inf).median(0).indices]
    chosen = chosen[:: -(-chosen.shape[0] // _CELLS)]
    size = -(-chosen.shape[1] // _CELLS)
    groups = torch.arange(chosen.shape[1], device=chosen.device) // size
    added = chosen.new_zeros(len(chosen), -(-chosen.shape[1] // size)).index_add_(1, groups, chosen)
    return (added.nan_to_num(0.0).clamp(min=0).sqrt() * 10).floor().clamp(max=9).to(torch.uint8)
