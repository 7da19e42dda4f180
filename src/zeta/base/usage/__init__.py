"""How a module's ``forward`` uses a parameter, read from its source: which dimensions it sums over.

This is a small abstract interpretation. It follows the statements of ``forward``, and of the methods and functions that
get the parameter, with views of the parameter (transposed, indexed, sliced, cast) as the only values. Nothing is
executed, so no input is needed. A use that cannot be followed is reported as ``lost``, and the fans are then unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from zeta.base.usage.views import Uses

# The submodules are imported at the first call: torch's own layers do not need them.


def uses(module: nn.Module, name: str, ndim: int) -> Uses:
    """How ``forward`` of a module uses its parameter ``name`` of ``ndim`` dimensions."""
    from zeta.base.usage import forward

    return forward.uses(module, name, ndim)


def normalizes(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, divides by a norm or a std."""
    from zeta.base.usage import forward

    return forward.normalizes(module)


def attends(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, computes an attention."""
    from zeta.base.usage import forward

    return forward.attends(module)
