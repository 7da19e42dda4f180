"""Compute every value again and compare, bit by bit: a model in memory, or a checkpoint on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from zeta.apply import Only, prepare, values_of
from zeta.checkpoint import MANIFEST, TENSORS, Manifest, Stored, layout
from zeta.errors import CheckpointError
from zeta.plans import Plan
from zeta.report import Comparison, Difference, Verification

_BLOCK_BYTES = 2**22


def verify_model(model: nn.Module, plan: Plan, seed: int, only: Only | None) -> Verification:
    """Compare a model's parameters and buffers with what the plan gives."""
    jobs = prepare(model, plan, seed, only)
    differences: list[Difference] = []
    for job in jobs:
        if job.inversion is not None:
            for number, (stored, value) in enumerate(job.inversion.changes):
                name = f"{job.entry.name} (stored tensor {number})"
                differences += _compare(name, stored.detach().cpu(), [(_everything(value), value)])
        else:
            found = job.slot.tensor.detach()
            tiles = values_of(job.entry, seed, dtype=found.dtype, device=found.device)
            differences += _compare(job.entry.name, found, tiles)
    kept = tuple(entry.name for entry in plan if entry.kept)
    return Verification(seed=seed, compared=len(jobs), kept=kept, differences=tuple(differences))


def _compare(name: str, found: Tensor, tiles: Iterable[tuple[tuple[slice, ...], Tensor]]) -> list[Difference]:
    comparison = Comparison(name)
    for index, expected in tiles:
        comparison.add(index, found[index].to(expected.device), expected)
    return list(comparison.result())


def _everything(value: Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in value.shape)


def verify_folder(folder: Path) -> Verification:
    """Compare a checkpoint with what its own manifest says: header, every value, and nothing beside them."""
    manifest = Manifest.read(folder / MANIFEST)
    header, stored = layout(manifest.plan, drop_ties=manifest.drop_ties)
    path = folder / TENSORS
    problems: list[str] = []
    differences: list[Difference] = []
    try:
        with path.open("rb") as file:
            size, expected = os.fstat(file.fileno()).st_size, len(header) + (stored[-1].stop if stored else 0)
            if size != expected:
                problems.append(f"{path.name}: {size:,} bytes, expected {expected:,}")
            elif file.read(len(header)) != header:
                problems.append(f"{path.name}: the header is not the one that the plan gives")
            if size == expected:
                for item in stored:
                    file.seek(len(header) + item.start)
                    differences += _compare_stored(item, file, manifest)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return Verification(
        seed=manifest.seed,
        compared=len(stored),
        kept=tuple(manifest.kept),
        differences=tuple(differences),
        problems=tuple(problems),
    )


def _compare_stored(item: Stored, file: BinaryIO, manifest: Manifest) -> list[Difference]:
    entry = item.entry
    if entry.kept:
        digest = hashlib.sha256()
        remaining = entry.nbytes
        while remaining:
            block = _read(file, min(_BLOCK_BYTES, remaining))
            digest.update(block)
            remaining -= len(block)
        if digest.hexdigest() == manifest.kept.get(entry.name):
            return []
        return [
            Difference(
                name=item.name,
                count=entry.numel,
                first=(0,) * len(entry.shape),
                found="other bytes",
                expected="the kept ones",
            )
        ]
    comparison = Comparison(item.name)
    for index, expected in values_of(entry, manifest.seed):
        values = bytearray(_read(file, expected.nbytes))
        found = torch.frombuffer(values, dtype=entry.dtype).view(expected.shape)
        comparison.add(index, found, expected)
    return list(comparison.result())


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise OSError("it became shorter while it was read")
    return data
