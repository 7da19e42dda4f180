"""What is measured of attention, held against a plain computation of all of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import vectors
from zeta.check import check
from zeta.check.watch import attention


def plainly(query: Tensor, key: Tensor, seen: Tensor, scale: float) -> tuple[float, float]:
    """Mean over queries of the entropy over ln(keys seen), where several are, and the largest score."""
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~seen, -math.inf)
    weights = scores.softmax(-1)
    entropy = -torch.xlogy(weights, weights).sum(-1)
    count = seen.expand_as(scores).sum(-1)
    several = count > 1
    share = entropy[several] / count[several].log()
    return float(share.mean()), float(scores[seen.expand_as(scores)].abs().max())


TRIANGLE = torch.ones(6, 6, dtype=torch.bool).tril()
EVERY = torch.ones(6, 6, dtype=torch.bool)
PADDED = torch.arange(6) < torch.tensor([3, 6])[:, None, None, None]


@pytest.mark.parametrize(
    ("options", "seen", "scale"),
    [
        ({}, EVERY, 0.5),
        ({"is_causal": True}, TRIANGLE, 0.5),
        ({"scale": 2.0}, EVERY, 2.0),
        ({"attn_mask": TRIANGLE}, TRIANGLE, 0.5),
        ({"attn_mask": torch.zeros(6, 6).masked_fill(~TRIANGLE, -math.inf)}, TRIANGLE, 0.5),
        ({"attn_mask": PADDED}, PADDED, 0.5),
    ],
    ids=["plain", "causal", "scale", "mask", "added", "padding"],
)
def test_entropy_and_largest_score(options: dict[str, Any], seen: Tensor, scale: float) -> None:
    query, key, value = torch.randn(3, 2, 3, 6, 4).unbind()
    found = attention.of_call(query, key, value, **options)
    assert found is not None
    assert tuple(map(float, found[:2])) == pytest.approx(plainly(query, key, seen, scale), rel=1e-5)


def test_each_key_head_serves_neighbouring_query_heads() -> None:
    query, key = torch.randn(2, 4, 6, 4), torch.randn(2, 2, 6, 4) * torch.tensor([1.0, 3.0]).view(2, 1, 1)
    found = attention.of_call(query, key, key, enable_gqa=True)
    assert found is not None
    whole = key[:, [0, 0, 1, 1]]
    assert tuple(map(float, found[:2])) == pytest.approx(plainly(query, whole, EVERY, 0.5), rel=1e-5)


@pytest.mark.parametrize("keys", [6, 16, 40])
def test_the_map_is_that_of_the_head_with_the_median_entropy(keys: int) -> None:
    torch.manual_seed(keys)
    sharp = torch.tensor([1.0, 30.0, 5.0]).view(1, 3, 1, 1)
    query, key = torch.randn(1, 3, 6, 4) * sharp, torch.randn(1, 3, keys, 4)
    found = attention.of_call(query, key)
    assert found is not None
    weights = (query @ key.transpose(-1, -2) / 2).softmax(-1)[0]
    middle = weights[2]  # of three heads, neither the softest nor the sharpest
    entropies = [float(-torch.xlogy(one, one).sum()) for one in weights]
    assert sorted(entropies)[1] == entropies[2]
    size = math.ceil(keys / 16)
    expected = [[int(10 * math.sqrt(float(sum(some)))) for some in row.split(size)] for row in middle]
    assert found[2].tolist() == [[min(digit, 9) for digit in row] for row in expected]


@pytest.mark.parametrize("position", ["named", "in order"])
def test_dropout_of_attention_is_silent(position: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x.view(4, 16, 8)
            if position == "named":
                y = F.scaled_dot_product_attention(y, y, y, dropout_p=0.9)
            else:
                y = F.scaled_dot_product_attention(y, y, y, None, 0.9)
            return self.fc(y)

    model, x = Model(), vectors(8)
    y = x.view(4, 16, 8)
    expected = model.fc(F.scaled_dot_product_attention(y, y, y)).detach()
    (layer,) = [layer for layer in check(model, x).layers if layer.kind == "Linear"]
    assert layer.output.rms == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-5)
