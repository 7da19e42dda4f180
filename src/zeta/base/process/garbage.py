"""Python's cyclic garbage collection, switched off while tens of thousands of long-lived objects are made."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncollected(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run the function, which makes no reference cycles, without garbage collection.

    A collection triggered by new objects visits all objects of the process, of which torch alone has 300,000. It takes
    longer than checking and measuring ten thousand parameters. If collection is off already, it stays off.
    """

    @functools.wraps(function)
    def quiet(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not gc.isenabled():
            return function(*args, **kwargs)
        try:
            gc.disable()
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return quiet
