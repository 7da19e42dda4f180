"""Programs of which any region is computed without the rest, and the regions of each step that the result needs."""

from __future__ import annotations

from typing import Any, Final

from zeta.base.language import operations
from zeta.initializers.elementwise import ELEMENTWISE
from zeta.initializers.steps import Draw, Ref, Step

#: steps of a regional program: regions are computed by recursion, which must stay shallow
_LONGEST: Final = 128
#: regions of all steps that one region of the result may need
_MOST_VIEWS: Final = 2 * _LONGEST
_MOVING: Final = ("slice", "permute", "reshape", "update", "cat")

Shape = tuple[int, ...]


def is_regional(steps: tuple[Step, ...]) -> bool:
    """Whether each step is elementwise or moves boxes of elements, and a region of the result needs few regions.

    A program without random draws is always computed as a whole, as in a constructor: the last bits of torch's
    functions may depend on an element's position.
    """
    if len(steps) > _LONGEST or not any(isinstance(step.leaf, Draw) for step in steps):
        return False
    return all(_is_regional(steps, step) for step in steps) and needed_regions(steps) is not None


def needed_regions(steps: tuple[Step, ...]) -> list[list[Shape]] | None:
    """For each step of a regional program, the shapes of the regions of it that the whole result needs.

    ``None`` if there are more than ``_MOST_VIEWS``: each use of a step may need another region of it, so that their
    number can double with every step.
    """
    # for each step, the regions by the chain of moves between it and the result
    views: list[dict[Any, Shape]] = [{} for _ in steps]
    views[-1][()] = steps[-1].shape
    count = 0
    for position in range(len(steps) - 1, -1, -1):
        count += len(views[position])
        if count > _MOST_VIEWS:
            return None
        step = steps[position]
        for number, ref in enumerate(step.operands):
            if not isinstance(ref, Ref):
                continue
            extents = steps[ref.step].shape
            moves = step.op in _MOVING or extents != step.shape
            part = number if step.op in ("update", "cat") else 0
            own = (step.op, part, step.attributes, step.shape) if moves else None
            for view, sizes in views[position].items():
                views[ref.step][view if own is None else (own, view)] = _needed(step, sizes, extents)
    return [list(found.values()) for found in views]


def _is_regional(steps: tuple[Step, ...], step: Step) -> bool:
    match step.op:
        case "draw":
            assert isinstance(step.leaf, Draw)
            return isinstance(step.leaf.initializer, ELEMENTWISE)
        case "data" | "full" | "expand" | "slice" | "permute" | "cat":
            return True
        case "update":
            return set(dict(step.attributes)["steps"]) <= {1}
        case "reshape":
            return _kept(step.shape) == _kept(steps[step.operands[0].step].shape)
    # torch interpolates complex numbers in vectors by another order of operations than those that are left over
    return operations.is_elementwise(step.op) and not (step.op == "lerp" and step.dtype.is_complex)


def _kept(shape: Shape) -> list[int]:
    """The extents that are not 1."""
    return [extent for extent in shape if extent != 1]


def _needed(step: Step, sizes: Shape, extents: Shape) -> Shape:
    """The largest region of an operand with these extents that a region of the step may need."""
    attributes = dict(step.attributes)
    match step.op:
        case "reshape":
            spans = iter([n for n, extent in zip(sizes, step.shape, strict=True) if extent != 1])
            return tuple(1 if extent == 1 else next(spans) for extent in extents)
        case "permute":
            return tuple(sizes[attributes["dims"].index(dim)] for dim in range(len(sizes)))
        case "slice":
            return tuple(max(0, (n - 1) * s + 1) for n, s in zip(sizes, attributes["steps"], strict=True))
        case "update" | "cat":
            return tuple(map(min, sizes, extents))
    own = sizes[len(sizes) - len(extents) :]
    return tuple(1 if extent == 1 else n for n, extent in zip(own, extents, strict=True))
