"""What a module's ``forward`` does with a parameter, read from its source: which dimensions it sums over.

A small abstract run: the statements of ``forward``, and of the methods and functions that it hands the parameter to,
are followed once, with views of the parameter (transposed, indexed, sliced, cast) as the only values. Nothing is
executed, so that no input is needed. What cannot be followed counts as unknown, and unknown is an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeta.base.usage.views import Uses

# The parts are imported when somebody asks: torch's own layers need none of them.


def uses(layer: Any, name: str, ndim: int) -> Uses:
    """What ``forward`` of the class ``layer`` does with its parameter ``name`` of ``ndim`` dimensions."""
    from zeta.base.usage import forward

    return forward.uses(layer, name, ndim)


def normalizes(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of its own that it calls, divides by a norm or a std."""
    from zeta.base.usage import forward

    return forward.normalizes(layer)
