"""A callable module: ``zeta.fans`` is both a function, ``zeta.fans(layer)``, and a module, ``zeta.fans.Axes``.

The public function and the module with its classes have the same name. That is needed as long as both are public.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Make the module ``name`` callable: a call of it calls ``function``, which has the same name.

    When Python imports a module, it sets the module as an attribute of its package, and would overwrite the function of
    the same name. If the module is callable, both meanings of the attribute work. ``help`` shows what the function
    takes before what the module has.
    """
    module: Any = sys.modules[name]
    module.__class__ = type("CallableModule", (ModuleType,), {"__call__": staticmethod(function)})
    module.__signature__ = inspect.signature(function)
    text, _, _ = (inspect.getdoc(function) or "").partition(">>>")  # its examples are run where it is defined
    module.__doc__ = f"{module.__doc__}\n\n{name}{module.__signature__}\n\n{text}"
