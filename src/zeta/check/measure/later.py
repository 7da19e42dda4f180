"""Take a few steps of gradient descent: which gradients that are zero at first stay zero?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

from zeta.base.distributed import any_fsdp
from zeta.base.modules import modules_of, named_parameters_of
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.check.facts.evidence import Later, TensorFacts
from zeta.check.measure.duplicates import rows_of
from zeta.check.watch.batches import Call
from zeta.check.watch.calls import Quiet, plainly
from zeta.check.watch.criteria.objective import LossFunction, objective
from zeta.check.watch.fsdp import reshard
from zeta.check.watch.probe import gradients_of
from zeta.check.watch.ranks import Ranks
from zeta.compute.sampling import sample
from zeta.compute.stream.random import parameter_key
from zeta.initializers import Normal
from zeta.write import shards

# each step changes each parameter by this rms, as Adam's first steps do
_STEP: Final = 1e-2


def later(
    model: nn.Module,
    call: Call,
    loss: LossFunction | None,
    gradients: Mapping[int, Tensor],
    zero: Mapping[int, str],
    parts: Mapping[int, tuple[TensorFacts, Tensor]],
    patience: int,
    ranks: Ranks,
) -> Later:
    """Take up to ``patience`` steps, and return the parameters in ``zero`` that never get a gradient.

    Units of ``parts`` are left out if they have no gradient at random values near by either. Their output is not used,
    for example because a constant mask removes it: that they are zero is not the cause.

    Must be called inside :func:`~zeta.check.watch.isolation.preserved`, because FSDP2's parameters change in place.

    Args:
        model: run with copies instead of its parameters, except under FSDP2.
        call: the batch.
        loss: as given to ``check``.
        gradients: those of the first pass, by the ``id`` of the parameter.
        zero: the names of the parameters whose first gradient was exactly zero, by ``id``.
        parts: by ``id``, weights with units whose values and gradients were zero, and which units.
        patience: the most steps.
        ranks: the ranks, which take the same steps.
    """
    named = dict(named_parameters_of(model))
    in_place = any_fsdp(model)
    current = {
        name: parameter.detach() if in_place else parameter.detach().clone() for name, parameter in named.items()
    }
    known = {name: gradients.get(id(parameter)) for name, parameter in named.items()}
    waiting, units = dict(zero), dict(parts)
    steps = 0
    while steps < patience and ranks.any_rank(bool(waiting or units)):
        moved = False
        for name, gradient in known.items():
            moved |= gradient is not None and _move(current[name], gradient)
        if not ranks.any_rank(moved):
            break
        steps += 1
        known = _gradients(model, call, loss, named, None if in_place else current, ranks)
        by_id = {id(named[name]): gradient for name, gradient in known.items()}
        waiting = {key: name for key, name in waiting.items() if (g := by_id.get(key)) is None or not g.any()}
        units = {key: part for key, part in units.items() if not _reached(*part, by_id.get(key))}
    units = {key: part for key, part in units.items() if key not in waiting}
    if ranks.any_rank(bool(units)):  # no gradient at other values either: the zeros are not the cause
        for name, parameter in named.items():
            if parameter.requires_grad:
                _shake(name, current[name])
        known = _gradients(model, call, loss, named, None if in_place else current, ranks)
        by_id = {id(named[name]): gradient for name, gradient in known.items()}
        units = {key: part for key, part in units.items() if _reached(*part, by_id.get(key))}
    left = {one.name: int(chosen.sum()) for one, chosen in units.values()}
    return Later(steps=steps, still=frozenset(waiting.values()), parts=left)


def _reached(one: TensorFacts, chosen: Tensor, gradient: Tensor | None) -> bool:
    """Whether any of the chosen units has a gradient that is not zero."""
    rows = None if gradient is None else rows_of(one.axes, gradient)
    return rows is not None and bool(rows[chosen].any())


def _move(values: Tensor, gradient: Tensor) -> bool:
    """Take one step in place, and return whether anything moved; ``gradient`` is global, ``values`` may be a shard."""
    size = float(gradient.float().square().mean().sqrt())
    if not 0 < size < float("inf"):
        return False
    for part, region in shards.held(values).places():
        part.sub_(gradient[region.slices].to(values.dtype), alpha=_STEP / size)
    return True


def _shake(name: str, values: Tensor) -> None:
    """Change each element a little, in place, by a random number that depends on its place alone."""
    law = Normal(std=_STEP)
    for part, region in shards.held(values).places():
        part.add_(sample(law, key=parameter_key(0, name), region=region).to(part))


def _gradients(
    model: nn.Module,
    call: Call,
    loss: LossFunction | None,
    named: Mapping[str, Tensor],
    current: Mapping[str, Tensor] | None,
    ranks: Ranks,
) -> dict[str, Tensor | None]:
    """The global gradients of the parameters, or of copies of ``current`` that replace them."""
    reshard(model)  # parameters that are still gathered have the values from before the step
    with plainly(model), Quiet():
        if current is None:
            leaves = named
            output = call.output_of(model)
        else:
            leaves = {name: _leaf(current[name], parameter) for name, parameter in named.items()}
            with instead(model, {id(named[name]): leaf for name, leaf in leaves.items()}):
                output = call.output_of(model)
        value = objective(output, call, loss).value
    ranks.wait()  # no rank starts the backward pass if the loss of one raised
    learned = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found = gradients_of(model, value, list(learned.values())) if value.requires_grad else {}
    return {name: found.get(id(leaf)) for name, leaf in learned.items()}


def _leaf(values: Tensor, parameter: Tensor) -> Tensor:
    """A copy of the values that a model can use instead of its parameter: with the attributes that its code reads."""
    leaf = values.clone().requires_grad_(parameter.requires_grad)
    vars(leaf).update((key, value) for key, value in vars(parameter).items() if key not in vars(leaf))
    return leaf


@contextlib.contextmanager
def instead(model: nn.Module, others: Mapping[int, Tensor]) -> Iterator[None]:
    """Temporarily replace the modules' parameters, under each tied name, by ``others``, which has them by ``id``.

    ``torch.func.functional_call`` does the same, but is recursive and fails for deeply nested modules.
    """
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (module._parameters, local, parameter)
        for module in modules_of(model)
        for local, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in others
    ]

    def restore() -> None:
        for held, local, parameter in places:
            held[local] = parameter

    with undone_on_error(restore), undone(restore):
        for held, local, parameter in places:
            held[local] = others[id(parameter)]
        yield
