"""A module that can be called: ``zeta.fans(layer)`` is a function's result, and ``zeta.fans.Axes`` is a class in it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Let a call of the module ``name`` call ``function``, which has the module's own name.

    Python sets an imported module as an attribute of its package, over the function if both have one name. With this,
    it does not matter which of them the attribute is.
    """
    module: Any = sys.modules[name]
    module.__class__ = type("CallableModule", (ModuleType,), {"__call__": staticmethod(function)})
    module.__signature__ = inspect.signature(function)
