"""The models of ``zeta check --widths`` and ``--depths``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zeta.command import options
from zeta.command.loading import find_factory, load_model
from zeta.command.requests import CheckOptions, ModelOptions
from zeta.errors import UsageError
from zeta.resolve.scaling.schemes import is_absolute
from zeta.rules.file import read_rules
from zeta.scaling import family


def sweeps_of(asked: ModelOptions, request: CheckOptions, seed: int, model: nn.Module) -> dict[str, Any]:
    """The arguments of :func:`zeta.check` for its coordinate check: a factory of models, and their sizes."""
    found: dict[str, Any] = {}
    for name in ("width", "depth"):
        text: str | None = getattr(request, f"{name}s")
        if text is not None:
            argument, sizes = _sizes(f"--{name}s", text)
            if is_absolute(request.how) and len(sizes) < 3:
                raise UsageError(f"--{name}s with --how {request.how} must be three sizes or more, as the first is "
                                 f"the base, which only says what grows and is not measured, got {text!r}")  # fmt: skip
            measured = sizes[1:] if is_absolute(request.how) else sizes
            found |= {name: _family(asked, request, argument, sizes[0], seed, model), f"{name}s": measured}
    if found and request.level != "full":
        raise UsageError("--widths and --depths belong to the full level; give --level full")
    if found and (asked.override is not None or asked.dtype is not None):
        raise UsageError("--widths and --depths build models as --recipe, --rules or the constructor says, in its "
                         "dtype; leave --override and --dtype out")  # fmt: skip
    return found


def _sizes(option: str, text: str) -> tuple[str, tuple[int, ...]]:
    argument, equals, numbers = text.partition("=")
    sizes = [number.strip() for number in numbers.split(",")]
    if not equals or not argument.strip().isidentifier() or not all(map(str.isdecimal, sizes)):
        raise UsageError(f"{option} must be an argument and its values, as d_model=64,128,256, got {text!r}")
    return argument.strip(), tuple(map(int, sizes))


def _family(
    asked: ModelOptions, request: CheckOptions, argument: str, smallest: int, seed: int, model: nn.Module
) -> Callable[[int], Any]:
    init = asked.recipe if asked.rules is None else read_rules(asked.rules, model)
    base = {**options.arguments_of(asked.kwargs), argument: smallest}
    load_model(asked.model, base, "meta")  # an argument that it does not take is an error before anything is measured
    return family(
        find_factory(asked.model),
        base,
        argument,
        request.how,
        lr=request.lr,
        seed=seed,
        init=init,
        fallback=options.fallback_of(asked.fallback),
    )
