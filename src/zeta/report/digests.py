"""What the processes of one model have to agree on, as a digest of a few hundred bytes, and how digests are compared.

The request (seed, plan, options) must be equal in all processes. The shards that each process holds are different, but
must belong together: all ranks of a mesh have the same tensors, with the same shapes, dtypes and placements.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from zeta._version import __version__
from zeta.base import dtypes
from zeta.base.distributed import is_sharded
from zeta.compute.stream.random import STREAM_VERSION
from zeta.resolve.fitting import Fit
from zeta.resolve.plans import Plan
from zeta.write.apply import Job

#: ranks, nested as the mesh's dimensions are
Mesh = tuple[Any, ...]
#: the number of characters of a hash that are shown
_SHOWN: Final = 12
#: the number of differing tensors that are named, and of ranks that send their details
_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class Shards:
    """A process's sharded tensors on one mesh: their number, and a hash of their names, shapes, dtypes, placements."""

    mesh: Mesh
    tensors: int
    layout: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {"mesh": self.mesh, "tensors": self.tensors, "layout": self.layout}


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What one process was asked for, and which sharded tensors it has.

    ``seed``, ``plan`` (a hash, see :attr:`zeta.Plan.digest`), ``stream``, ``zeta`` and ``options`` must be equal in all
    processes; ``held`` must have the same hash on all ranks of each mesh.
    """

    seed: int | None
    plan: str | None
    stream: int = STREAM_VERSION
    zeta: str = __version__
    options: tuple[tuple[str, str], ...] = ()
    held: tuple[Shards, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "seed": self.seed,
            "plan": self.plan,
            "stream": self.stream,
            "zeta": self.zeta,
            "options": dict(self.options),
            "held": [one.as_dict() for one in self.held],
        }


class ShardedLayout(NamedTuple):
    """How one tensor is sharded over its mesh."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    mesh: Mesh
    placements: tuple[Any, ...]

    @property
    def text(self) -> str:
        """Shape, dtype and placements, without the mesh."""
        return f"{self.shape} {dtypes.name_of(self.dtype)} {self.placements}"


