"""FSDP2 during a check: parameters are gathered where needed, and its state is restored afterwards.

FSDP2 has no public functions to save and restore its state, so private attributes are read and set here, until it has.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from torch import Tensor, nn

from zeta.base.distributed import fsdp_groups, is_fsdp
from zeta.base.modules import modules_of
from zeta.base.process.interrupts import undone, undone_on_error

# options of a group: whether it reduces gradients, and whether it keeps its parameters gathered
_REDUCING: Final = ("reduce_grads", "all_reduce_grads")
_KEEPING: Final = ("post_forward_mesh_info", "reshard_after_backward", *_REDUCING)
# gradients that a group has reduced over some ranks only, and, from torch 2.15 on, the place of each parameter in them
_PARTIAL: Final[dict[str, Callable[[], Any]]] = {
    "_partial_reduce_output": lambda: None,
    "_partial_reduce_output_layout": dict,
}


def reshard(model: nn.Module) -> None:
    """Reshard parameters that FSDP2 keeps gathered, for example the root's after a forward pass without a backward."""
    for module in modules_of(model):
        if is_fsdp(module):
            module.reshard()


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let FSDP2 reduce gradients at once in the block; restore its options and unreduced gradients afterwards.

    Afterwards everything is sharded and idle, even if a pass raised in the middle.
    """
    states, groups = _states(model), _groups(model)
    before = _options(groups, _REDUCING) + _options(_contexts(states), ("is_last_backward",))
    waiting = [(group, _present(group, _PARTIAL), _unreduced(group)) for group in groups]

    def restore() -> None:
        with contextlib.ExitStack() as last_first:  # each is called, even if another raises
            for group, partial, gradients in waiting:
                last_first.callback(_hold, group, partial, gradients)
            last_first.callback(_give_back, before)
            last_first.callback(reshard, model)
            last_first.callback(_settle, states, groups)

    with undone_on_error(restore), undone(restore):
        for group in groups:
            nothing = {name: _PARTIAL[name]() for name in _present(group, _PARTIAL)}
            _hold(group, nothing, [(None, None) for _ in group.fsdp_params])
            group.reduce_grads = group.all_reduce_grads = True
        for context in _contexts(states):
            context.is_last_backward = True
        yield


def _options(owners: list[Any], names: tuple[str, ...]) -> list[tuple[Any, dict[str, Any]]]:
    return [(owner, {name: getattr(owner, name) for name in names}) for owner in owners]


def _give_back(options: list[tuple[Any, dict[str, Any]]]) -> None:
    for owner, values in options:
        vars(owner).update(values)


def _present(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    """The attributes that exist in this release of torch."""
    return {name: vars(owner)[name] for name in names if name in vars(owner)}


def _unreduced(group: Any) -> list[tuple[Tensor | None, Tensor | None]]:
    """The gradients of earlier passes that the group has not reduced: in the parameters' dtype, or in another one.

    From torch 2.15 on, the parameter itself has both, and ``unsharded_accumulated_grad`` is a view of it.
    """
    held = (
        (getattr(one, "_unsharded_param", None), vars(one).get("unsharded_accumulated_grad"))
        for one in group.fsdp_params
    )
    return [(None if parameter is None else parameter.grad, accumulated) for parameter, accumulated in held]


def _hold(group: Any, partial: dict[str, Any], gradients: list[tuple[Tensor | None, Tensor | None]]) -> None:
    vars(group).update(partial)
    for one, (gradient, accumulated) in zip(group.fsdp_params, gradients, strict=True):
        if "unsharded_accumulated_grad" in vars(one):
            one.unsharded_accumulated_grad = accumulated
        if (parameter := getattr(one, "_unsharded_param", None)) is not None:
            parameter.grad = gradient


def _settle(states: list[Any], groups: list[Any]) -> None:
    """Reset the state that a pass that raised has left."""
    for group in groups:
        group.wait_for_unshard()  # otherwise a later step would use the values of this unfinished all-gather
        group._training_state = type(group._training_state).IDLE
        group._post_forward_indices.clear()
        vars(group).update(dict.fromkeys(_present(group, ("_post_backward_pending",)), False))  # from torch 2.15 on
        vars(group.comm_ctx).get("post_forward_order", []).clear()  # missing before the first pass
    for state in states:
        state._training_state = type(state._training_state).IDLE
        state._modules_to_run_forward.clear()
    for context in _contexts(states):
        context.iter_forward_root, context.post_backward_final_callback_queued = None, False


@contextlib.contextmanager
def kept_gathered(model: nn.Module) -> Iterator[None]:
    """Keep FSDP2's parameters gathered and reduce no gradients, so that the block can run backward several times.

    Otherwise FSDP2 would free the gathered parameters, which the graph refers to, after the first backward pass. The
    model must have run once before, because FSDP2 finds its root in the first pass.
    """
    groups = _groups(model)
    before = _options(groups, _KEEPING)
    restore = functools.partial(_give_back, before)
    with undone_on_error(restore), undone(restore):
        for group in groups:
            group.post_forward_mesh_info = None
            group.reshard_after_backward = group.reduce_grads = group.all_reduce_grads = False
        yield


def _states(model: nn.Module) -> list[Any]:
    return _once(module._get_fsdp_state() for module in modules_of(model) if is_fsdp(module))


def _groups(model: nn.Module) -> list[Any]:
    return _once(group for module in modules_of(model) if is_fsdp(module) for group in fsdp_groups(module))


def _contexts(states: list[Any]) -> list[Any]:
    return _once(state._state_ctx for state in states)


def _once(found: Iterable[Any]) -> list[Any]:
    """Each object once: modules may share them."""
    return list({id(one): one for one in found}.values())
