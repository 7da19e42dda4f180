"""Where the models of ``benchmarks.architectures`` come from: one module for each library.

Each module has a ``SOURCE``. A source lists names; for a name it yields candidates, of which the first that can be
built is examined.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

#: the name of a class, and what builds the model
Candidate = tuple[str, Callable[[], nn.Module]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The models of one library.

    ``what`` says in a sentence what was built, ``noun`` what one of the names is. ``candidates`` raises where a name
    has no model. ``limits`` says what the library cannot do in the environment of the comparison. With ``unbuilt`` the
    page lists what cannot be built. ``warm_up`` imports once what most models import. ``smaller`` yields models of the
    same type for which there are fewer values to compare.
    """

    title: str
    what: str
    noun: str
    names: Callable[[], Sequence[str]]
    candidates: Callable[[str], Iterator[Candidate]]
    limits: str = ""
    unbuilt: bool = True
    warm_up: Callable[[], None] = lambda: None
    smaller: Callable[[str], Iterator[Candidate]] = lambda name: iter(())


SOURCES = ("transformers", "timm", "torchvision", "diffusers", "peft", "geometric", "torch")


def source(name: str) -> Source:
    """The source of this name; its library is imported here."""
    if name not in SOURCES:
        raise ValueError(f"no source {name!r}; there are {', '.join(SOURCES)}")
    return importlib.import_module(f"benchmarks.sources.{name}_models").SOURCE  # type: ignore[no-any-return]
