"""Which parameters of a model belong to adapters: by names, by classes, and by pairs of low rank beside a layer.

A name with the word ``lora`` is one, whatever stands around the word. So is a pair called A and B that leads through a
narrow width from where the one layer beside it begins to where that ends, and a module called adapter whose matrices
lead to a narrower width and back.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from zeta.base.modules import named_modules_of, named_parameters_of
from zeta.rules.match import Role
from zeta.rules.role_names import ADAPTER, ADAPTER_A, ADAPTER_B

_LORA: Final = re.compile(r"(?<![a-z])(?:[qd]|rs)?loras?(?![a-z])|LoRA|Lo[rR][aA](?=[A-Z_\d]|$)")
_ADAPTER: Final = re.compile(r"(?i)(?<![a-z])adapters?(?![a-z])|(?-i:Adapter)|low_?rank")
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: what the two matrices are called; letters win over words, and these over numbers
_SIDES: Final = (("a", "b"), ("down", "up"), ("1", "2"))
_LETTERS: Final = _SIDES[:1]


class Part(NamedTuple):
    """What a parameter of an adapter is, and the module that holds the adapter and the layer."""

    role: Role
    layer: str


class _Entry(NamedTuple):
    """A matrix directly in a module, and the widths that it may lead from and to."""

    local: str
    maps: tuple[tuple[int, int], ...]


class Adapters:
    """The adapters in a model whose modules have these names."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._parts: dict[str, Part] = {}
        #: the layers beside adapters
        self.bases: set[str] = set()
        for name, module in modules.items():
            self._look(name, module)

    def of(self, name: str) -> Part | None:
        """What a parameter, or a module, is in an adapter; ``None`` if it belongs to none."""
        found, end = self._by_name(name), len(name)
        while found is None and end > 0:
            found = self._parts.get(name[:end])
            end = name.rfind(".", 0, end)
        return found

    def _by_name(self, name: str) -> Part | None:
        parts = name.split(".")
        for index, part in enumerate(parts):
            for role, pattern in ((Role.ADAPTER_A, ADAPTER_A), (Role.ADAPTER_B, ADAPTER_B)):
                if pattern.fullmatch(part):
                    return Part(role, ".".join(parts[:index]))
        for index, part in enumerate(parts):
            if _LORA.search(part):
                said = None if any(each.isdecimal() for each in parts[index:]) else _side("_".join(parts[index:]))
                return Part(_role(said), ".".join(parts[:index]))
            if ADAPTER.fullmatch(part):
                return Part(Role.ADAPTER, ".".join(parts[:index]))
        return None

    def _look(self, name: str, module: nn.Module) -> None:
        """Adapters in a module that no name gives away."""
        kind: Any = type(module)
        by_peft = module._parameters if kind.__module__.startswith("peft.") else ()
        for local in (*by_peft, *getattr(module, "adapter_layer_names", ())):
            self._note(name, local, Role.ADAPTER, name)
        entries, called = _entries(module), name.rpartition(".")[2]
        lora = _LORA.search(kind.__name__) is not None
        adapter = name != "" and any(map(_ADAPTER.search, (called, kind.__name__)))
        pairs = [*_pairs(entries, _SIDES if lora else _LETTERS)]
        for a, b in pairs:
            self._pair(name, a, b, entries, sure=lora or adapter or _ADAPTER.search(a.local) is not None)
        if lora and not pairs and (name or len(entries) > 2):
            for a, b in itertools.permutations(entries, 2):
                if _low_rank(a, b):
                    self._note(name, a.local, Role.ADAPTER, name)
                    self._note(name, b.local, Role.ADAPTER, name)
        elif adapter and not pairs and _narrows(module):
            outer, _, local = name.rpartition(".")
            self._note(outer, local, Role.ADAPTER, outer)

    def _pair(self, name: str, a: _Entry, b: _Entry, entries: list[_Entry], *, sure: bool) -> None:
        """Notes A and B if the one layer beside them has their outer widths, or if names say that it is an adapter."""
        outer, holder, used = _low_rank(a, b), name, (a.local, b.local)
        if len(entries) == 2 and name:  # the layer is beside what holds both
            holder, _, local = name.rpartition(".")
            entries, used = _entries(self._modules.get(holder)), (local, local)
        rest = [each for each in entries if each.local not in used]
        if found := len(rest) == 1 and bool(outer.intersection(rest[0].maps)):
            self.bases.add(_join(holder, rest[0].local))
        letters = _side(a.local, _LETTERS) is not None
        if found or (sure and (letters or outer)):
            known = found or letters
            self._note(name, a.local, Role.ADAPTER_A if known else Role.ADAPTER, holder)
            self._note(name, b.local, Role.ADAPTER_B if known else Role.ADAPTER, holder)

    def _note(self, name: str, local: str, role: Role, layer: str) -> None:
        self._parts[_join(name, local)] = Part(role, layer)


