"""Run a program: its values, whole or tile by tile, drawn and computed on the CPU.

A program is regional if each of its steps is elementwise or moves boxes of elements: then any region is computed
without the rest. Any other program computes the whole tensor once, and regions are cut out of it.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from zeta.base.language import layouts
from zeta.base.language.evaluation import compute, compute_elementwise
from zeta.base.language.state import fixed_state
from zeta.compute import sampling
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.errors import PlanError
from zeta.initializers import Data, Draw, Program, Ref, Step, regional

#: elements of one tile; the temporaries of a step are a few times as large
TILE: Final = 2**18
#: operations that may overwrite their first operand if nothing else uses it
_IN_PLACE: Final[Mapping[str, Callable[..., Tensor]]] = {
    "update": layouts.update_,
    "strided_update": layouts.strided_update_,
}


def tiles(
    program: Program,
    *,
    name: str,
    seed: int,
    region: Region,
    dtype: torch.dtype,
    device: torch.device,
    zero_row: int | None = None,
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield ``region`` of the parameter ``name``, in row-major order of bounded tiles: (index inside it, values)."""
    run = _Run(program=program, name=name, seed=seed)
    values = None if is_regional(program) or not region.numel else run.whole()
    for index, part in region.tiles(TILE):
        run.found.clear()
        tile = run.part(part) if values is None else values[part.slices]
        tile = tile.to(dtype).contiguous()
        yield index, sampling.with_zero_row(tile.clone() if zero_row is not None else tile, part, zero_row).to(device)


def value(program: Program, *, name: str, seed: int) -> Tensor:
    """All values of the parameter ``name``, in the program's dtype, on the CPU."""
    run = _Run(program=program, name=name, seed=seed)
    whole = Region.whole(program.steps[-1].shape)
    return run.part(whole) if whole.numel and is_regional(program) else run.whole()


