"""Find the module where a change of one sample, or of later tokens, reaches what it must not reach."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zeta.base.modules import buffers_of
from zeta.check.facts.wiring import Reach
from zeta.check.measure.wiring.noise import changing
from zeta.check.measure.wiring.passes import alike, moves, outputs_of
from zeta.check.measure.wiring.samples import Two
from zeta.check.watch.batches import Call, tensors_in
from zeta.check.watch.isolation import preserved
from zeta.check.watch.moments import plain
from zeta.check.watch.streaming.source import Source
from zeta.check.watch.wiring.targets import tokens_of
from zeta.resolve.slots import named_modules

# the changes of parameters, over their rms, after which an output that never varied still does not: a small one, so
# that all that is not at zero stays on; and two that outweigh the values, of which one turns on units that are off
_CHANGES: Final = (0.1, 3.0, -3.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """One use of a module, with its first tensors."""

    name: str
    module: nn.Module
    given: Tensor | None
    result: Tensor | None


def _steps(model: nn.Module, call: Call) -> list[_Step]:
    """All uses of modules in a pass of its own, inner ones first."""
    found: list[_Step] = []

    def leave(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        found.append(_Step(name=name, module=module, given=_number((args, kwargs)), result=_number(output)))

    with preserved(model), contextlib.ExitStack() as stack:
        for name, module in named_modules(model).items():
            hook = lambda module, args, kwargs, output, name=name: leave(name, module, args, kwargs, output)  # noqa: E731
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        outputs_of(model, call)
    return found


def _number(value: Any) -> Tensor | None:
    """The first tensor of real numbers, as it is now."""
    first = next((t for _, t in tensors_in(value) if t.is_floating_point()), None)
    return None if first is None else plain(first).detach().clone()


def _both(model: nn.Module, two: Two) -> Iterator[tuple[_Step, _Step]]:
    before, after = _steps(model, two.first), _steps(model, two.second)
    return zip(before, after, strict=False)


def mixing(model: nn.Module, two: Two, moved: float, limit: float) -> Reach | None:
    """Where the other sample moves first; ``None`` if it also moves without a change, or if it is meant."""
    if any(_other(a, b) > limit for a, b in zip(_steps(model, two.first), _steps(model, two.first), strict=False)):
        return None
    for before, after in _both(model, two):
        if _other(before, after) > limit:
            if isinstance(before.module, nn.modules.batchnorm._BatchNorm):
                return None
            return _reach(before, after, _other_given(before, after) > limit, moved)
    return Reach(module=None, code=False, moved=moved)


def _other(before: _Step, after: _Step) -> float:
    return _row(before.result, after.result)


def _other_given(before: _Step, after: _Step) -> float:
    return _row(before.given, after.given)


def _row(before: Tensor | None, after: Tensor | None) -> float:
    """The change of the other sample's row; none if there is no such row."""
    if before is None or after is None or before.shape != after.shape or before.ndim < 1 or before.shape[0] != 2:
        return 0.0
    return moves(before, after)[1] if before.numel() else 0.0


def _reach(before: _Step, after: _Step, earlier: bool, moved: float) -> Reach:
    """In the module, or in the code around it if its input moved already."""
    name = before.name.rpartition(".")[0] if earlier else before.name
    return Reach(module=name or "the model", code=earlier, moved=moved)


def leak_of(model: nn.Module, two: Two, moved: float, limit: float) -> tuple[Reach, bool]:
    """Where an earlier position moves first, and whether anything there masks later positions."""
    assert two.tokens is not None
    tokens = tokens_of(two.first)
    length = 0 if tokens is None else tokens.shape[1]
    masks = _Masks()
    with masks:
        steps = list(_both(model, two))
    masked = masks.seen or any(_triangular(buffer) for buffer in buffers_of(model))
    for before, after in steps:
        if _earlier(before.result, after.result, two.tokens, length) > limit:
            earlier = _earlier(before.given, after.given, two.tokens, length) > limit
            return _reach(before, after, earlier, moved), masked
    return Reach(module=None, code=False, moved=moved), masked


class _Masks(TorchFunctionMode):
    """Notices what makes or takes a mask of later positions."""

    seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        self.seen |= name in ("triu", "tril") or bool((kwargs or {}).get("is_causal"))
        return func(*args, **(kwargs or {}))


def _triangular(buffer: Tensor) -> bool:
    """Whether its last two dimensions are a mask of all that is on one side of the diagonal."""
    if buffer.ndim < 2 or buffer.shape[-1] != buffer.shape[-2] or buffer.shape[-1] < 2 or buffer.is_complex():
        return False
    one = plain(buffer).flatten(0, -3)[0] if buffer.ndim > 2 else plain(buffer)
    ones = torch.ones_like(one, dtype=torch.bool)
    below, above = one[ones.tril()], one[ones.triu(1)]
    return bool((below == below[0]).all() and (above == above[0]).all() and below[0] != above[0])


def encodes(model: nn.Module) -> bool:
    """Whether its modules are called encoder and decoder: what the encoder sees may reach every position."""
    names = {part for name in named_modules(model) for part in name.split(".")}
    return any("encoder" in name for name in names) and any("decoder" in name for name in names)


def _earlier(before: Tensor | None, after: Tensor | None, half: int, length: int) -> float:
    """The change at positions before the first changed token."""
    if before is None or after is None or before.shape != after.shape or before.ndim != 3:
        return 0.0
    if tuple(before.shape[:2]) != (2, length):
        return 0.0
    return moves(before[:, :half], after[:, :half])[0]


def constant_of(model: nn.Module, two: Two, source: Source) -> Reach | None:
    """Where the samples become equal, with other parameters too; ``None`` if they do not then.

    Networks that start at zero on purpose depend on their input as soon as their parameters move.
    """
    pairs: list[tuple[list[_Step], list[_Step]]] = []
    for size in _CHANGES:
        around = functools.partial(changing, model, source, size)
        before, after = (_steps(model, replace(call, around=around)) for call in (two.first, two.second))
        last = [step.result for step in before if step.name == ""]
        ended = [step.result for step in after if step.name == ""]
        if not last or last[-1] is None or ended[-1] is None or not _equal(last[-1], ended[-1]):
            return None
        pairs.append((before, after))
    for one, other in zip(*pairs[0], strict=False):
        given = one.given is not None and other.given is not None and not _equal(one.given, other.given)
        if given and one.result is not None and other.result is not None and _equal(one.result, other.result):
            return Reach(module=one.name or "the model", code=False, moved=0.0)
    return Reach(module=None, code=False, moved=0.0)


def _equal(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and before.numel() > 0 and _alike_rows(before, after)


def _alike_rows(before: Tensor, after: Tensor) -> bool:
    return before.shape[:1] == (2,) and alike(before, after)
