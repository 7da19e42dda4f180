"""A module that is a part of the planned model, such as a pipeline stage, with the whole model's or other names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from zeta.base.reading import shown
from zeta.errors import PlanError, SpecError, listed

#: from a name in the part to that in the whole model: a function, or a dictionary of names of parameters or modules
NameMap = Callable[[str], str] | Mapping[str, str]


class Naming(Struct, frozen=True, kw_only=True, dict=True):
    """How names of a part become names of the whole model: apply ``name_map``, then prepend ``prefix``.

    >>> Naming(prefix="model", name_map={"layers.0": "layers.6"})("layers.0.weight")
    'model.layers.6.weight'
    """

    prefix: str = ""
    name_map: NameMap | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str):
            raise SpecError(f"prefix must be a text, such as 'model.layers.3', got {shown(self.prefix)}")
        if not (self.name_map is None or callable(self.name_map) or isinstance(self.name_map, Mapping)):
            raise SpecError(
                f"name_map must be a function from name to name or a dictionary, got {shown(self.name_map)}"
            )
        if isinstance(self.name_map, Mapping):
            for pair in self.name_map.items():
                if not all(isinstance(name, str) for name in pair):
                    raise SpecError(f"name_map must go from name to name, got {shown(pair[0])}: {shown(pair[1])}")

    def __call__(self, name: str) -> str:
        """The name in the whole model."""
        if isinstance(self.name_map, Mapping):
            key = next(self.keys_of(name), None)
            name = name if key is None else self.name_map[key] + name[len(key) :]
        elif self.name_map is not None:
            mapped = self.name_map(name)
            if not isinstance(mapped, str):
                raise SpecError(f"name_map must return the whole model's name of {name!r}, got {shown(mapped)}")
            name = mapped
        return f"{self.prefix}{'' if not self.prefix or self.prefix.endswith('.') else '.'}{name}"

    def keys_of(self, name: str) -> Iterator[str]:
        """The keys of the dictionary that are ``name`` or a module around it, the longest first."""
        for length in self._lengths:
            if name[length : length + 1] in ("", ".") and (key := name[:length]) in self._keys:
                yield key

    @functools.cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(self.name_map) - {""} if isinstance(self.name_map, Mapping) else frozenset()

    @functools.cached_property
    def _lengths(self) -> tuple[int, ...]:
        """The lengths of the keys. Trying these few is faster than trying all prefixes of a long name."""
        return tuple(sorted({len(key) for key in self._keys}, reverse=True))


def naming(prefix: str | None, name_map: NameMap | None) -> Naming | None:
    """The naming for these arguments; ``None`` if both are ``None``: the model is the whole one."""
    if prefix is None and name_map is None:
        return None
    return Naming(prefix="" if prefix is None else prefix, name_map=name_map)


def prefixes(own: Collection[str], planned: Collection[str]) -> list[str]:
    """The prefixes with which all of a model's own names are names of a larger one, in its order.

    >>> prefixes(["up.bias"], ["h.0.up.bias", "h.0.down.bias", "h.1.up.bias"])
    ['h.0', 'h.1']
    """
    if not own:
        return []
    first = next(iter(own))
    found = [name.removesuffix(first).removesuffix(".") for name in planned if f".{name}".endswith(f".{first}")]
    return [prefix for prefix in found if all(map(set(planned).__contains__, map(Naming(prefix=prefix), own)))]


def check_used(naming: Naming, names: Collection[str]) -> None:
    """Raise ``PlanError`` if ``name_map`` has a name that the part does not have."""
    if not isinstance(naming.name_map, Mapping):
        return
    used = {key for name in names for key in naming.keys_of(name)}
    if idle := [key for key in naming.name_map if key not in used]:
        raise PlanError(listed("name_map names what this part of the model does not have:", idle))


def renamed(naming: Naming, names: Iterable[str]) -> dict[str, str]:
    """The name in the whole model for each of the part's names. ``PlanError`` if two become equal."""
    new = {name: naming(name) for name in names}
    origins: dict[str, list[str]] = {}
    for name, of_whole in new.items():
        origins.setdefault(of_whole, []).append(name)
    twice = [f"{of_whole}: {' and '.join(several)}" for of_whole, several in origins.items() if len(several) > 1]
    if twice:
        raise PlanError(listed("prefix and name_map give these the same name:", twice))
    return new
