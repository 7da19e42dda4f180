"""Python's search for cyclic garbage, put off while objects that live on are made by the ten thousand."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncollected(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let no search run in the function, which makes no cycles.

    A search that new objects set off goes over all objects of the process, of which torch alone has 300,000: it takes
    longer than to check and measure ten thousand parameters. One that is off already stays off.
    """

    @functools.wraps(function)
    def quiet(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return quiet
