"""The law of a parameter in the target: that of the base, times a factor."""

from __future__ import annotations

import math
from typing import Final

from zeta.errors import SpecError
from zeta.initializers import Blocks, Constant, Draw, Initializer, Keep, Program, Site, Sparse, Step
from zeta.initializers.elementwise import ELEMENTWISE
from zeta.resolve.entries import Entry

#: their values do not depend on the shape of the tensor, up to its rounding
_SHAPELESS: Final = (*ELEMENTWISE, Sparse)


def rescaled(base: Entry, target: Entry, factor: float) -> Initializer:
    """The law of ``base``, solved there, on the shape of ``target``, with ``factor`` times the std.

    A law of matrices, such as ``Orthogonal``, has another std on another shape: it is scaled to what is asked for. What
    is no law (a program, or a parameter that is kept) is the target's own where the factor is 1.

    Raises ``SpecError`` where it has another factor.
    """
    asked, own = law_of(base.initializer), target.initializer
    if not isinstance(asked, Program | Keep):
        return _as(own, _law(asked, base.site, target.site, factor))
    if factor == 1:
        return own
    if isinstance(asked, Keep):
        raise SpecError(f"is kept, so that its std cannot be multiplied by {factor:.4g}; give it a law with init=")
    raise SpecError(
        f"is a program, {asked}, and no law whose std can be multiplied by {factor:.4g}; give it one with "
        f'init=Rules([Rule("{target.name}", ...), ...])'
    )


def law_of(initializer: Initializer) -> Initializer:
    """The law of a program that only repeats the draw of another parameter, as in a copied layer; or what is given."""
    draw = _only_draw(initializer)
    return initializer if draw is None else draw.initializer


def _only_draw(initializer: Initializer) -> Draw | None:
    steps = initializer.steps if isinstance(initializer, Program) else ()
    return steps[0].leaf if len(steps) == 1 and isinstance(steps[0].leaf, Draw) else None


def _as(own: Initializer, law: Initializer) -> Initializer:
    """The law; of a parameter that repeats another's draw, a draw that repeats it too."""
    draw = _only_draw(own)
    if draw is None or not law.is_random or isinstance(law, Blocks):
        return law
    assert isinstance(own, Program)
    leaf = Draw(law, draw.number, draw.of, draw.axes)
    step = own.steps[0]
    return Program((Step(op=step.op, leaf=leaf, shape=step.shape, dtype=step.dtype),))


def _law(asked: Initializer, base: Site, target: Site, factor: float) -> Initializer:
    if isinstance(asked, Blocks):
        if all(isinstance(part, _SHAPELESS) for part in asked.parts):
            return asked.scaled(factor)
        n, dim = len(asked.parts), asked.dim
        parts = (part.scaled(_of_std(Blocks(*[part] * n, dim=dim), base, target, factor)) for part in asked.parts)
        return Blocks(*parts, dim=dim)
    if isinstance(asked, _SHAPELESS):
        return asked if factor == 1 else asked.scaled(factor)
    scale = _of_std(asked, base, target, factor)
    return asked if math.isclose(scale, 1.0, rel_tol=1e-12) else asked.scaled(scale)


def _of_std(law: Initializer, base: Site, target: Site, factor: float) -> float:
    """By what a law is multiplied to have, on the target's shape, ``factor`` times its std on the base's."""
    if all(isinstance(part, Constant) for part in getattr(law, "parts", [law])):
        return factor
    before, after = law.moments(base), law.moments(target)
    if before is None or after is None or not after.std:
        return factor
    return factor * before.std / after.std
