"""The surroundings of a call: torch's modes and settings of this thread, and other threads with the same model."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch._C import _pop_torch_function_stack, _push_on_torch_function_stack
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)

from zeta.base.language.state import flushes_subnormals
from zeta.base.modules import modules_of
from zeta.base.process.interrupts import insist, undone, undone_on_error
from zeta.errors import TargetError


def in_transform() -> bool:
    """Whether this is inside a transform of ``torch.func``, such as ``vmap``, where tensors are wrappers."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def plain() -> contextlib.AbstractContextManager[None]:
    """Run the block outside of all modes: default device, ``FakeTensorMode``, inference, autocast, flushed subnormals.

    Raises ``TargetError`` inside a transform of ``torch.func``, where tensors are wrappers without memory.
    """
    if in_transform():
        raise TargetError(
            "zeta was called inside a transform of torch.func (vmap, grad, jvp, functionalize), where tensors are "
            "wrappers without memory; call it outside of the transformed function. Nothing was changed"
        )
    surrounded = (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_any_autocast_enabled()
        or torch.is_inference_mode_enabled()
        or flushes_subnormals()
    )
    return _outside() if surrounded else _Here()


class _Here:
    """A block outside of all modes already. An interrupt in torch's own blocks may leave a mode, or gradients off."""

    def __init__(self) -> None:
        self._grad = torch.is_grad_enabled()

    def __enter__(self) -> None:
        torch.clear_autocast_cache()  # autocast that is switched off in here has one too

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            insist(Modes(grad=self._grad).restore_all)


class Ungraded:
    """``torch.no_grad()``, which takes longer to make than a small tensor to write."""

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        torch._C._set_grad_enabled(self._before)


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    before = Modes.now()
    with undone_on_error(before.restore_all), undone(before.restore), contextlib.ExitStack() as stack:
        before.leave()
        if torch._C._len_torch_dispatch_stack():
            stack.enter_context(_disable_current_modes())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        yield


class Modes:
    """The modes of this thread at the beginning of a block."""

    def __init__(
        self,
        *,
        functions: Sequence[Any] = (),
        dispatched: Sequence[Any] = (),
        cast: Sequence[str] = (),
        grad: bool,
        flushed: bool = False,
    ) -> None:
        self._functions, self._dispatched, self._cast, self._grad = functions, dispatched, cast, grad
        self._flushed = flushed

    @classmethod
    def now(cls) -> Modes:
        """The present ones."""
        return cls(
            functions=_function_modes(),
            dispatched=_get_current_dispatch_mode_stack(),
            cast=[kind for kind in _autocast_devices() if torch.is_autocast_enabled(kind)],
            grad=torch.is_grad_enabled(),
            flushed=flushes_subnormals(),
        )

    def leave(self) -> None:
        """Leave those of torch's functions, autocast and flushing."""
        if self._flushed:
            torch.set_flush_denormal(False)
        _leave_functions()
        for kind in self._cast:
            torch.set_autocast_enabled(kind, False)
        torch.clear_autocast_cache()

    def restore(self) -> None:
        """Be in all of them again, and in no others."""
        if self._flushed:
            torch.set_flush_denormal(True)
        for kind in self._cast:
            torch.set_autocast_enabled(kind, True)
        torch.clear_autocast_cache()  # casts of weights that may have been written since
        if not _same(_function_modes(), self._functions):
            _leave_functions()
            for mode in self._functions:
                _push_on_torch_function_stack(mode)
        if not _same(_get_current_dispatch_mode_stack(), self._dispatched):
            while torch._C._len_torch_dispatch_stack():
                _pop_mode()
            for mode in self._dispatched:
                _push_mode(mode)

    def restore_all(self) -> None:
        """The same, and compute gradients as at the beginning: an interrupt in torch's own blocks leaves them off."""
        _leave_functions()  # which would see the next call
        torch._C._set_grad_enabled(self._grad)
        self.restore()


def _leave_functions() -> None:
    while torch._C._len_torch_function_stack():
        _pop_torch_function_stack()


def _function_modes() -> list[Any]:
    return [torch._C._get_function_stack_at(level) for level in range(torch._C._len_torch_function_stack())]


def _same(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _autocast_devices() -> tuple[str, ...]:
    if not torch._C._is_any_autocast_enabled():
        return ()
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu", "cuda") if accelerator is None else ("cpu", "cuda", accelerator.type)


#: of what is used below; its own methods, which an interrupt cannot enter, let go of it
_LOCK: Final = threading.RLock()
_FREE: Final = threading.Condition(_LOCK)
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
    outer = {module for module in wanted if _TAKEN.get(module) == mine}

    def leave() -> None:
        with _LOCK:
            for module in wanted:
                if module not in outer and _TAKEN.get(module) == mine:
                    del _TAKEN[module]
            _FREE.notify_all()

    with undone_on_error(leave), undone(leave):
        with _LOCK:
            _FREE.wait_for(lambda: all(_TAKEN.get(module, mine) == mine for module in wanted))
            _TAKEN.update(dict.fromkeys(wanted, mine))
        yield
