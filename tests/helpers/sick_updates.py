"""Networks whose first step is too small to change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.networks import Mlp, vectors
from tests.helpers.sick import sick


def labelled(count: int = 64) -> Any:
    return vectors(8, count), torch.arange(count) % 5


def scaled(factor: float) -> Callable[[Tensor, Any], Tensor]:
    return lambda output, batch: factor * F.cross_entropy(output.float(), batch[1])


def adam(lr: float = 1e-3, **options: Any) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, **options)


def sgd(lr: float) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def in_half(dtype: torch.dtype = torch.bfloat16) -> Any:
    x, y = labelled()
    return Mlp(8, 64, 5).to(dtype), (x.to(dtype), y)


@sick("Z702", None, loss=scaled(1e-12), optimizer=adam())
def a_loss_scaled_down() -> Any:
    return Mlp(8, 32, 5), labelled()


def _twice(output: Tensor, batch: Any) -> Tensor:
    """A mean, divided by everything once more."""
    return ((output - batch[1]) ** 2).mean() / output.numel() ** 2


@sick("Z702", None, loss=_twice, optimizer=adam())
def a_mean_that_is_divided_again() -> Any:
    return Mlp(8, 32, 512), (vectors(8, 512), 1e-2 * torch.randn(512, 512))


@sick("Z702", None, loss=scaled(1e-4), optimizer=adam(eps=1e-3))
def an_eps_that_is_too_large() -> Any:
    return Mlp(8, 32, 5), labelled()


@sick("Z702", None, "warn", loss=scaled(1e-12))
def a_loss_scaled_down_without_an_optimizer() -> Any:
    return Mlp(8, 32, 5), labelled()


@sick("Z703", None, loss=scaled(1.0), optimizer=adam(1e-8))
def adam_in_bf16() -> Any:
    return in_half()


@sick("Z703", None, "warn", loss=scaled(1.0), optimizer=adam(1e-4))
def adam_in_bf16_with_a_small_learning_rate() -> Any:
    return in_half()


@sick("Z703", None, loss=scaled(1.0), optimizer=sgd(1e-5))
def sgd_in_bf16() -> Any:
    return in_half()
