"""The manifest: the request for a checkpoint, which is all that is needed to compute every value again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import torch

from zeta._version import __version__
from zeta.base import dtypes
from zeta.base.reading import (
    LARGEST_DOCUMENT,
    LARGEST_SETTINGS,
    LONGEST_TEXT,
    Text,
    decode,
    json_text,
    parse,
    read_bytes,
    shallow,
    shown,
)
from zeta.base.text import shape_text
from zeta.compute.stream.random import STREAM_VERSION, check_seed
from zeta.errors import CheckpointError, FormatError, SpecError, ZetaError, listed
from zeta.resolve.plans import Entry, Plan, essences
from zeta.resolve.solving import check_dtype
from zeta.write.checkpoint.layout import Layout, bytes_of, layout
from zeta.write.checkpoint.settings import COPIED, SETTINGS, differences

MANIFEST: Final = "zeta.json"
_FORMAT: Final = "zeta manifest 1"


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a tensor has of another checkpoint, for people; and the name of the tensor there, if it is all of that one.

    It may have been converted to another dtype.
    """

    text: Text
    tensor: Text | None = None


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The other checkpoint that tensors are from, by their names. ``files`` is for unfinished work alone.

    It has the size and the time of the last change, in ns, of each file there.
    """

    source: Text
    tensors: dict[Text, Provenance]
    files: dict[Text, tuple[int, int]] = {}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``zeta.json``.

    ``kept`` has the SHA-256 of what was not drawn of each tensor, in row-major order, ``settings`` the text of each
    file of settings, and ``copies`` the SHA-256 of each file that was copied. ``origin`` says which tensors are from
    another checkpoint.
    """

    seed: int
    plan: Plan
    drop_ties: bool
    max_shard_size: int
    kept: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | None) or len(self.model or "") > LONGEST_TEXT:
            raise SpecError(
                f"the model's name must be a text or None, of at most {LONGEST_TEXT:,} characters, got "
                f"{shown(self.model)}"
            )
        for what, given, allowed in (("settings", self.settings, SETTINGS), ("copies", self.copies, COPIED)):
            for name in given:
                if name not in allowed:  # what a manifest names may be replaced and removed
                    raise SpecError(f"{what} must be files called {' or '.join(allowed)}, got {shown(name)}")

    @property
    def layout(self) -> Layout:
        """The files and offsets."""
        return layout(self.plan, drop_ties=self.drop_ties, max_shard_size=self.max_shard_size)

    @property
    def beside(self) -> dict[str, str]:
        """The files whose names others use too, by name: their SHA-256."""
        texts = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.settings.items()}
        return {**texts, **self.copies}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files of the checkpoint."""
        return (*self.layout.names, *self.beside, MANIFEST)

    def finished(self, kept: dict[str, str]) -> Manifest:
        """The manifest of what was written, with the SHA-256 of what was kept."""
        origin = None if self.origin is None else msgspec.structs.replace(self.origin, files={})
        return replace(self, kept=kept, origin=origin)

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        more = {} if self.origin is None else {"origin": self.origin, "copied_sha256": self.copies}
        return json_text(
            {
                "format": _FORMAT,
                "seed": self.seed,
                "stream": STREAM_VERSION,
                "model": self.model,
                "versions": {"zeta": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
                "drop_ties": self.drop_ties,
                "max_shard_size": self.max_shard_size,
                "kept_sha256": self.kept,
                "settings": self.settings,
                **more,
                "plan": msgspec.Raw(self.plan.to_json().encode()),
            }
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest; ``CheckpointError`` if it is missing, broken or of another stream version."""
        try:
            content = shallow(read_bytes(path, LARGEST_DOCUMENT))
            head = decode(content, _Head)
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist: {path.parent} was not written by zeta") from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        except FormatError as error:
            raise CheckpointError(f"{path} cannot be read as a manifest: {error}") from error
        if head.format != _FORMAT:
            raise CheckpointError(f"{path} is not a manifest of this version of zeta (expected format {_FORMAT!r})")
        if head.stream != STREAM_VERSION or type(head.stream) is not int:
            raise CheckpointError(
                f"{path} was written with stream version {shown(head.stream)}; this zeta has version {STREAM_VERSION}"
            )
        try:
            data = decode(content, _Document)
            manifest = cls(
                seed=check_seed(data.seed),
                plan=Plan.from_json(bytes(data.plan)),
                drop_ties=data.drop_ties,
                max_shard_size=bytes_of(data.max_shard_size),
                kept=data.kept_sha256,
                settings=data.settings,
                copies=data.copied_sha256,
                origin=data.origin,
                model=data.model,
            )
            for entry in manifest.plan:
                check_dtype(entry.initializer, entry.dtype)
            some = (e for e in manifest.plan if e.persistent and (e.kept or e.section is not None))
            kept = {entry.name for entry in some}
            given = manifest.kept.keys() | (set() if manifest.origin is None else manifest.origin.tensors.keys())
            if other := sorted(given - kept):
                raise FormatError(listed("kept_sha256 and origin have names that the plan does not keep:", other))
        except ZetaError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        return manifest


