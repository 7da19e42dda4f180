"""Which tensor of the checkpoint goes to which of the model, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from torch import nn

from zeta.base.sources import Source
from zeta.base.spelling import did_you_mean
from zeta.resolve.adapting.arrays import Array, Stored, stored_in
from zeta.resolve.adapting.converted import converted
from zeta.resolve.slots import Slot, unwrap
from zeta.resolve.submodels import Naming

#: names that get a suggestion, as each takes some milliseconds
_SUGGESTED: Final = 20
#: patterns of a transformers class for names that its checkpoints may have in addition
_IGNORED: Final = "_keys_to_ignore_on_load_unexpected"


class Names:
    """What a checkpoint has by the names of the model; remembers what of it was used.

    ``arrays`` are by the checkpoint's names, or by the model's where the checkpoint has others (see ``converted``).
    """

    def __init__(self, model: nn.Module, source: Source, naming: Naming | None, own: Collection[str]) -> None:
        self.source = source
        self._naming = naming
        self.arrays: dict[str, Array] = {name: Stored.of(source, name) for name in source.tensors}
        if naming is None:
            self.arrays |= converted(model, source, own)
        self._used: set[str] = set()

    def __call__(self, name: str) -> str:
        """The checkpoint's name of one of the model, whether or not it has that."""
        return name if self._naming is None else self._naming(name).strip(".")

    def find(self, names: Iterable[str]) -> list[str]:
        """Those of the checkpoint's names of a tensor with these names that it has."""
        return list(dict.fromkeys(found for name in names if (found := self(name)) in self.arrays))

    def use(self, array: Array) -> None:
        """What an array is made of is explained."""
        self._used.update(stored.name for stored in stored_in(array))

    def rest(self) -> list[str]:
        """The checkpoint's names that nothing used, in its order."""
        return [name for name in self.source.tensors if name not in self._used]


def ignored_by(model: nn.Module, slots: Iterable[Slot], names: Names) -> Callable[[str], bool]:
    """Whether a checkpoint may have a tensor in addition: buffers that are not saved, what the model's class says."""
    inner: Any = unwrap(model)
    patterns = getattr(type(inner), _IGNORED, None) or ()
    patterns = [re.compile(pattern) for pattern in patterns if isinstance(pattern, str)]
    temporary = {names(slot.name) for slot in slots if not slot.persistent}
    return lambda name: name in temporary or any(pattern.search(name) for pattern in patterns)


def with_suggestions(wrong: Collection[str], known: Collection[str]) -> Iterator[str]:
    """Each name, with the one that it may be meant as."""
    for number, name in enumerate(wrong):
        if ".parametrizations." in name:
            yield f"{name}, of a parametrized weight, which has to be loaded with load_state_dict or from_pretrained,"
            continue
        if name in known:
            yield f"{name}, whose block is put elsewhere by Layers, on one of another kind,"
            continue
        yield name + (did_you_mean(name, known) if number < _SUGGESTED else "")


def prefix_hint(own: Collection[str], source: Mapping[str, object]) -> str:
    """What to pass if one of the two has all names of the other inside a module; else nothing."""
    first = next(iter(own), "")
    for name in source:
        if name.endswith(f".{first}") and all(f"{name[: -len(first)]}{each}" in source for each in own):
            return f"the checkpoint has all these names inside of {name[: -len(first) - 1]!r}: pass prefix= with it"
    first = next(iter(source), "")
    for name in own:
        if name.endswith(f".{first}"):
            prefix = name[: -len(first) - 1]
            if sum(f"{prefix}.{each}" in own for each in source) * 2 > len(source):
                return (
                    f"the checkpoint is of the model's part {prefix!r}: pass name_map={{{prefix!r}: ''}}, or adapt "
                    "that part alone"
                )
    return ""
