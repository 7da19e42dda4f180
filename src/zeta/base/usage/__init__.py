"""How a module's ``forward`` uses a parameter, read from its source: which dimensions it sums over.

This is a small abstract interpretation. It follows the statements of ``forward``, and of the methods and functions that
get the parameter, with views of the parameter (transposed, indexed, sliced, cast) as the only values. Nothing is
executed, so no input is needed. A use that cannot be followed is reported as ``lost``, and the fans are then unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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


def multiplies(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, multiplies matrices."""
    from zeta.base.usage import forward

    return forward.multiplies(module)


def scales_from_zero(module: nn.Module, name: str) -> bool:
    """Whether a norm multiplies by one plus its parameter ``name``, which therefore starts at 0, as in Gemma."""
    layer, parameter = type(module), module._parameters.get(name)
    if name.startswith("bias") or layer.__module__.startswith("torch."):
        return False
    if getattr(module, "zero_centered_gamma", False) is True or re.search("(Norm1P|Zero_?[Cc]ent)", layer.__name__):
        return True
    return parameter is not None and normalizes(module) and uses(module, name, parameter.ndim).from_zero


def attends(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, computes an attention."""
    from zeta.base.usage import forward

    return forward.attends(module)


def normalized_sum(module: nn.Module, is_norm: Callable[[nn.Module], bool]) -> str | None:
    """The child by which ``forward`` of a module normalizes a sum, and keeps nothing of it; ``None`` if none does."""
    from zeta.base.usage import normalized

    try:
        return normalized.normalized_sum(module, is_norm)
    except Exception:  # unusual code can make it fail in any way
        return None


def takes_turns(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, takes every other place, as ``[::2]``."""
    from zeta.base.usage import forward

    return forward.takes_turns(module)


def adds(module: nn.Module) -> bool | None:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, adds; ``None`` if not known."""
    from zeta.base.usage import forward

    return forward.adds(module)


def called_in_order(module: nn.Module) -> list[str]:
    """The modules that ``forward`` of a module calls as ``self.name(...)``, in order; empty if not known."""
    from zeta.base.usage import forward

    return forward.called_in_order(module)