class _Head(msgspec.Struct, frozen=True):
    """The fields that decide whether the rest can be read."""

    format: Any = None
    stream: Any = None


class _Document(msgspec.Struct, frozen=True):
    """The fields of ``zeta.json`` that are read; ``versions`` is for people only."""

    seed: int
    model: Text | None
    drop_ties: bool
    max_shard_size: int | Text
    kept_sha256: dict[Text, Text]
    plan: msgspec.Raw
    settings: dict[Text, Annotated[str, msgspec.Meta(max_length=LARGEST_SETTINGS)]] = {}
    copied_sha256: dict[Text, Text] = {}
    origin: Origin | None = None


class _Named(msgspec.Struct, frozen=True):
    """The fields from which the names of the files beside the tensors are read."""

    settings: dict[Text, Any] = {}
    copied_sha256: dict[Text, Any] = {}


def named_beside(path: Path) -> tuple[str, ...]:
    """The names of the files beside the tensors of a manifest, without reading its plan; none if it cannot be read."""
    try:
        named = parse(read_bytes(path, LARGEST_DOCUMENT), _Named)
    except (OSError, FormatError):
        return ()
    return tuple(name for name in (*SETTINGS, *COPIED) if name in named.settings or name in named.copied_sha256)


def changes(earlier: Manifest, now: Manifest) -> Iterator[str]:
    """The differences between two requests that change a byte of the files, in words."""
    for what in ("seed", "drop_ties", "max_shard_size"):
        one, two = getattr(earlier, what), getattr(now, what)
        if one != two:
            yield f"{what} was {one}, and is {two} now"
    yield from _changes_of_origin(earlier, now)
    for name in SETTINGS:
        yield from (f"{name}: {what}" for what in differences(earlier.settings.get(name), now.settings.get(name)))
    before = {entry.name: entry for entry in earlier.plan}
    after = {entry.name: entry for entry in now.plan}
    yield from (f"{name}: is not in this plan" for name in before if name not in after)
    yield from (f"{name}: was not in the plan" for name in after if name not in before)
    was, wanted = essences(earlier.plan), essences(now.plan)
    for name, entry in after.items():
        if name in before and was[name] != wanted[name]:
            one, two = _entry_text(before[name]), _entry_text(entry)
            yield f"{name}: was {one}, and is {two} now" if one != two else f"{name}: was planned otherwise"
    if [*before] != [*after] and before.keys() == after.keys():
        yield "the order of the tensors was another"


def _changes_of_origin(earlier: Manifest, now: Manifest) -> Iterator[str]:
    """The differences between what two requests take from another checkpoint."""
    one, two = earlier.origin, now.origin
    if (one is None) != (two is None):
        yield f"was {'not ' if one is None else ''}from another checkpoint"
    if one is not None and two is not None:
        if one.files and two.files:  # finished work does not have them
            for name, state in two.files.items():
                if name not in one.files:
                    yield f"{two.source}: {name} was not there"
                elif one.files[name] != state:
                    yield f"{two.source}: {name} was changed or replaced meanwhile"
        for name, found in two.tensors.items():
            if (before := one.tensors.get(name)) is not None and before != found:
                yield f"{name}: was from {before.text}, and is from {found.text} now"
    for name in COPIED:
        if earlier.copies.get(name) != now.copies.get(name):
            yield f"{name}: is another file now"


def _entry_text(entry: Entry) -> str:
    return f"{entry.law_text}, {dtypes.name_of(entry.dtype)} {shape_text(entry.shape)}"
