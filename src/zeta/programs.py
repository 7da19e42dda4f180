"""Run a program: its values, whole or tile by tile, drawn and computed on the CPU.

A program whose steps all treat elements alone, or move boxes of them about, computes any region alone. Others look
at the whole tensor, which is computed once and cut.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from zeta import operations, sampling
from zeta.initializers import Draw, Program, Ref, Step
from zeta.operations import Box, box_of
from zeta.random import parameter_key
from zeta.regions import Region

#: elements of one tile; a step's temporaries are a few times that
TILE: Final = 2**18
# a region alone is computed by recursion
_LONGEST: Final = 128


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
        tile = run.region(len(program.steps) - 1, part) if values is None else values[part.slices]
        tile = tile.to(dtype).contiguous()
        yield index, sampling.with_zero_row(tile.clone() if zero_row is not None else tile, part, zero_row).to(device)


def value(program: Program, *, name: str, seed: int) -> Tensor:
    """All values of the parameter ``name``, in the program's dtype, on the CPU."""
    run = _Run(program=program, name=name, seed=seed)
    shape = program.steps[-1].shape
    return run.region(len(program.steps) - 1, Region.whole(shape)) if is_regional(program) else run.whole()


def is_regional(program: Program) -> bool:
    """Whether every region is computed without the rest.

    What is not random is computed as a whole, as in a constructor: the last bits of torch's functions may depend on it.
    """
    if not program.draws or len(program.steps) > _LONGEST:
        return False
    return all(_is_regional(program, step) for step in program.steps)


def _is_regional(program: Program, step: Step) -> bool:
    match step.op:
        case "draw":
            return isinstance(step.args[0].initializer, sampling.ELEMENTWISE)
        case "data":
            return True
        case "read":
            return box_of(program.steps[step.args[0].step].shape, *step.args[1:]) is not None
        case "write":
            box = _written(program, step)
            return box is not None and all(n == 1 for n in box.steps)
        case "aten.full.default" | "aten.clone.default" | "aten._to_copy.default":
            return True
        case "aten.expand.default":
            return True
        case "aten.view.default":
            return False
    return operations.is_pointwise(step.op)