def adapters_of(model: nn.Module) -> Adapters:
    """The adapters of a model."""
    with torch._C.DisableTorchFunction():  # a shape is asked for, which a mode of the caller may refuse
        return Adapters(dict(named_modules_of(model)))


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has a parameter of an adapter."""
    found = adapters_of(model)
    return any(found.of(name) is not None for name, _ in named_parameters_of(model))


def _join(name: str, local: str) -> str:
    return f"{name}.{local}" if name else local


def _role(said: str | None) -> Role:
    return Role.ADAPTER if said is None else Role.ADAPTER_A if said == "a" else Role.ADAPTER_B


def _words(text: str) -> list[str]:
    return [re.sub("^w(?=[ab]$)", "", word.lower()) for word in _WORDS.findall(text)]


def _side(text: str, sides: tuple[tuple[str, str], ...] = _SIDES) -> str | None:
    """``a`` or ``b``, if one of the two is in a name and the other is not."""
    words = _words(text)
    for a, b in sides:
        if a in words or b in words:
            return None if a in words and b in words else "a" if a in words else "b"
    return None


def _pairs(entries: list[_Entry], sides: tuple[tuple[str, str], ...]) -> Iterator[tuple[_Entry, _Entry]]:
    """A and B with otherwise the same name."""
    by_words = {tuple(_words(each.local)): each for each in entries}
    for words, entry in by_words.items():
        for a, b in sides:
            if a in words and (other := by_words.get(tuple(b if word == a else word for word in words))) is not None:
                yield entry, other


def _low_rank(a: _Entry, b: _Entry) -> set[tuple[int, int]]:
    """From where to where A and then B lead through a narrower width."""
    return {
        (into, out)
        for into, rank in a.maps
        for other, out in b.maps
        if rank == other and rank < max(into, out)
    }  # fmt: skip


def _entries(module: nn.Module | None) -> list[_Entry]:
    """The matrices of a module, and of the layers directly in it that hold nothing else."""
    found: list[_Entry] = []
    if module is None:
        return found
    for local, tensor in module._parameters.items():
        if tensor is not None and tensor.ndim >= 2:
            found.append(_Entry(local, _maps(tensor, module if local == "weight" else None)))
    for local, child in module._modules.items():
        matrices = [] if child is None else [each for each in child._parameters.values() if each is not None]
        matrices = [each for each in matrices if each.ndim >= 2]
        if child is not None and len(matrices) == 1 and not child._modules:
            found.append(_Entry(local, _maps(matrices[0], child)))
    return found


def _maps(tensor: nn.Parameter, layer: nn.Module | None) -> tuple[tuple[int, int], ...]:
    """From which width to which: a parameter that is no layer's weight may be meant in both ways."""
    out, into = tensor.shape[:2]
    plain = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    return ((into, out),) if plain else ((into, out), (out, into))


def _narrows(module: nn.Module) -> bool:
    """Whether matrices, and no kernels, lead to a narrower width and from there to a wider one."""
    maps = [
        tuple(weight.shape[1::-1])
        for _, part in named_modules_of(module)
        if (weight := part._parameters.get("weight")) is not None
        and weight.ndim >= 2
        and math.prod(weight.shape[2:]) == 1
        and not isinstance(part, nn.Embedding)
    ]
    narrow = {out for into, out in maps if out < into}
    return any(into in narrow and out > into for into, out in maps[-1:])
