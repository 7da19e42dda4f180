"""Dense MLPs that become mixtures of experts, and mixtures that get more of them."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct
from torch import nn

from zeta.base.text import shape_text
from zeta.base.usage import takes_turns
from zeta.errors import PlanError
from zeta.growing import Experts
from zeta.resolve.adapting.arrays import Array, Joined, Noisy, Stacked, Taken, Turned
from zeta.resolve.adapting.layers import Depth
from zeta.resolve.adapting.names import Names
from zeta.resolve.slots import Slot, walk
from zeta.resolve.solving import axes_if_any
from zeta.rules import role_names
from zeta.rules.globs import glob_matcher

Part = Literal["gate", "up", "gate_up", "down"]
Shape = tuple[int, ...]
#: ``shared_experts`` is one MLP beside the experts
_LIST: Final = re.compile(r"(.*(?<!shared_)experts\.)(\d+)\.(.+)")
_PACKED: Final = re.compile(r"(.*(?<!shared_)experts)[._](.+)")
#: words of a name that say nothing about which matrix of an MLP it is
_TAIL: Final = re.compile(r"[._](weight|bias)(_[A-Z]+)?$")


class Mixture(Struct, frozen=True, kw_only=True, eq=False):
    """A module of the model that is to be a mixture of experts, and what its tensors get. ``None``: it is drawn.

    ``preserving``: nothing but the router is drawn, and the chosen experts are copies of one.
    """

    path: str
    values: Mapping[str, Array | None]
    preserving: bool


class Sides(Struct, frozen=True, kw_only=True, eq=False):
    """The new model, its tensors by name, and what gives the model that the checkpoint is of, if it is known."""

    model: nn.Module
    slots: Mapping[str, Slot]
    old: Callable[[], nn.Module | None]

    def is_turned(self, name: str) -> bool | None:
        """Whether a matrix of the new model is (in, out), by its module; ``None`` if that is not known."""
        return _is_turned(self.slots.get(name))

    def was_turned(self, name: str) -> bool | None:
        """As ``is_turned``, of the checkpoint's model."""
        old = self.old()
        return None if old is None else _is_turned(next((slot for slot in walk(old) if slot.name == name), None))

    def takes_turns(self, name: str) -> bool:
        """Whether the module of a tensor takes every other place of something, as of a gate and what it multiplies."""
        return takes_turns(self.model.get_submodule(name.rpartition(".")[0]))


def _is_turned(slot: Slot | None) -> bool | None:
    axes = None if slot is None else axes_if_any([slot])
    if slot is None or axes is None:
        return None
    last = len(slot.shape) - 1
    into = [(dim in axes.fan_in, dim in axes.fan_out) for dim in (last - 1, last)]
    return into == [(True, False), (False, True)] if into[0] != into[1] else None


class _Moved:
    """The names of a checkpoint for a model in which lists of blocks are longer."""

    def __init__(self, names: Names, depths: Sequence[Depth]) -> None:
        self.arrays = names.arrays
        self._names = names
        self._depths = depths

    def __call__(self, name: str) -> str:
        depth = next((depth for depth in self._depths if depth.holds(f"{name}.")), None)
        own = None if depth is None else depth.source_of(f"{name}.")
        return self._names(name if own is None else own.removesuffix("."))

    def is_new(self, path: str) -> bool:
        """Whether the checkpoint has no block for a module of the model."""
        return any(depth.holds(f"{path}.") and depth.source_of(f"{path}.") is None for depth in self._depths)


def mixtures_of(
    grow: Mapping[str, Experts],
    model: Mapping[str, Shape],
    names: Names,
    seed: int,
    *,
    depths: Sequence[Depth],
    sides: Sides,
) -> list[Mixture]:
    """The mixtures that globs name; ``model`` has the shapes of its tensors. Nothing is marked as used.

    One in a new block is not among them: it is as all of that block.

    Raises ``PlanError`` for a glob that names no module with experts, and for tensors that do not fit.
    """
    paths = {found[1].removesuffix("experts.").rstrip(".") for name in model if (found := _LIST.fullmatch(name))}
    paths |= {found[1].removesuffix("experts").rstrip("._") for name in model if (found := _PACKED.fullmatch(name))}
    mixtures: list[Mixture] = []
    moved = _Moved(names, depths)
    for glob, experts in grow.items():
        matches = glob_matcher(glob)
        chosen = sorted(path for path in paths if matches(path))
        if not chosen:
            raise PlanError(
                f"grow: {glob!r} names no module with experts; the model has {', '.join(sorted(paths)[:5]) or 'none'}"
            )
        for path in itertools.filterfalse(moved.is_new, chosen):
            inside = {name: shape for name, shape in model.items() if name.startswith(f"{path}.")}
            mixtures.append(_Upcycling(path, experts, inside, moved, seed, sides).mixture())
    return mixtures


