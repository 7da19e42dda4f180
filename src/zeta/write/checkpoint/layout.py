"""The files of a plan's checkpoint, and the offset of each tensor in them, computed from the plan before any value.

A safetensors file is an 8-byte length, a JSON header and the tensors' bytes
(https://github.com/huggingface/safetensors#format). A checkpoint in several files has an index that says which tensor
is in which, as transformers' ``save_pretrained`` writes it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from zeta.base import dtypes
from zeta.base.reading import shown
from zeta.errors import CheckpointError, SpecError, listed
from zeta.resolve.plans import Entry, Plan

TENSORS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
#: the names of the files of a checkpoint with several files
SHARD: Final = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")
#: the default of transformers' ``save_pretrained``
MAX_SHARD_SIZE: Final = "50GB"

_RESERVED: Final = "__metadata__"
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_LONGEST_SIZE: Final = 40
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One entry in a file: its names there, and for each name the offset of its first byte."""

    entry: Entry
    names: tuple[str, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file: its name, its first bytes (length and header), its entries, and its size in bytes."""

    name: str
    header: bytes
    stored: tuple[Stored, ...]
    size: int

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return self.size - len(self.header)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A checkpoint's files, and the text of the index if there are several."""

    shards: tuple[Shard, ...]
    index: str | None

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files except the manifest."""
        shards = tuple(shard.name for shard in self.shards)
        return shards if self.index is None else (*shards, INDEX)


def layout(plan: Plan, *, drop_ties: bool, max_shard_size: int) -> Layout:
    """Return the layout of the persistent entries of a plan.

    Within a file, tensors with larger elements come first, so that every tensor is aligned to its element size.

    Raises ``CheckpointError`` for dtypes and names that the format does not support.
    """
    named = [(entry, (entry.name,) if drop_ties else (entry.name, *entry.ties)) for entry in plan if entry.persistent]
    _check(named)
    files = _split(named, max_shard_size)
    count = len(files)
    titles = [TENSORS] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    shards = tuple(_shard(title, content) for title, content in zip(titles, files, strict=True))
    return Layout(shards=shards, index=None if count == 1 else _index(plan, shards))


def bytes_of(size: int | str) -> int:
    """A size in bytes, from a number of them or from a text such as ``"5GB"`` (10^9 each) or ``"5GiB"`` (2^30 each).

    >>> bytes_of("1.5MB"), bytes_of("2 KiB"), bytes_of(7)
    (1500000, 2048, 7)
    """
    if isinstance(size, str) and len(size) <= _LONGEST_SIZE and (match := _SIZE.fullmatch(size.strip())):
        number, prefix, binary = match.groups()
        count = int(Decimal(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))
    else:
        count = size if isinstance(size, int) and not isinstance(size, bool) else 0
    if count < 1:
        raise SpecError(
            f"max_shard_size must be a number of bytes from 1 on, or a text such as '5GB', got {shown(size)}"
        )
    return count


Named = tuple[Entry, tuple[str, ...]]


def _check(named: Sequence[Named]) -> None:
    unknown = [
        f"{name}: {dtypes.name_of(entry.dtype)}"
        for entry, names in named
        for name in names
        if entry.dtype not in dtypes.SAFETENSORS
    ]
    if unknown:
        raise CheckpointError(listed("safetensors has no such dtype:", unknown))
    every = [name for _, names in named for name in names]
    odd = [f"{name}: is reserved by the format" for name in every if name == _RESERVED]
    odd += [f"{name!r}: is not valid Unicode" for name in every if _SURROGATE.search(name)]
    if odd:
        raise CheckpointError(listed("safetensors cannot hold these names; rename them:", odd))


def _split(named: Sequence[Named], most: int) -> list[list[Named]]:
    """Divide entries into files as huggingface_hub does: in order; a new file begins when the next entry does not fit.

    An entry larger than ``most`` gets a separate file, and the current file continues after it.
    """
    files: list[list[Named]] = []
    current: list[Named] = []
    room = most
    for entry, names in named:
        size = entry.nbytes * len(names)
        if size > most:
            files.append([(entry, names)])
            continue
        if size > room:
            files.append(current)
            current, room = [], most
        current.append((entry, names))
        room -= size
    return [*files, current] if current or not files else files


def _shard(title: str, content: Sequence[Named]) -> Shard:
    ordered = sorted(content, key=lambda item: -item[0].dtype.itemsize)
    header: dict[str, Any] = {_RESERVED: {"format": "pt"}}
    position = 0
    for entry, names in ordered:
        for name in names:
            header[name] = {
                "dtype": dtypes.SAFETENSORS[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": [position, position := position + entry.nbytes],
            }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = struct.pack("<Q", len(text)) + text
    stored = tuple(
        Stored(
            entry=entry,
            names=names,
            offsets=tuple(len(first) + header[name]["data_offsets"][0] for name in names),
        )
        for entry, names in ordered
    )
    return Shard(name=title, header=first, stored=stored, size=len(first) + position)


def _index(plan: Plan, shards: Sequence[Shard]) -> str:
    weights = dict(_places(shards))
    metadata = {
        "total_parameters": sum(entry.numel for entry in plan.parameters),
        "total_size": sum(shard.nbytes for shard in shards),
    }
    return json.dumps({"metadata": metadata, "weight_map": weights}, indent=2, sort_keys=True) + "\n"


def _places(shards: Sequence[Shard]) -> Iterator[tuple[str, str]]:
    for shard in shards:
        for item in shard.stored:
            yield from ((name, shard.name) for name in item.names)
