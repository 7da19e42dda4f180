"""The weights that map vectors, with what their names and shapes say."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from zeta.resolve.slots import Slot
from zeta.rules import role_names as names
from zeta.rules.match import Role


class Site(Struct, frozen=True, kw_only=True, eq=False):
    """A weight that maps vectors: where it stands, and the widths that it leads from and to."""

    slot: Slot
    #: the parts of its name, without "weight" and what wraps a layer
    path: tuple[str, ...]
    into: int
    out: int
    #: the path of the attention, or of the MLP, that it belongs to
    attention: tuple[str, ...] | None = None
    mlp: tuple[str, ...] | None = None

    @property
    def within(self) -> str:
        """Its name inside the block, or the last three parts of it."""
        return ".".join(self.path[max(len(self.block), len(self.path) - 3) :])

    @property
    def within_attention(self) -> str:
        """Its name inside the attention, or the last two parts of it."""
        return ".".join(self.path[max(len(self.attention or ()), len(self.path) - 2) :])

    @property
    def listed(self) -> tuple[str, ...]:
        """The path of the outermost list that it is in; of a weight outside of one, nothing."""
        numbered = [index for index, part in enumerate(self.path[:-1]) if part.isdecimal()]
        return self.path[: numbered[0]] if numbered else ()

    @property
    def block(self) -> tuple[str, ...]:
        """The path of the module that is numbered and holds it; all weights outside of one have the same."""
        numbered = [index for index, part in enumerate(self.path[:-1]) if part.isdecimal()]
        return self.path[: numbered[-1] + 1] if numbered else ()


def projection(site: Site) -> Role | None:
    """Into an attention, by the last part of the name."""
    last = names.plain(site.path[-1])
    return next((role for role, pattern in names.PROJECTIONS.items() if pattern.fullmatch(last)), None)


def last_parts(path: tuple[str, ...]) -> str:
    """The last part of a name in plain form; with the one before it if it says nothing by itself."""
    last = names.plain(path[-1])
    if (path[-1].isdecimal() or last in names.GENERIC) and len(path) > 1:
        return f"{path[-2].lower()}.{last}"
    return f"_{last}" if last.isdecimal() else last


def grouped(sites: list[Site], key: Any) -> list[list[Site]]:
    """The weights with the same key, apart from those whose key is ``None``."""
    found: dict[Any, list[Site]] = {}
    for site in sites:
        if (group := key(site)) is not None:
            found.setdefault(group, []).append(site)
    return list(found.values())
