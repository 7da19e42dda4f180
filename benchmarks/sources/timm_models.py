"""The models of timm: two of each module."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.sources import Candidate, Source
from benchmarks.sources.operators import declare_torchvision

declare_torchvision()

import timm  # noqa: E402

SMALL = re.compile(
    r"(^|[_\d])(atto|femto|pico|nano|xxs|xxt|tiny|ti|mini|xs|xt|small|s|s0|m0|t0|b0|18|26|0?\d\dm?)(_|\d|$)"
)


def names() -> list[str]:
    """The first model of each module, in timm's order, and the first with a small name, else the last."""
    found: list[str] = []
    for module in timm.list_modules():
        if models := timm.list_models(module=module):
            found += dict.fromkeys([models[0], next((name for name in models if SMALL.search(name)), models[-1])])
    return found


def candidates(name: str) -> Iterator[Candidate]:
    """The model as registered."""
    yield timm.models.model_entrypoint(name).__module__.split(".")[-1], lambda: timm.create_model(name)


SOURCE = Source(
    title="timm",
    what=f"The first model of every module of timm {timm.__version__}, and one whose name says that it is small, as "
    "registered, without weights",
    noun="model",
    names=names,
    candidates=candidates,
)
