"""Collect the calls of loss functions and the differences of predictions and targets, each with its gradient's sign."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from zeta.base.distributed import is_sharded
from zeta.check.watch.moments import plain

#: a loss that calls no loss function of torch: the model's output and the batch's target
BY_HAND: Final = "by_hand"
#: losses over classes, of which dimension 1 of the input holds one number each
CLASSES: Final = ("cross_entropy", "nll_loss", BY_HAND)
#: losses over 0 and 1
BINARY: Final = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
#: losses that compare element by element; ``difference`` is a subtraction outside of the model
ELEMENTWISE: Final = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "difference")
_SIGNATURES: Final[Mapping[Any, inspect.Signature]] = {
    function: inspect.signature(function)
    for function in (getattr(F, name) for name in (*CLASSES[:-1], "kl_div", *BINARY, *ELEMENTWISE[:-1]))
}
_SUBTRACTIONS: Final = ("sub", "__sub__", "rsub", "__rsub__", "subtract")
# elements of an input whose gradient is looked at
_MOST: Final = 2**20


class LossCall:
    """One call of a loss function.

    ``given`` is the tensor that the model made, ``target`` the other one. ``falling`` and ``rising`` count the samples
    at which the final loss falls, or rises, if the prediction moves toward its target.
    """

    def __init__(self, function: str, given: Tensor, target: Tensor, options: Mapping[str, Any]) -> None:
        self.function = function
        self.given = given
        self.target = target
        self.options = options
        self.falling = self.rising = 0
        # a leaf is no prediction, and would keep the hook
        if given.grad_fn is not None and not is_sharded(given) and not is_sharded(target):
            given.register_hook(self._take_gradient)  # type: ignore[no-untyped-call]

    @property
    def ignored(self) -> int:
        """The class label that the loss does not count."""
        return int(self.options.get("ignore_index", -100))

    @property
    def of_classes(self) -> bool:
        """Whether the target holds the numbers of classes."""
        return self.function in CLASSES and not self.target.is_floating_point() and self.given.ndim >= 2

    def _take_gradient(self, gradient: Tensor | None) -> None:
        if gradient is None:  # as a backward of one's own may return
            return
        with torch.no_grad(), torch._C.DisableTorchFunction():
            slope = self._slope(plain(gradient))
            if slope is not None:
                self.falling, self.rising = int((slope < 0).sum()), int((slope > 0).sum())

    def _slope(self, gradient: Tensor) -> Tensor | None:
        """For each sample, the derivative of the loss if its prediction moves toward its target."""
        few = slice(0, max(1, _MOST * len(gradient) // max(1, gradient.numel())) if gradient.ndim else 0)
        if self.of_classes:
            gradient, target = gradient[few], self.target[few].long().unsqueeze(1)
            counted = (target != self.ignored) & (target >= 0) & (target < gradient.shape[1])
            return gradient.gather(1, target.clamp(0, gradient.shape[1] - 1))[counted]
        if self.function not in (*ELEMENTWISE, *BINARY) or self.given.shape != self.target.shape:
            return None
        if not self.given.ndim or self.given.is_complex():
            return None
        gradient, target = gradient[few].float(), plain(self.target)[few].float()
        sides = bool(((target == 0) | (target == 1)).all())  # the prediction may be a logit, which 0 does not bound
        toward = 2 * target - 1 if sides else target - plain(self.given)[few].float()
        return (gradient * toward).flatten(1).sum(1) if gradient.ndim > 1 else gradient * toward


def loss_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LossCall | None:
    """The call, if ``func`` is a loss function of torch."""
    try:
        signature = _SIGNATURES.get(func)
    except TypeError:  # not hashable
        return None
    if signature is None:
        return None
    bound = signature.bind(*args, **kwargs)
    options = dict(bound.arguments)
    given, target = options.pop("input", None), options.pop("target", None)
    if not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return None
    return _made(func.__name__, given, target, options)


def difference(name: str, args: tuple[Any, ...]) -> LossCall | None:
    """The call, if it subtracts a prediction, which needs a gradient, and a target, which does not."""
    if name not in _SUBTRACTIONS or len(args) < 2:
        return None
    one, other = args[:2]
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.requires_grad is other.requires_grad:
        return None
    if one.numel() != other.numel() or one.numel() < 2 or one.is_complex() or other.is_complex():
        return None
    return _made("difference", one, other, {})


def by_hand(output: Tensor | None, target: Any) -> LossCall | None:
    """The model's output with the batch's target, if the target holds classes of it."""
    if output is None or output.ndim < 2 or not isinstance(target, Tensor) or target.dtype is not torch.int64:
        return None
    fits = target.shape == (output.shape[0], *output.shape[2:]) and output.shape[1] > 1
    return LossCall(BY_HAND, output, target, {}) if fits else None


def _made(name: str, given: Tensor, target: Tensor, options: Mapping[str, Any]) -> LossCall:
    swapped = name in ELEMENTWISE and target.requires_grad and not given.requires_grad
    return LossCall(name, *((target, given) if swapped else (given, target)), options)
