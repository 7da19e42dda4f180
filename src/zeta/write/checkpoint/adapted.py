"""The request for a checkpoint that is made of another one, and the files that are copied from there."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import torch
from msgspec.structs import replace

from zeta.base import dtypes
from zeta.base.escaping import visible
from zeta.base.sources import Source
from zeta.errors import CheckpointError, SpecError
from zeta.resolve.adapting import Adaption
from zeta.resolve.casting import casting_of
from zeta.resolve.plans import Entry, Plan
from zeta.rules import Kind
from zeta.write.checkpoint.manifest import Manifest, Origin, Provenance
from zeta.write.checkpoint.settings import COPIED, GENERATION, settings_of


def request_of(
    found: Adaption,
    source: Source,
    *,
    seed: int,
    dtype: torch.dtype | None,
    max_shard_size: int,
    drop_ties: bool | None,
    model_name: str | None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The request, and the contents of the files that are copied."""
    model, plan = found.fit.model, found.fit.plan
    if dtype is None:
        plan = _as_in_source(plan, found, source)
    else:
        plan = casting_of(model, found.fit.slots.values(), dtype).plan(plan)
    settings = settings_of(model, plan)
    if settings and GENERATION in source.settings:
        settings[GENERATION] = _text(source, GENERATION)
    copies = {name: source.settings[name] for name in COPIED if name in source.settings}
    origin = Origin(
        source=visible(source.origin),
        tensors={name: Provenance(text=given.values.text, tensor=given.tensor) for name, given in found.given.items()},
        files=source.states(),
    )
    request = Manifest(
        seed=seed,
        plan=plan,
        drop_ties=bool(settings) if drop_ties is None else drop_ties,
        max_shard_size=max_shard_size,
        settings=settings,
        copies={name: hashlib.sha256(content).hexdigest() for name, content in copies.items()},
        origin=origin,
        model=None if model_name is None else visible(model_name),
    )
    return request, copies


def check_apart(folder: Path, source: Source) -> None:
    """Raise ``SpecError`` if a checkpoint would be written to the folder that it is read from."""
    for place in source.folders():
        if folder.exists() and folder.samefile(place):
            raise SpecError(f"{folder} is where the checkpoint is read from; write to another folder")


def _as_in_source(plan: Plan, found: Adaption, source: Source) -> Plan:
    """The plan in the dtypes that the source has: what is drawn gets that of most of its elements.

    No layer computes with 8 bits alone: such tensors are of layers with scales.
    """
    counts: Counter[torch.dtype] = Counter()
    for info in source.tensors.values():
        if info.dtype in dtypes.REAL and info.dtype.itemsize > 1:
            counts[info.dtype] += info.numel
    most = counts.most_common(1)[0][0] if counts else None

    def stored(entry: Entry) -> Entry:
        if entry.name in found.given:
            return replace(entry, dtype=found.given[entry.name].values.dtype)
        if entry.kind is Kind.BUFFER or entry.dtype not in dtypes.REAL or most is None:
            return entry
        return replace(entry, dtype=most)

    return Plan(tuple(map(stored, plan)))


def _text(source: Source, name: str) -> str:
    try:
        return source.settings[name].decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} of {source.origin} is not valid Unicode: {error.reason}") from None