def is_regional(program: Program) -> bool:
    """Whether any region can be computed without the rest."""
    return regional.is_regional(program.steps)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The execution of one program for one parameter.

    ``found`` caches regions of steps that several other steps use: without it, each use would compute them again.
    """

    program: Program
    name: str
    seed: int
    found: dict[tuple[int, Region], Tensor] = field(default_factory=dict)

    @functools.cached_property
    def several(self) -> frozenset[int]:
        """The steps that are used more than once."""
        uses = Counter(ref for step in self.program.steps for ref in step.refs)
        return frozenset(ref for ref, count in uses.items() if count > 1)

    # -- the whole ----------------------------------------------------------------------------------------------------

    def whole(self) -> Tensor:
        """Run the steps in order; each result is freed after its last use."""
        steps = self.program.steps
        uses = Counter(ref for step in steps for ref in step.refs)
        left = uses.copy()
        values: dict[int, Tensor] = {}
        with fixed_state():
            for position, step in enumerate(steps):
                operands = [values[item.step] if isinstance(item, Ref) else item for item in step.operands]
                with self._named(position):
                    if step.leaf:
                        values[position] = self._leaf(step)
                    elif step.op in _IN_PLACE and uses[step.operands[0].step] == 1 and self._is_owned(step.operands[0]):
                        values[position] = _IN_PLACE[step.op](*operands, **dict(step.attributes))
                    else:
                        values[position] = compute(step.op, operands, step.attributes, step.dtype)
                    self._check(step, values[position], step.shape)
                for ref in step.refs:
                    left[ref] -= 1
                    if not left[ref]:
                        values.pop(ref, None)
        return values[len(steps) - 1]

    @contextlib.contextmanager
    def _named(self, position: int) -> Iterator[None]:
        """Raise ``PlanError`` that names the step, if torch cannot compute it for these values."""
        try:
            yield
        except (RuntimeError, IndexError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            op = self.program.steps[position].op
            raise PlanError(f"{self.name}: step {position} ({op}) cannot be computed: {reason}") from error

    @staticmethod
    def _check(step: Step, value: Tensor, shape: tuple[int, ...]) -> None:
        """Raise ``ValueError`` if torch's result differs from the shape and dtype that the step states."""
        if tuple(value.shape) != shape or value.dtype is not step.dtype:
            raise ValueError(
                f"its result is {value.dtype} of shape {tuple(value.shape)}, but it states {step.dtype} of {shape}"
            )

    def _is_owned(self, ref: Ref) -> bool:
        """Whether a step's result has contiguous memory that no other tensor shares."""
        return self.program.steps[ref.step].op in ("draw", "data", "full", "cat", *_IN_PLACE)

    def _leaf(self, step: Step) -> Tensor:
        if isinstance(step.leaf, Data):
            return step.leaf.tensor(step.shape, step.dtype)
        return self._draw(step, Region.whole(step.shape))

    def _draw(self, step: Step, region: Region) -> Tensor:
        draw = step.leaf
        assert isinstance(draw, Draw)
        return sampling.sample(
            draw.initializer,
            key=parameter_key(self.seed, self.name if draw.of is None else draw.of),
            region=region,
            dtype=step.dtype,
            axes=draw.axes,
            draw=draw.number,
        )

    # -- one region ---------------------------------------------------------------------------------------------------

    def part(self, region: Region) -> Tensor:
        """The values of one region of the result; the caller must not write to them."""
        with fixed_state():
            return self.region(len(self.program.steps) - 1, region)

    def region(self, position: int, region: Region) -> Tensor:
        """The values of one region of a step's result."""
        if (found := self.found.get((position, region))) is not None:
            return found
        with self._named(position):
            found = self._region(position, region)
            self._check(self.program.steps[position], found, region.sizes)
        if position in self.several:
            self.found[position, region] = found
        return found

    def _region(self, position: int, region: Region) -> Tensor:
        step = self.program.steps[position]
        attributes = dict(step.attributes)
        match step.op:
            case "draw":
                return self._draw(step, region)
            case "data":
                return self._leaf(step)[region.slices]
            case "full":
                return torch.full(region.sizes, attributes["value"], dtype=step.dtype, device="cpu")
            case "expand":
                return self._broadcast(step.operands[0], region).expand(region.sizes)
            case "reshape":
                return self._reshaped(step.operands[0], region)
            case "permute":
                return self._permuted(step.operands[0], attributes["dims"], region)
            case "slice":
                return self._cut(step.operands[0], attributes["starts"], attributes["steps"], region)
            case "update":
                return self._updated(step, [attributes["starts"]], region)
            case "cat":
                return self._updated(step, self._ends(step, attributes["dim"]), region)
        operands = [self._broadcast(item, region) if isinstance(item, Ref) else item for item in step.operands]
        return compute_elementwise(step.op, operands, step.attributes, step.dtype, region.sizes)

    def _inner(self, ref: Ref, offsets: list[int], sizes: list[int]) -> Tensor:
        shape = self.program.steps[ref.step].shape
        return self.region(ref.step, Region(shape=shape, offsets=tuple(offsets), sizes=tuple(sizes)))

    def _broadcast(self, ref: Ref, region: Region) -> Tensor:
        """The region of an operand that is broadcast to ``region`` of the result."""
        shape = self.program.steps[ref.step].shape
        skipped = len(region.shape) - len(shape)
        spans = [
            (0, 1) if extent == 1 else (region.offsets[skipped + dim], region.sizes[skipped + dim])
            for dim, extent in enumerate(shape)
        ]
        return self._inner(ref, [a for a, _ in spans], [b for _, b in spans])

    def _reshaped(self, ref: Ref, region: Region) -> Tensor:
        """A region of a reshape that only adds or removes dimensions of extent 1."""
        spans = iter([(o, n) for o, n, e in zip(region.offsets, region.sizes, region.shape, strict=True) if e != 1])
        empty = region.numel == 0
        shape = self.program.steps[ref.step].shape
        inner = [(0, 0 if empty else 1) if extent == 1 else next(spans) for extent in shape]
        return self._inner(ref, [a for a, _ in inner], [b for _, b in inner]).reshape(region.sizes)

    def _permuted(self, ref: Ref, dims: tuple[int, ...], region: Region) -> Tensor:
        offsets, sizes = [0] * len(dims), [0] * len(dims)
        for place, dim in enumerate(dims):
            offsets[dim], sizes[dim] = region.offsets[place], region.sizes[place]
        return self._inner(ref, offsets, sizes).permute(dims)

    def _cut(self, ref: Ref, starts: tuple[int, ...], steps: tuple[int, ...], region: Region) -> Tensor:
        along = zip(starts, region.offsets, steps, region.sizes, strict=True)
        offsets = [a + o * s if n else 0 for a, o, s, n in along]
        sizes = [max(0, (n - 1) * s + 1) for n, s in zip(region.sizes, steps, strict=True)]
        return self._inner(ref, offsets, sizes)[tuple(slice(None, None, s) for s in steps)]

    def _ends(self, step: Step, dim: int) -> list[tuple[int, ...]]:
        """The start of each part of a concatenation along ``dim``."""
        starts, at = [], 0
        for ref in step.operands:
            starts.append(tuple(at if d == dim % len(step.shape) else 0 for d in range(len(step.shape))))
            at += self.program.steps[ref.step].shape[dim]
        return starts

    def _updated(self, step: Step, starts: list[tuple[int, ...]], region: Region) -> Tensor:
        """The values, each placed at its start, over the first operand if that is not one of the values."""
        refs = step.operands[-len(starts) :]
        below = step.operands[0] if len(refs) < len(step.operands) else None
        result: Tensor | None = None
        for ref, start in zip(refs, starts, strict=True):
            extents = self.program.steps[ref.step].shape
            spans = [
                (max(a, o), min(a + e, o + n))
                for a, e, o, n in zip(start, extents, region.offsets, region.sizes, strict=True)
            ]
            if any(begin >= end for begin, end in spans):
                continue
            part = self._inner(ref, [b - a for (b, _), a in zip(spans, start, strict=True)], [e - b for b, e in spans])
            if part.shape == region.sizes:
                return part
            result = self._under(below, step, region).clone() if result is None else result
            result[tuple(slice(b - o, e - o) for (b, e), o in zip(spans, region.offsets, strict=True))] = part
        return self._under(below, step, region) if result is None else result

    def _under(self, below: Ref | None, step: Step, region: Region) -> Tensor:
        """The values that the parts overwrite: an operand, or uninitialized memory that they cover completely."""
        if below is None:
            return torch.empty(region.sizes, dtype=step.dtype, device="cpu")
        return self.region(below.step, region)
