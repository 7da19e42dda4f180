"""torch operations by name, run on the CPU; and strided views of contiguous tensors, told as boxes where they are."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from zeta.errors import SpecError


@functools.lru_cache(maxsize=4096)
def overload(name: str) -> OpOverload:
    """The operation called ``aten.<name>.<overload>``; ``SpecError`` if torch has none, or if it writes to a tensor."""
    try:
        namespace, packet, version = name.split(".")
        found: OpOverload = getattr(getattr(getattr(torch.ops, namespace), packet), version)
    except (AttributeError, ValueError):
        raise SpecError(f"torch {torch.__version__} has no operation {name}") from None
    if found._schema.is_mutable:
        raise SpecError(f"operation {name} writes to its arguments and cannot be a step")
    return found


@functools.lru_cache(maxsize=4096)
def is_pointwise(name: str) -> bool:
    """Whether each element of the result depends on the same element of the arguments alone."""
    return name.startswith("aten.") and torch.Tag.pointwise in overload(name).tags


def run(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operation on real tensors, on the CPU."""
    return overload(name)(*args, **{key: _on_cpu(key, value) for key, value in kwargs.items()})


#: held while torch has one thread, as its number is the whole process's
_ALONE: Final = threading.RLock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The results of sums, of functions such as ``pow`` and of LAPACK depend on how torch shares out the work."""
    with _ALONE:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def run_pointwise(name: str, args: Sequence[Any], kwargs: dict[str, Any], shape: Sequence[int]) -> Tensor:
    """Run a pointwise operation for a result of ``shape``; no element's bits depend on which others are there.

    torch has one code for whole vectors and another for the elements left over at the end of each thread's share, or
    where memory is not contiguous; functions such as ``sigmoid`` differ between them in the last bits. So everything is
    laid out flat, in whole vectors, and computed in stretches that torch does not share out.
    """
    count = math.prod(shape)
    if count == 0 or not shape:
        return run(name, args, kwargs)  # type: ignore[no-any-return]
    filled = -(-count // _VECTORS) * _VECTORS
    stretches = []
    for start in range(0, filled, _STRETCH):

        def part(value: Any, start: int = start) -> Any:
            if not isinstance(value, Tensor) or value.ndim == 0:  # a number decides no dtype, and must stay one
                return value
            flat = value.expand(shape).reshape(-1)[start : start + _STRETCH]
            missing = min(filled - start, _STRETCH) - flat.numel()
            return torch.cat([flat, flat[-1:].expand(missing)]) if missing else flat.contiguous()

        stretches.append(
            run(name, substitute(args, part), {key: substitute(item, part) for key, item in kwargs.items()})
        )
    flat: Tensor = stretches[0] if len(stretches) == 1 else torch.cat(stretches)
    return flat[:count].view(*shape)


#: elements that torch leaves to one thread
_STRETCH: Final = 2**15
#: elements: a multiple of what any loop over vectors takes at a time
_VECTORS: Final = 256


def _on_cpu(key: str, value: Any) -> Any:
    return torch.device("cpu") if key == "device" else value


def substitute(value: Any, of: Callable[[Any], Any]) -> Any:
    """Replace every leaf of nested lists and tuples; tuples become lists, as torch's operations take them."""
    if isinstance(value, list | tuple):
        return [substitute(item, of) for item in value]
    return of(value)


# -- views -----------------------------------------------------------------------------------------------------------


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def read(base: Tensor, shape: Sequence[int], strides: Sequence[int], offset: int) -> Tensor:
    """A strided view of a contiguous tensor."""
    return base.contiguous().as_strided(shape, strides, offset)


def write(base: Tensor, value: Tensor, strides: Sequence[int], offset: int, *, in_place: bool = False) -> Tensor:
    """A contiguous tensor with ``value`` in a strided view of it."""
    result = base if in_place else base.clone(memory_format=torch.contiguous_format)
    result.as_strided(value.shape, strides, offset).copy_(value)
    return result


@dataclass(frozen=True, kw_only=True)
class Box:
    """A strided view that is a box of the base: ``base[slices]`` with its dimensions in ``order``, ones dropped.

    ``order[i]`` is the base's dimension that the view's dimension ``i`` runs along, ``None`` for an extent of 1.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    order: tuple[int | None, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """All of a tensor."""
        return cls(
            starts=(0,) * len(shape), sizes=tuple(shape), steps=(1,) * len(shape), order=tuple(range(len(shape)))
        )

    @property
    def stops(self) -> tuple[int, ...]:
        """The end, exclusive, in each dimension."""
        return tuple(a + s * (n - 1) + 1 for a, n, s in zip(self.starts, self.sizes, self.steps, strict=True))


def box_of(base: Sequence[int], shape: Sequence[int], strides: Sequence[int], offset: int) -> Box | None:
    """Tell a strided view of a contiguous base as a box, or ``None`` if it is none.

    >>> box_of((10, 4), (4,), (1,), 12).starts, box_of((10, 4), (10, 2), (4, 2), 0).steps
    ((3, 0), (1, 2))
    """
    if math.prod(shape) == 0:
        return None
    unit = strides_of(base)
    starts = tuple(offset // stride % extent if extent > 1 else 0 for stride, extent in zip(unit, base, strict=True))
    if sum(start * stride for start, stride in zip(starts, unit, strict=True)) != offset:
        return None
    sizes, steps = [1] * len(base), [1] * len(base)
    order: list[int | None] = [None] * len(shape)
    for dim, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if size == 1:
            continue
        fits = [
            position
            for position, extent in enumerate(base)
            if sizes[position] == 1
            and stride >= unit[position] > 0
            and stride % unit[position] == 0
            and starts[position] + stride // unit[position] * (size - 1) < extent
        ]
        if not fits:
            return None
        chosen = min(fits, key=lambda position: stride // unit[position])
        sizes[chosen], steps[chosen], order[dim] = size, stride // unit[chosen], chosen
    return Box(starts=starts, sizes=tuple(sizes), steps=tuple(steps), order=tuple(order))
