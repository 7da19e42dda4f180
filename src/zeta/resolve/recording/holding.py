"""What a model holds besides its parameters and buffers: modules out of torch's sight, containers, arrays, objects.

``check`` runs a model, and ``plan`` runs a function on a model. Both restore all of this afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from zeta.base.modules import named_modules_of
from zeta.base.tensors import REFILLED, attributes_here, content_of, inside, refill

Restore = Callable[[], object]

# a module's own dictionaries, which forward may change in place
TABLES: Final = (
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks"),
    *("_backward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_non_persistent_buffers_set"),
)
# types that are not searched for generators and containers: a vocabulary may have hundreds of thousands of them
_PLAIN: Final = (str, int, float, bytes, type(None), Tensor)
# the state of FSDP2, which ``undisturbed`` restores: a part of it alone would be initialized twice
_DISTRIBUTED: Final = "torch.distributed."
# what has attributes, but is saved in another way or does not change
_NO_OBJECTS: Final = (*_PLAIN, nn.Module, type, ModuleType, FunctionType, MethodType)


class Place(NamedTuple):
    """Where a thing is in an attribute of a module; as text ``blocks.layers[0]``, made where it is read."""

    prefix: str
    key: str
    path: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.prefix}.{self.key}".lstrip(".") + "".join(f"[{part!r}]" for part in self.path)


def modules_held(model: nn.Module) -> dict[str, nn.Module]:
    """The model's modules, and those that it keeps out of its sight, such as a teacher in a list, with their places."""
    found = dict(named_modules_of(model))
    known, pending = {id(module) for module in found.values()}, deque(found.items())
    while pending:
        prefix, module = pending.popleft()
        for place, value in things_in(prefix, module):
            if isinstance(value, nn.Module) and id(value) not in known:
                inner = {f"{place}.{path}".strip("."): one for path, one in named_modules_of(value)}
                new = {path: one for path, one in inner.items() if id(one) not in known}
                known.update(id(one) for one in new.values())
                found |= new
                pending += new.items()
    return found


def things_in(prefix: str, module: nn.Module) -> Iterator[tuple[Place, Any]]:
    """What is in a module's attributes, in containers there at any depth, and in the attributes of objects there."""
    for key, value in vars(module).items():
        if key not in TABLES and not isinstance(value, _PLAIN):
            yield from ((Place(prefix, key, path), found) for path, found in inside(value))
    yield from _objects(prefix, module)


def _objects(prefix: str, module: nn.Module) -> Iterator[tuple[Place, Any]]:
    """What is in the attributes of objects that a module holds."""
    for key, value in vars(module).items():
        if key not in TABLES and not isinstance(value, _PLAIN):
            for path, found in inside(value):
                if _is_object(found):
                    for held in (getattr(found, "__dict__", {}), _in_slots(found)):
                        yield from ((Place(prefix, key, path + inner), part) for inner, part in inside(held))


def held_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model's modules hold, also out of torch's sight, with its place."""
    return iter(tensors_held(modules_held(model)).values())


def _is_object(value: Any) -> bool:
    """Whether it is an object with attributes of its own, and none whose state is known otherwise."""
    if type(value).__module__.startswith(_DISTRIBUTED) or isinstance(value, _NO_OBJECTS):
        return False
    return type(getattr(value, "__dict__", None)) is dict or bool(_slots_of(value))


def restorers(value: Any) -> Iterator[Restore]:
    """Functions that give a container, an array or a generator what it has now."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif _is(value, "random", "Random") and not _is(value, "random", "SystemRandom"):
        drawn = value.getstate()
        yield lambda: value.setstate(drawn)
    elif _is(value, "numpy.random", "RandomState"):
        reached = value.get_state(legacy=False)
        yield lambda: value.set_state(reached)
    elif _is(value, "numpy.random", "Generator") or _is(value, "numpy.random", "BitGenerator"):
        bits = getattr(value, "bit_generator", value)
        counted = copy.deepcopy(bits.state)
        yield lambda: setattr(bits, "state", counted)
    elif _is(value, "numpy", "ndarray"):
        if value.flags.writeable:
            yield _rewritten(value)
    elif isinstance(value, bytearray | array):
        yield _rewritten(value)
    elif isinstance(value, REFILLED):
        content = content_of(value)
        yield lambda: refill(value, content)
    elif slots := _slots_of(value):
        yield _reset(value, slots)


def _is(value: Any, module: str, kind: str) -> bool:
    """Whether it is an instance of a class whose module may not have been imported."""
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(value, found)


def _rewritten(value: Any) -> Restore:
    """Restores an array of NumPy, or of Python, which may have another length then."""
    kept = copy.copy(value)
    place = slice(None) if isinstance(value, bytearray | array) else ...

    def restore() -> None:
        value[place] = kept

    return restore


def _slots_of(value: Any) -> dict[str, Any]:
    """What reads and writes the slots of an object, by name; ``_A__x`` for a private one, as Python names it."""
    own = [vars(base) for base in type(value).__mro__ if "__slots__" in vars(base)]
    return {name: part for slots in own for name, part in slots.items() if isinstance(part, MemberDescriptorType)}


def _in_slots(value: Any) -> dict[str, Any]:
    """What an object has in its slots, those that are empty left out."""
    found: dict[str, Any] = {}
    for name, slot in _slots_of(value).items():
        with contextlib.suppress(AttributeError):
            found[name] = slot.__get__(value, type(value))
    return found


def _reset(value: Any, slots: dict[str, Any]) -> Restore:
    kept = _in_slots(value)

    def restore() -> None:
        now = _in_slots(value)
        for name, slot in slots.items():
            if name in kept and (name not in now or now[name] is not kept[name]):
                slot.__set__(value, kept[name])  # the class may allow no attribute to be set
            elif name in now and name not in kept:
                slot.__delete__(value)

    return restore


def tensors_held(modules: dict[str, nn.Module]) -> dict[int, tuple[str, Tensor]]:
    """Every tensor of the modules that has values, and its gradient, with a name, by ``id``."""
    own = [
        (f"{name}.{key}".lstrip("."), tensor)
        for table in ("_parameters", "_buffers")
        for name, module in modules.items()
        for key, tensor in vars(module)[table].items()
        if tensor is not None
    ]
    held = [
        (str(place), found)
        for name, module in modules.items()
        for part in (attributes_here(module, name), _objects(name, module))
        for place, found in part
        if isinstance(found, Tensor)
    ]
    tensors = [(name, one) for name, one in own + held if not nn.parameter.is_lazy(one) and not one.is_meta]
    gradients = [(f"the gradient of {name}", one.grad) for name, one in tensors if one.is_leaf and one.grad is not None]
    return {id(tensor): (name, tensor) for name, tensor in reversed(tensors + gradients)}