class _Upcycling:
    """One module."""

    def __init__(
        self, path: str, experts: Experts, model: Mapping[str, Shape], names: _Moved, seed: int, sides: Sides
    ) -> None:
        self._path, self._experts, self._model, self._names, self._seed = path, experts, model, names, seed
        self._sides = sides
        self._homes: dict[Part, str] = {}  # the checkpoint's names of the matrices
        start = f"{names(path)}."
        self._inside = [name for name in names.arrays if name.startswith(start)]
        self._before = max(map(self._count, self._inside), default=0)
        self._dense = {} if self._before else self._parts()

    def mixture(self) -> Mixture:
        if not self._inside:
            raise PlanError(f"{self._path}: the checkpoint has no module {self._names(self._path)!r}")
        if self._before > self._experts.to:
            raise PlanError(f"{self._path}: the checkpoint has {self._before} experts, more than to={self._experts.to}")
        values = {name: self._of(name, shape) for name, shape in self._model.items()}
        drawn = [name for name, value in values.items() if value is None]
        same = self._before in (0, self._experts.to)
        return Mixture(path=self._path, values=values, preserving=same and all(map(self._scores_experts, drawn)))

    def _scores_experts(self, name: str) -> bool:
        return self._model[name][:1] == (self._experts.to,) and "shared" not in name[len(self._path) :]

    def _count(self, name: str) -> int:
        """The number of experts that the checkpoint has by one of its names."""
        if listed := _LIST.fullmatch(name):
            return int(listed[2]) + 1
        return self._names.arrays[name].shape[0] if _PACKED.fullmatch(name) else 0

    def _of(self, name: str, shape: Shape) -> Array | None:
        listed, packed = _LIST.fullmatch(name), _PACKED.fullmatch(name)
        if not listed and not packed:
            return self._router(name, shape)
        if listed:
            found = self._expert(int(listed[2]), listed[3], f"{listed[1]}{{}}.{listed[3]}")
        else:
            assert packed is not None
            found = self._all(packed[2], shape, name)
        if len(shape) == (2 if listed else 3) and self._turns(found.shape != shape):
            found = Turned.of(found, len(shape) - 2, len(shape) - 1)
        if found.shape != shape:
            here, there = shape_text(shape), shape_text(found.shape)
            raise PlanError(f"{name}: the model has {here}, and {found.text} of the checkpoint {there}")
        if self._experts.noise:
            noise = self._experts.noise
            found = Noisy(shape=found.shape, dtype=found.dtype, base=found, noise=noise, seed=self._seed, name=name)
        return found

    def _turns(self, differs: bool) -> bool:
        """Whether matrices are (in, out) on one side and (out, in) on the other; ``differs``: their shapes do."""
        return self._dense_turns if self._dense else differs

    @functools.cached_property
    def _dense_turns(self) -> bool:
        """By the classes of the modules, where they are known; else by a matrix that is not square."""
        matrices: list[tuple[str, Shape, Array]] = []
        for name, shape in self._model.items():
            found = _LIST.fullmatch(name) or _PACKED.fullmatch(name)
            part = _part_of(found[len(found.groups())]) if found else None
            dense = None if part is None or "bias" in name else self._matrix(part)
            if part is None or dense is None:
                continue
            matrices.append((name, shape, dense))
            home = self._homes.get("up" if part in ("gate_up", "gate") and part not in self._homes else part)
            here, there = self._sides.is_turned(name), None if home is None else self._sides.was_turned(home)
            if here is not None and there is not None:
                return here is not there
        for _, shape, dense in matrices:
            if shape[-2] != shape[-1]:
                return dense.shape == (shape[-1], shape[-2])
        conv1d = any(home.split(".")[-2:-1] == ["c_fc"] for home in self._homes.values())
        if matrices and (conv1d or (_PACKED.fullmatch(matrices[0][0]) and not _LIST.fullmatch(matrices[0][0]))):
            raise PlanError(
                f"{matrices[0][0]}: all matrices of the experts are square, so that it does not show whether they are "
                "(in, out) or (out, in), and what the checkpoint's are; pass the old model itself as the source"
            )
        return False

    def _router(self, name: str, shape: Shape) -> Array | None:
        """What a tensor beside the experts gets: the checkpoint's, with repeated rows if it scores more experts."""
        own = self._names(name)
        if own not in self._names.arrays:
            return None
        stored = self._names.arrays[own]
        if any(stored is part for part in self._dense.values()):  # the gate of the dense MLP is no router
            return None
        if stored.shape == shape:
            return stored
        if self._before and stored.shape[:1] == (self._before,) and shape == (self._experts.to, *stored.shape[1:]):
            return Taken.of(stored, 0, [place % self._before for place in range(self._experts.to)])
        return None

    def _expert(self, number: int, local: str, pattern: str) -> Array:
        """A tensor of one of several experts."""
        if number >= self._experts.to:
            raise PlanError(f"{self._path}: the model has more experts than Experts(to={self._experts.to})")
        if self._dense:
            return self._dense_of(local, pattern.format(number))
        own = self._names(pattern.format(number % self._before))
        if own not in self._names.arrays:
            raise PlanError(f"{pattern.format(number)}: the checkpoint has no {own}")
        return self._names.arrays[own]

    def _all(self, local: str, shape: Shape, name: str) -> Array:
        """A tensor of all experts."""
        if shape[0] != self._experts.to:
            raise PlanError(f"{name}: the model has {shape[0]} experts, not to={self._experts.to}")
        own = self._names(name)
        if own in self._names.arrays:
            stored = self._names.arrays[own]
            return Taken.of(stored, 0, [place % stored.shape[0] for place in range(self._experts.to)])
        if not self._dense:
            raise PlanError(f"{name}: the checkpoint has no {own}")
        return Stacked.of([self._dense_of(local, name)] * self._experts.to)

    def _dense_of(self, local: str, name: str) -> Array:
        part = _part_of(local)
        if part == "gate" and not self._is_gated:  # w1 and w2 alone
            part = "up"
        kind = "bias" if "bias" in local else "weight"
        if part == "gate_up":
            if self._sides.takes_turns(name):
                raise PlanError(
                    f"{name}: its module takes every other place for the gate, and Experts places gate and up one "
                    "after the other; pass a state dict in which this tensor is as the module needs it"
                )
            order: tuple[Part, Part] = ("gate", "up")
            if role_names.UP_BEFORE_GATE.fullmatch(_TAIL.sub("", local)):
                order = ("up", "gate")
            return Joined.of([self._tensor(one, kind, local) for one in order], 0)
        if part is None:
            raise PlanError(f"{self._path}: {local} of the experts is not known as a matrix of an MLP")
        return self._tensor(part, kind, local)

    @property
    def _is_gated(self) -> bool:
        """Whether the model's experts have another matrix beside the gate that leads into them."""
        listed = (found[3] for name in self._model if (found := _LIST.fullmatch(name)))
        packed = (found[2] for name in self._model if (found := _PACKED.fullmatch(name)))
        return not {"up", "gate_up"}.isdisjoint(map(_part_of, (*listed, *packed)))

    def _tensor(self, part: Part, kind: str, local: str) -> Array:
        if (part, kind) not in self._dense:
            known = ", ".join(value.text for value in self._dense.values())
            raise PlanError(f"{self._path}: nothing of the checkpoint is the {part} {kind} for {local}; it has {known}")
        return self._dense[part, kind]

    def _matrix(self, part: Part) -> Array | None:
        if part == "gate_up":
            both = [self._dense.get((one, "weight")) for one in ("gate", "up")]
            return Joined.of([each for each in both if each is not None], 0) if all(both) else None
        return self._dense.get((part, "weight"))

    def _parts(self) -> dict[tuple[Part, str], Array]:
        """The tensors of the dense MLP."""
        found: dict[tuple[Part, str], Array] = {}
        for name in self._inside:
            local = name[len(self._names(self._path)) + 1 :]
            part = _part_of(local)
            if part is not None:
                found[part, "bias" if "bias" in local else "weight"] = self._names.arrays[name]
                if "bias" not in local:
                    self._homes[part] = name
        if ("up", "weight") not in found and ("gate", "weight") in found:  # w1 and w2 alone
            found = {("up" if part == "gate" else part, kind): value for (part, kind), value in found.items()}
        return found


def _part_of(local: str) -> Part | None:
    """Which matrix of an MLP a tensor is, by its name in the MLP."""
    parts = _TAIL.sub("", local).removesuffix("_bias").split(".")
    last = parts[-1]
    short = role_names.plain(last)
    words = set(re.split(r"[_.]", short.lower()))
    if {"gate", "up"} <= words or words == {"w13"}:
        return "gate_up"
    if role_names.MLP_DOWN.fullmatch(short) or role_names.MLP_DOWN.fullmatch(last):
        return "down"
    if role_names.MLP_GATE.fullmatch(short):
        return "gate"
    if role_names.MLP_UP.fullmatch(short) or short in _UP:
        return "up"
    return None


#: names of the first matrix of an MLP without a gate
_UP: Final = ("fc", "c_fc", "fc1", "fc_1", "wi", "linear1", "linear_1", "dense_h_to_4h", "lin1", "1")
