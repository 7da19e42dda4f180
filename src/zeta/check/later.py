"""A few steps of gradient descent on a copy: does what is zero now stay zero?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from zeta.check.batches import Call
from zeta.check.calls import Quiet, plainly
from zeta.check.duplicates import rows_of
from zeta.check.evidence import Held, Later
from zeta.check.losses import LossFunction, objective
from zeta.check.moments import plain
from zeta.names import is_fsdp

# a step moves each parameter by this in rms, as Adam's first steps do
_STEP: Final = 1e-2


def later(
    model: nn.Module,
    call: Call,
    loss: LossFunction | None,
    gradients: Mapping[int, Tensor],
    zero: Mapping[int, str],
    parts: Mapping[int, tuple[Held, Tensor]],
    patience: int,
) -> Later:
    """Take up to ``patience`` steps and see which of the parameters in ``zero`` never get a gradient.

    Args:
        model: run with other tensors in the place of its parameters, which stay as they are.
        call: the batch.
        loss: as given to ``check``.
        gradients: those of the first pass, by the ``id`` of the parameter.
        zero: name by ``id`` of the parameters in question, whose first gradient was exactly zero.
        parts: by ``id`` weights of which some units are in question, and which.
        patience: how many steps at most.
    """
    if any(is_fsdp(module) for module in model.modules()):
        return Later(steps=0, still=frozenset(), skipped="FSDP2's parameters cannot be replaced by copies")
    named = dict(model.named_parameters())
    current = {name: parameter.detach().clone() for name, parameter in named.items()}
    known = {name: gradients.get(id(parameter)) for name, parameter in named.items()}
    waiting, units = dict(zero), dict(parts)
    steps = 0
    while (waiting or units) and steps < patience:
        moved = False
        for name, gradient in known.items():
            moved |= gradient is not None and _move(current[name], gradient)
        if not moved:
            break
        steps += 1
        known = _gradients(model, call, loss, named, current)
        arrived = {id(named[name]) for name, gradient in known.items() if gradient is not None and _any(gradient)}
        waiting = {key: name for key, name in waiting.items() if key not in arrived}
        by_id = {id(named[name]): gradient for name, gradient in known.items()}
        units = {key: part for key, part in units.items() if not _reached(*part, by_id.get(key))}
    left = {one.name: int(chosen.sum()) for key, (one, chosen) in units.items() if key not in waiting}
    return Later(steps=steps, still=frozenset(waiting.values()), parts=left)


def _any(gradient: Tensor) -> bool:
    """Whether anything of it is not zero, on any rank."""
    return bool(plain(gradient).any())


def _reached(one: Held, chosen: Tensor, gradient: Tensor | None) -> bool:
    """Whether any of the chosen units got a gradient."""
    rows = None if gradient is None else rows_of(one, plain(gradient))
    return rows is not None and bool(rows[chosen].any())


def _move(values: Tensor, gradient: Tensor) -> bool:
    size = float(plain(gradient).float().square().mean().sqrt())
    if not 0 < size < float("inf"):
        return False
    values.sub_(gradient.to(values.dtype), alpha=_STEP / size)
    return True


def _gradients(
    model: nn.Module, call: Call, loss: LossFunction | None, named: Mapping[str, Tensor], current: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    leaves = {name: current[name].clone().requires_grad_(named[name].requires_grad) for name in named}
    with plainly(model), Quiet():
        output = torch.func.functional_call(model, leaves, call.args, dict(call.kwargs))
        value = objective(output, call, loss).value
    learned = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    if not value.requires_grad:
        return dict.fromkeys(learned)
    found = torch.autograd.grad(value, list(learned.values()), allow_unused=True)
    return {name: None if g is None else g.to_dense() for name, g in zip(learned, found, strict=True)}