def _written(program: Program, step: Step) -> Box | None:
    _, value, strides, offset = step.args
    return box_of(step.shape, program.steps[value.step].shape, strides, offset)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One program for one parameter.

    ``found`` are regions of steps that several others use: without it, each use would double the work.
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

    def whole(self) -> Tensor:
        """Run the steps in order; a result is dropped after its last use, and written into where nobody else looks."""
        steps = self.program.steps
        left = Counter(ref for step in steps for ref in step.refs)
        left[len(steps) - 1] += 1
        values: dict[int, Any] = {}
        owned: set[int] = set()
        for position, step in enumerate(steps):
            values[position] = self._step(step, values, left, owned)
            if step.op not in ("read", "item", "aten.view.default", "aten.expand.default", "data"):
                owned.add(position)
            for ref in step.refs:
                left[ref] -= 1
                if not left[ref]:
                    values.pop(ref, None)
        result = values[len(steps) - 1]
        assert isinstance(result, Tensor)
        return result

    def _step(self, step: Step, values: dict[int, Any], left: Counter[int], owned: set[int]) -> Any:
        def of(item: Any) -> Any:
            return values[item.step] if isinstance(item, Ref) else item

        if step.op == "draw":
            return self._draw(step, Region.whole(step.shape))
        if step.op == "data":
            return step.args[0].tensor(step.shape, step.dtype)
        args = operations.substitute(step.args, of)
        if step.op == "read":
            return operations.read(*args)
        if step.op == "write":
            base = step.args[0].step
            return operations.write(*args, in_place=left[base] == 1 and base in owned and args[0].is_contiguous())
        if step.op == "item":
            return args[0][args[1]]
        kwargs = {key: operations.substitute(item, of) for key, item in step.kwargs}
        with operations.one_thread():
            return operations.run(step.op, args, kwargs)

    def _draw(self, step: Step, region: Region) -> Tensor:
        draw: Draw = step.args[0]
        return sampling.sample(
            draw.initializer,
            key=parameter_key(self.seed, self.name if draw.of is None else draw.of),
            region=region,
            dtype=step.dtype,
            axes=draw.axes,
            draw=draw.number,
        )

    # -- one region ---------------------------------------------------------------------------------------------------

    def region(self, position: int, region: Region) -> Tensor:
        """The values of one region of a step's result, which nobody writes to."""
        if position not in self.several:
            return self._region(position, region)
        if (position, region) not in self.found:
            self.found[position, region] = self._region(position, region)
        return self.found[position, region]

    def _region(self, position: int, region: Region) -> Tensor:
        step = self.program.steps[position]
        match step.op:
            case "draw":
                return self._draw(step, region)
            case "data":
                return step.args[0].tensor(step.shape, step.dtype)[region.slices]  # type: ignore[no-any-return]
            case "aten.full.default":
                return torch.full(region.sizes, step.args[1], dtype=step.dtype, device="cpu")
            case "read":
                return self._read(step, region)
            case "write":
                return self._write(step, region)
        if step.op == "aten.expand.default":
            return self._broadcast(step.args[0], region).expand(region.sizes)

        def of(item: Any) -> Any:
            return self._broadcast(item, region) if isinstance(item, Ref) else item

        args, kwargs = operations.substitute(step.args, of), {k: operations.substitute(v, of) for k, v in step.kwargs}
        return operations.run_pointwise(step.op, args, kwargs, region.sizes)

    def _broadcast(self, ref: Ref, region: Region) -> Tensor:
        """What an argument contributes to a region of a result that it is broadcast to."""
        shape = self.program.steps[ref.step].shape
        skipped = len(region.shape) - len(shape)
        spans = [
            (0, 1) if extent == 1 else (region.offsets[skipped + dim], region.sizes[skipped + dim])
            for dim, extent in enumerate(shape)
        ]
        inner = Region(shape=shape, offsets=tuple(a for a, _ in spans), sizes=tuple(b for _, b in spans))
        return self.region(ref.step, inner)

    def _read(self, step: Step, region: Region) -> Tensor:
        base = self.program.steps[step.args[0].step]
        box = box_of(base.shape, *step.args[1:])
        assert box is not None
        begin, extent, dims = list(box.starts), [1] * len(base.shape), []
        for dim, along in enumerate(box.order):
            if along is not None:
                step_along = box.steps[along]
                begin[along] += region.offsets[dim] * step_along
                extent[along] = max(0, (region.sizes[dim] - 1) * step_along + 1)
                dims.append(along)
        inner = self.region(step.args[0].step, Region(shape=base.shape, offsets=tuple(begin), sizes=tuple(extent)))
        inner = inner[tuple(slice(None, None, n) for n in box.steps)]
        rest = [dim for dim in range(len(base.shape)) if dim not in dims]
        return inner.permute(*dims, *rest).reshape(region.sizes)

    def _write(self, step: Step, region: Region) -> Tensor:
        box = _written(self.program, step)
        assert box is not None
        spans = [
            (max(start, offset), min(start + size, offset + extent))
            for start, size, offset, extent in zip(box.starts, box.sizes, region.offsets, region.sizes, strict=True)
        ]
        if any(begin >= end for begin, end in spans):
            return self.region(step.args[0].step, region)
        inside = all(end - begin == size for (begin, end), size in zip(spans, region.sizes, strict=True))
        if inside:
            result = torch.empty(region.sizes, dtype=step.dtype, device="cpu")
        else:
            result = self.region(step.args[0].step, region).clone()
        shape = self.program.steps[step.args[1].step].shape
        offsets, sizes = [0] * len(shape), [1] * len(shape)
        dims = []
        for dim, along in enumerate(box.order):
            if along is not None:
                begin, end = spans[along]
                offsets[dim], sizes[dim] = begin - box.starts[along], end - begin
                dims.append(along)
        part = self.region(step.args[1].step, Region(shape=shape, offsets=tuple(offsets), sizes=tuple(sizes)))
        target = result[tuple(slice(b - o, e - o) for (b, e), o in zip(spans, region.offsets, strict=True))]
        rest = [dim for dim in range(len(spans)) if dim not in dims]
        target.permute(*dims, *rest).copy_(part.reshape([target.shape[dim] for dim in (*dims, *rest)]))
        return result
