"""An initializer that is a small program of the closed language; its random leaves are drawn from the stream."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Self

from zeta.base.escaping import visible
from zeta.errors import SpecError, ZetaError
from zeta.initializers.base import Initializer, Site
from zeta.initializers.elementwise import Constant, Ones, Zeros
from zeta.initializers.steps import LONGEST_SHOWN, Data, Draw, Ref, Step, step_from_json, step_to_json

#: steps of a program
MOST_STEPS: Final = 2**16
#: draw numbers reserved for each leaf: for the values, an imaginary part, a mask
DRAWS_PER_LEAF: Final = 256


@dataclass(frozen=True, repr=False)
class Program(Initializer):
    """A list of operations of the closed language on logical tensors; the result of the last step is the value.

    Each random leaf is an initializer with a draw number, drawn from the stream. The program is checked when it is
    built: each step's operation, operands, attributes, and the shape and dtype of its result; and the cost. A program
    has at most 2^16 steps. For each element of the result it may take 2^14 steps of arithmetic (results with fewer than
    2^16 elements count as 2^16) and 2^10 bytes at a time (fewer than 2^18 count as 2^18). Where only regions of the
    steps are computed, these count.

    Programs run on the CPU, whatever the parameter's device. If a program is random and every step is elementwise or
    moves boxes of elements, it is computed in tiles of 2^18 elements; otherwise the whole tensor is computed at once,
    with temporaries of its size.
    """

    is_law = False

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        # imported here, because it imports the language of programs, which few models need
        from zeta.initializers.checking import check_cost, check_step

        if not isinstance(self.steps, list | tuple) or not 1 <= len(self.steps) <= MOST_STEPS:
            raise SpecError(f"Program: steps must be a list of 1 to {MOST_STEPS:,} steps")
        steps: list[Step] = []
        for position, given in enumerate(self.steps):
            try:
                step = given if isinstance(given, Step) else step_from_json(given)
                check_step(step, steps)
            except ZetaError as error:
                raise SpecError(f"Program: step {position}: {error}") from None
            steps.append(step)
        object.__setattr__(self, "steps", tuple(steps))
        check_cost(self.steps)

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        """Whether it has a random leaf."""
        return bool(self.draws)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The random leaves."""
        return tuple(step.leaf for step in self.steps if isinstance(step.leaf, Draw))

    def scaled(self, factor: float) -> Program:
        last = self.steps[-1]
        product = Step(op="mul", operands=(Ref(len(self.steps) - 1), factor), shape=last.shape, dtype=last.dtype)
        return Program((*self.steps, product))

    def solve(self, site: Site) -> Self:
        if site.shape != self.steps[-1].shape:
            raise SpecError(f"this program computes shape {self.steps[-1].shape}, the parameter has {site.shape}")
        return self

    def moments(self, site: Site) -> None:
        return None

    def to_json(self) -> dict[str, Any]:
        return {"name": "Program", "steps": [step_to_json(step) for step in self.steps]}

    def _text(self, number: Any) -> str:
        text = self._expression()
        if text is None:
            names = list(dict.fromkeys(step.op for step in self.steps if step.op not in _UNNAMED))
            text = f"{len(self.steps)} steps: {', '.join(names)}"
            text = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
        return f"Program({text})"

    def _expression(self) -> str | None:
        """The program as one nested expression, if that is short."""
        texts: list[str] = []
        for step in self.steps:
            shown = [texts[item.step] if isinstance(item, Ref) else _shown(item) for item in step.operands]
            match step.leaf:
                case Draw():
                    law = str(step.leaf.initializer)
                    texts.append(law if step.leaf.of is None else f"{law} of {visible(step.leaf.of)}")
                case Data():
                    texts.append(f"data{list(step.shape)}")
                case None if step.op in ("slice", "strided"):
                    texts.append(f"{shown[0]}[...]")
                case None:
                    with_them = [_shown(value) for _, value in step.attributes]
                    texts.append(f"{step.op}({', '.join((*shown, *with_them))})")
            if len(texts[-1]) > LONGEST_SHOWN:
                return None
        return texts[-1]


#: operations that the summary of a program omits
_UNNAMED: Final = ("slice", "strided", "data", "reshape")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def constant(value: float) -> Constant:
    """``Zeros()``, ``Ones()`` or ``Constant(value)``."""
    if value == 1:
        return Ones()
    return Zeros() if value == 0 and math.copysign(1.0, value) > 0 else Constant(value)
