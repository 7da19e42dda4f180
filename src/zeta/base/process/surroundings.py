"""The surroundings of a call: torch's modes and default device, and other threads that use the same model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

import torch
from torch import nn
from torch._C import _pop_torch_function_stack, _push_on_torch_function_stack
from torch.utils._python_dispatch import _disable_current_modes

from zeta.base.modules import modules_of
from zeta.errors import TargetError


def plain() -> contextlib.AbstractContextManager[None]:
    """Run the block outside of all modes: default device, ``FakeTensorMode``, inference, autocast.

    Raises ``TargetError`` inside a transform of ``torch.func``, where tensors are wrappers without memory.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise TargetError(
            "zeta was called inside a transform of torch.func (vmap, grad, jvp, functionalize), where tensors are "
            "wrappers without memory; call it outside of the transformed function. Nothing was changed"
        )
    surrounded = (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_any_autocast_enabled()
        or torch.is_inference_mode_enabled()
    )
    return _outside() if surrounded else _HERE


_HERE: Final = contextlib.nullcontext()


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    modes = [_pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    cast = [kind for kind in _autocast_devices() if torch.is_autocast_enabled(kind)]
    try:
        with contextlib.ExitStack() as stack:
            if torch._C._len_torch_dispatch_stack():
                stack.enter_context(_disable_current_modes())
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            for kind in cast:
                torch.set_autocast_enabled(kind, False)
            yield
    finally:
        for kind in cast:
            torch.set_autocast_enabled(kind, True)
        for mode in reversed(modes):
            _push_on_torch_function_stack(mode)


def _autocast_devices() -> tuple[str, ...]:
    if not torch._C._is_any_autocast_enabled():
        return ()
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu", "cuda") if accelerator is None else ("cpu", "cuda", accelerator.type)


_FREE: Final = threading.Condition()
#: the thread that is in a block with a module, by the module's ``id``
_TAKEN: Final[dict[int, int]] = {}


@contextlib.contextmanager
def alone_with(model: nn.Module) -> Iterator[None]:
    """Wait until no other thread is in such a block with one of the model's modules.

    The block changes the model temporarily and restores it. A second thread would save and restore the changed model.
    """
    mine = threading.get_ident()
    # an argument that is not a module is refused later
    wanted = [id(module) for module in modules_of(model)] if isinstance(model, nn.Module) else []
    with _FREE:
        _FREE.wait_for(lambda: all(_TAKEN.get(module, mine) == mine for module in wanted))
        taken = [module for module in wanted if module not in _TAKEN]
        _TAKEN.update(dict.fromkeys(taken, mine))
    try:
        yield
    finally:
        with _FREE:
            for module in taken:
                del _TAKEN[module]
            _FREE.notify_all()
