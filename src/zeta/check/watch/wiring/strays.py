"""Find trainable leaves of the graph that are not parameters of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zeta.check.facts.wiring import Stray
from zeta.check.watch.batches import tensors_in
from zeta.check.watch.graph.nodes import leaves_of
from zeta.resolve.recording.holding import held_tensors


class Foreign:
    """The trainable leaves that calls get and that are not parameters of the model, while it runs."""

    def __init__(self) -> None:
        self._users: dict[int, tuple[Tensor, str]] = {}  # with the tensor, so that no other gets its id
        self._differentiated: dict[int, Tensor] = {}

    def note(self, func: Any, args: Iterable[Any], module: str | None, known: Mapping[int, str]) -> None:
        """Remember the leaves that a call gets; those that a gradient is taken of are inputs, and no parameters."""
        if func is torch.autograd.grad:
            self._differentiated |= {id(tensor): tensor for _, tensor in tensors_in(tuple(args))}
            return
        if module is None:
            return
        for item in args:
            if isinstance(item, Tensor) and item.is_leaf and item.requires_grad and id(item) not in known:
                self._users.setdefault(id(item), (item, module))

    def user_of(self, leaf: Tensor) -> str | None:
        """The module in which a leaf was used first."""
        return self._users[id(leaf)][1] if id(leaf) in self._users else None

    def is_input(self, leaf: Tensor) -> bool:
        """Whether the model took a gradient with respect to it."""
        return id(leaf) in self._differentiated


def strays_of(
    model: nn.Module,
    parameters: Iterable[Tensor],
    given: Any,
    leaves: Mapping[int, Tensor],
    of_output: Callable[[], Mapping[int, Tensor]],
    foreign: Foreign,
) -> tuple[Stray, ...]:
    """The trainable leaves of the loss that the model does not own.

    Left out are inputs, tensors that a gradient is taken of, and plain tensors that nothing holds, such as the copy of
    an input.

    Args:
        model: the model.
        parameters: its parameters.
        given: the inputs.
        leaves: those of the loss, by ``id``.
        of_output: gives those of the output.
        foreign: what was seen in the forward pass.
    """
    known = {id(tensor) for tensor in parameters} | {id(tensor) for _, tensor in tensors_in(given)}
    unknown = {key: leaf for key, leaf in leaves.items() if key not in known and not foreign.is_input(leaf)}
    if not unknown:
        return ()
    places, inner = _places(model, unknown), of_output()
    found: list[Stray] = []
    for key, leaf in unknown.items():
        place = places.get(key)
        if place is None and not isinstance(leaf, nn.Parameter):
            continue
        found.append(
            Stray(
                place=place,
                module=foreign.user_of(leaf),
                shape=tuple(leaf.shape),
                of_loss=place is None and key not in inner,
            )
        )
    return tuple(found)


def _places(model: nn.Module, leaves: Mapping[int, Tensor]) -> dict[int, str]:
    """Where the leaves hang in the model: their own place, or that of a tensor that is computed from them alone."""
    found: dict[int, str] = {}
    computed: list[tuple[str, Tensor]] = []
    for place, tensor in held_tensors(model):
        if id(tensor) in leaves:
            found.setdefault(id(tensor), place)
        elif tensor.grad_fn is not None:
            computed.append((place, tensor))
    if len(found) < len(leaves):
        for place, tensor in computed:
            behind = leaves_of([tensor.grad_fn])
            if behind.keys() <= leaves.keys():
                found = {**dict.fromkeys(behind, place), **found}
    return found


def nodes_of(value: Any) -> list[Any]:
    """The graph nodes of the tensors in an output; a leaf has none."""
    return [tensor.grad_fn for _, tensor in tensors_in(value)]
