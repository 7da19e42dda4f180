"""The manifest: the request for a checkpoint, which is all that is needed to compute every value again."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from zeta.write.checkpoint.settings import SETTINGS, differences

MANIFEST: Final = "zeta.json"
_FORMAT: Final = "zeta manifest 1"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``zeta.json``.

    ``kept`` has the SHA-256 of each tensor that was copied from the model, and ``settings`` the text of each file of
    settings, by its name.
    """

    seed: int
    plan: Plan
    drop_ties: bool
    max_shard_size: int
    kept: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    model: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | None) or len(self.model or "") > LONGEST_TEXT:
            raise SpecError(
                f"the model's name must be a text or None, of at most {LONGEST_TEXT:,} characters, got "
                f"{shown(self.model)}"
            )
        for name in self.settings:
            if name not in SETTINGS:  # what a manifest names may be replaced and removed
                raise SpecError(f"settings must be files called {' or '.join(SETTINGS)}, got {shown(name)}")

    @property
    def layout(self) -> Layout:
        """The files and offsets."""
        return layout(self.plan, drop_ties=self.drop_ties, max_shard_size=self.max_shard_size)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files of the checkpoint."""
        return (*self.layout.names, *self.settings, MANIFEST)

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
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
                model=data.model,
            )
            for entry in manifest.plan:
                check_dtype(entry.initializer, entry.dtype)
            kept = {entry.name for entry in manifest.plan if entry.kept and entry.persistent}
            if other := sorted(manifest.kept.keys() - kept):
                raise FormatError(listed("kept_sha256 has names that the plan does not keep:", other))
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


class _Named(msgspec.Struct, frozen=True):
    """The one field from which the names of the settings are read."""

    settings: dict[Text, Any] = {}


def settings_named(path: Path) -> tuple[str, ...]:
    """The names of the settings of a manifest, without reading its plan; none if it cannot be read."""
    try:
        named = parse(read_bytes(path, LARGEST_DOCUMENT), _Named).settings
    except (OSError, FormatError):
        return ()
    return tuple(name for name in SETTINGS if name in named)


def changes(earlier: Manifest, now: Manifest) -> Iterator[str]:
    """The differences between two requests that change a byte of the files, in words."""
    for what in ("seed", "drop_ties", "max_shard_size"):
        one, two = getattr(earlier, what), getattr(now, what)
        if one != two:
            yield f"{what} was {one}, and is {two} now"
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


def _entry_text(entry: Entry) -> str:
    return f"{entry.initializer}, {dtypes.name_of(entry.dtype)} {shape_text(entry.shape)}"
