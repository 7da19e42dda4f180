"""The gradients of some weights alone, each handed on as soon as it is there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zeta.base.modules import parameters_of
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.process.surroundings import alone_with
from zeta.base.reading import shown
from zeta.errors import SpecError, TargetError, listed

#: gives the loss of a model, or runs its backward pass, or several
Backward = Callable[[Any], object]


def gradients_of(
    model: nn.Module, weights: Sequence[tuple[str, Tensor]], backward: Backward, use: Callable[[str, Tensor], None]
) -> None:
    """Call ``use`` with the name and the gradient of each of some weights.

    Where ``backward`` returns the loss, each gradient is freed after it was used, before that of an earlier layer is
    computed. Where it runs backward passes itself, their gradients are summed and all there at the end. Which
    parameters need gradients, and their ``.grad``, are restored.

    Raises ``SpecError`` if a weight gets no gradient, or one in parts.
    """
    if fixed := [name for name, weight in weights if weight.is_inference()]:
        raise TargetError(
            listed("these were made under torch.inference_mode() and get no gradient; build the model outside:", fixed)
        )
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters_of(model)]
    hooks: list[Any] = []
    used: set[str] = set()

    def restore() -> None:
        for hook in hooks:
            hook.remove()
        for parameter, needed, gradient in before:
            parameter.grad = gradient
            parameter.requires_grad_(needed)

    def hand_on(name: str, weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        if name in used:
            raise SpecError(
                f"the gradient of {name} comes in several parts, as that of a layer in a reentrant checkpoint does; "
                "run the backward pass in the function, and return nothing"
            )
        used.add(name)
        use(name, gradient)

    with alone_with(model), undone_on_error(restore), undone(restore), torch.enable_grad():
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for _, weight in weights:
            weight.requires_grad_(True)
        loss = backward(model)
        if all(weight.grad is None for _, weight in weights):
            _check_loss(loss)
            for name, weight in weights:
                hooks.append(_hooked(weight, functools.partial(hand_on, name)))
            loss.backward()  # type: ignore[attr-defined]
        else:
            for name, weight in weights:
                if weight.grad is not None:
                    hand_on(name, weight)
    if missing := [name for name, _ in weights if name not in used]:
        raise SpecError(listed("these weights get no gradient; leave them out with only=:", missing))


def _hooked(weight: Any, function: Callable[[Tensor], None]) -> Any:
    return weight.register_post_accumulate_grad_hook(function)


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise SpecError(
            "the function must return the loss, one number in a tensor, or run loss.backward() itself; it returned "
            f"{shown(loss)}, and no adapted weight has a gradient"
        )
    if not loss.requires_grad:
        raise SpecError("the loss does not depend on the adapted weights; compute it with gradients")