def layouts_of(tensors: Iterable[tuple[str, Tensor]]) -> tuple[ShardedLayout, ...]:
    """The layout of each tensor that is sharded."""
    ranks_of = functools.cache(_ranks)
    return tuple(
        ShardedLayout(name, tuple(tensor.shape), tensor.dtype, ranks_of(tensor.device_mesh), tuple(tensor.placements))
        for name, tensor in tensors
        if is_sharded(tensor)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Claim:
    """What a digest is computed from. The digest itself is computed on first access.

    Args:
        seed: ``None`` if there is none.
        plan: that of the whole model, even if this process has only a part of it.
        held: the layouts of the sharded tensors that this process has.
        options: what else must be equal in all processes, by name.
    """

    seed: int | None
    plan: Plan | None
    held: tuple[ShardedLayout, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @functools.cached_property
    def digest(self) -> Digest:
        """The digest."""
        meshes: dict[Mesh, list[ShardedLayout]] = {}
        for laid in self.held:
            meshes.setdefault(laid.mesh, []).append(laid)
        return Digest(
            seed=self.seed,
            plan=None if self.plan is None else self.plan.digest,
            options=self.options,
            held=tuple(
                Shards(mesh=mesh, tensors=len(laid), layout=_hash(sorted(f"{one.name} {one.text}" for one in laid)))
                for mesh, laid in meshes.items()
            ),
        )

    def details(self, conflict: Conflict) -> dict[str, str]:
        """For each tensor's name, a text that differs between ranks if the conflict is about this tensor."""
        if conflict.mesh is None:
            return {
                entry.name: f"{entry.initializer} {_hash([entry.identity()])[:_SHOWN]}" for entry in self.plan or ()
            }
        return {one.name: f"{one.text} on the mesh {_text(one.mesh)}" for one in self.held}


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """One part of the digests that differs: a message, the part, one rank for each value, and the mesh for shards."""

    text: str
    part: str
    witnesses: tuple[int, ...]
    mesh: Mesh | None = None

    def differing(self, details: Mapping[int, Mapping[str, str]]) -> list[str]:
        """The first tensors for which ``Claim.details`` of the witnesses differ."""
        where = None if self.mesh is None else f" on the mesh {_text(self.mesh)}"
        names = dict.fromkeys(
            name
            for one in details.values()
            for name, text in one.items()
            if where is None or text.endswith(where)  # tensors of other meshes are not part of this conflict
        )
        values = {name: {rank: one.get(name, "nothing") for rank, one in details.items()} for name in names}
        found = [f"{self.part} of {name}: {_shown(each)}" for name, each in values.items() if len({*each.values()}) > 1]
        more = len(found) - _NAMED
        return [*found[:_NAMED], *([f"and {more} more"] if more > 0 else [])]


def claim_of(fit: Fit, seed: int, jobs: Collection[Job]) -> Claim:
    """The claim of a process that writes or compares a plan's values, with what it was asked for."""
    names = fit.selection
    options = [] if names is None else [("only", f"{len(names)} tensors, {_hash(names)[:_SHOWN]}")]
    if fit.left:
        options.append(("left", f"{len(fit.left)} tensors, {_hash(entry.name for entry in fit.left)[:_SHOWN]}"))
    if others := _dtypes(jobs):
        options.append(("dtypes", ", ".join(sorted(others))))
    held = layouts_of([(job.entry.name, job.slot.tensor) for job in jobs if job.held.sharded])
    return Claim(seed=seed, plan=fit.asked, held=held, options=tuple(options))


def _dtypes(jobs: Collection[Job]) -> list[str]:
    """The dtypes of plain tensors that differ from the plan's: for all tensors of a dtype, or a hash of their names."""
    sorts = {job.sort: job for job in jobs}.values()
    if all(job.slot.tensor.dtype is job.entry.dtype for job in sorts):
        return []
    planned: dict[torch.dtype, dict[torch.dtype, list[str]]] = {}
    for job in jobs:
        if not job.held.sharded:
            planned.setdefault(job.entry.dtype, {}).setdefault(job.slot.tensor.dtype, []).append(job.entry.name)
    return [
        f"{'all' if len(found) == 1 else f'{len(names)} of'} {dtypes.name_of(before)} as {dtypes.name_of(now)}"
        + ("" if len(found) == 1 else f" ({_hash(sorted(names))[:_SHOWN]})")
        for before, found in planned.items()
        for now, names in found.items()
        if now is not before
    ]


def _ranks(mesh: Any) -> Mesh:
    def frozen(ranks: Any) -> Any:
        return tuple(map(frozen, ranks)) if isinstance(ranks, list) else ranks

    return frozen(mesh.mesh.tolist())  # type: ignore[no-any-return]


def _hash(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


# -- comparison --------------------------------------------------------------------------------------------------------


def conflicts(digests: Mapping[int, Mapping[str, Any]]) -> list[Conflict]:
    """The parts in which the digests of the ranks, given as dictionaries, differ; empty if all ranks agree.

    If the versions of zeta differ, nothing else is compared: their digests may have different forms.
    """
    compared: list[tuple[str, Mesh | None, dict[int, Hashable]]]
    compared = [("zeta version", None, {rank: one["zeta"] for rank, one in digests.items()})]
    if len(set(compared[0][2].values())) == 1:
        compared += [
            ("stream version", None, {rank: one["stream"] for rank, one in digests.items()}),
            ("seed", None, {rank: one["seed"] for rank, one in digests.items()}),
            ("plan", None, {rank: (one["plan"] or "none")[:_SHOWN] for rank, one in digests.items()}),
        ]
        names = dict.fromkeys(name for one in digests.values() for name in one["options"])
        compared += [(name, None, {rank: one["options"].get(name) for rank, one in digests.items()}) for name in names]
        held = {rank: {shards["mesh"]: shards for shards in one["held"]} for rank, one in digests.items()}
        for mesh in dict.fromkeys(mesh for meshes in held.values() for mesh in meshes):
            here: dict[int, Hashable] = {rank: _holding(held[rank].get(mesh)) for rank in _flat(mesh) if rank in held}
            compared.append(("held", mesh, here))
    return [_conflict(part, mesh, values) for part, mesh, values in compared if len(set(values.values())) > 1]


def _holding(shards: Mapping[str, Any] | None) -> str:
    return "nothing" if shards is None else f"{shards['tensors']} tensors laid out as {shards['layout'][:_SHOWN]}"


def _conflict(part: str, mesh: Mesh | None, values: Mapping[int, Hashable]) -> Conflict:
    where = "" if mesh is None else f" on the mesh {_text(mesh)}"
    return Conflict(
        text=f"{part}{where}: {_shown(values)}",
        part=part,
        witnesses=tuple(ranks[0] for _, ranks in _classes(values)[:_NAMED]),
        mesh=mesh,
    )


def _classes(values: Mapping[int, Hashable]) -> list[tuple[Hashable, list[int]]]:
    """Each value with its ranks, the most frequent value first."""
    classes: dict[Hashable, list[int]] = {}
    for rank, value in sorted(values.items()):
        classes.setdefault(value, []).append(rank)
    return sorted(classes.items(), key=lambda item: -len(item[1]))


def _shown(values: Mapping[int, Hashable]) -> str:
    usual, *others = [f"{value} on {ranks_text(ranks)}" for value, ranks in _classes(values)]
    return f"{usual}, but {' and '.join(others)}"


def ranks_text(ranks: Sequence[int]) -> str:
    """Ranks as text, with consecutive ones as a range.

    >>> ranks_text([3]), ranks_text([0, 1, 2, 5])
    ('rank 3', 'ranks 0-2, 5')
    """
    runs: list[str] = []
    for _, pairs in itertools.groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        run = [rank for _, rank in pairs]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(runs)}"


def _flat(mesh: Mesh | int) -> Iterator[int]:
    if isinstance(mesh, int):
        yield mesh
    else:
        for part in mesh:
            yield from _flat(part)


def _text(mesh: Mesh) -> str:
    return str(mesh).replace("(", "[").replace(")", "]").replace(",]", "]")
