"""torch's random operations on private generators, for one thread.

All threads share torch's default generators: to save and restore their state would rewind them for threads that draw
at the same time. A dispatch mode is active in one thread only, and in autograd's threads that continue its work.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack, _pop_mode, _push_mode

from zeta.base.process.interrupts import undone, undone_on_error

_CPU: Final = torch.device("cpu")


class Private(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode in which every random operation draws from the mode's private generators.

    Args:
        seed: the seed of the private generators; ``None``: they start from the present state of torch's.

    An operation that is given a generator draws from that one. CUDA's attention and recurrent layers with dropout take
    no generator: during the call, torch's generator temporarily gets the private state, behind a lock. Methods of
    ``torch.default_generator`` itself are not redirected, except in a ``borrowing`` block: they change it.
    """

    supports_higher_order_operators = True

    def __init__(self, seed: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._seeds: dict[str, int] = {}  #: by type of device, the seed of those that were seeded again
        self._generators: dict[torch.device, torch.Generator] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would make torch import its compiler, which takes seconds

    # torch's methods keep a flag for the whole process, which stays set if two threads exit in another order
    def __enter__(self) -> Private:
        _push_mode(self)
        return self

    def __exit__(self, *_: object) -> None:
        _pop_mode()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        named = dict(zip(_arguments(func), args, strict=False)) | kwargs
        if named.get("generator") is not None or device.type == "meta":
            return func(*args, **kwargs)
        if "generator" in named and "generator" not in kwargs:
            args = args[: list(named).index("generator")]  # the last argument of these schemas
        taking = _with_generator(func)
        if taking is not None:
            return taking(*args, **{**kwargs, "generator": self.generator(device)})
        if func is torch.ops.aten.native_dropout.default:
            return self._dropout(*args, **kwargs)
        if not _draws(func, args, kwargs):
            return func(*args, **kwargs)
        with _lent(self.generator(device)):
            return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """``native_dropout`` as torch defines it: the result, and the mask for the backward pass."""
        if train is False or not x.numel():
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=self.generator(x.device))
        return x * mask * (0.0 if p == 1 else 1 / (1 - p)), mask

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator for a device."""
        if device == torch.device(device.type) and device.type != "cpu":  # without a number
            device = torch.device(device.type, torch.get_device_module(device).current_device())
        found = self._generators.get(device)
        if found is None:
            found = self._generators[device] = torch.Generator(device=device)
            seed = self._seeds.get(device.type, self._seed)
            if seed is None:
                found.set_state(_shared(device).get_state())
            else:
                found.manual_seed(seed)
        return found

    @contextlib.contextmanager
    def borrowing(self) -> Iterator[None]:
        """Let torch's generator for the CPU be the private one if no other thread can see it; restore its state.

        So its own methods, such as ``torch.default_generator.manual_seed``, act on what the block draws.
        """
        if threading.active_count() > 1:
            yield
            return
        shared = self._generators[_CPU] = _shared(_CPU)
        state = shared.get_state()

        def restore() -> None:
            shared.set_state(state)

        with undone_on_error(restore), undone(restore):
            yield

    def seed_again(self, seed: int, kind: str | None = None) -> None:
        """Seed all generators, or those of one type of device, again."""
        if kind is None:
            self._seed = seed
            self._seeds.clear()
        else:
            self._seeds[kind] = seed
        for device, generator in self._generators.items():
            if kind in (None, device.type):
                generator.manual_seed(seed)


def here() -> Private | None:
    """The generators of the innermost block that this thread is in."""
    return next((mode for mode in reversed(_get_current_dispatch_mode_stack()) if isinstance(mode, Private)), None)


# -- operations ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _with_generator(func: OpOverload) -> OpOverload | None:
    """The version of an operation that takes a generator."""
    own = _arguments(func)
    if "generator" in own:
        return func
    for name in func.overloadpacket.overloads():
        version: OpOverload = getattr(func.overloadpacket, name)
        arguments = _arguments(version)
        if arguments.pop("generator", None) is not None and arguments == own:
            return version
    return None


def _arguments(func: OpOverload) -> dict[str, str]:
    return {argument.name: str(argument.type) for argument in func._schema.arguments}


def _draws(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation with dropout has a probability above 0; true for all other operations."""
    for position, name in enumerate(_arguments(func)):
        if name in ("dropout_p", "dropout", "p"):
            given = args[position] if position < len(args) else kwargs.get(name, 0.0)
            return bool(given)
    return True


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    return next((item.device for item in (*args, *kwargs.values()) if isinstance(item, Tensor)), _CPU)


def _shared(device: torch.device) -> torch.Generator:
    """Torch's default generator for a device."""
    if device.type == "cpu":
        return torch.default_generator
    return torch.get_device_module(device).default_generators[device.index]  # type: ignore[no-any-return]


_LENDING: Final = threading.Lock()


@contextlib.contextmanager
def _lent(private: torch.Generator) -> Iterator[None]:
    """Temporarily set torch's default generator to a private state. Other threads that draw meanwhile use it too."""
    shared = _shared(private.device)
    with _LENDING:
        state = shared.get_state()

        def restore() -> None:
            private.set_state(shared.get_state())
            shared.set_state(state)

        with undone_on_error(restore), undone(restore):
            shared.set_state(private.get_state())
            yield
