"""Compare a checkpoint with its own manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import torch

from zeta.base import dtypes
from zeta.base.progress import Done
from zeta.base.reading import LARGEST_DOCUMENT, LARGEST_SETTINGS, Text, opened, parse, read_bytes, shown
from zeta.base.sources import Source
from zeta.base.tensors import bytes_view
from zeta.compute.stream.regions import Region
from zeta.compute.values import drawing, kept_of, values_of
from zeta.errors import CheckpointError, FormatError
from zeta.report.verifying.bitwise import Comparison, TensorDifference
from zeta.report.verifying.origins import copied_tensors, other_tensors, remark_of
from zeta.report.verifying.verification import Verification
from zeta.write.apply import Progress
from zeta.write.checkpoint import INDEX, MANIFEST, TENSORS, Block, Layout, Manifest, Shard, Stored, blocks
from zeta.write.checkpoint.settings import differences

#: bytes that are read and hashed at a time
_BLOCK_BYTES: Final = 2**22
_OF_ANOTHER: Final = (
    "its header is not the one that zeta writes, so that another program has written it, and its tensors were not "
    "compared: load it into the model, and zeta.verify(model, plan, seed) names those that differ"
)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was found in a part of a folder."""

    problems: tuple[str, ...] = ()
    differences: tuple[TensorDifference, ...] = ()
    close: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[_Found]) -> _Found:
        """Join the findings of several parts."""
        return cls(
            problems=tuple(problem for part in parts for problem in part.problems),
            differences=tuple(difference for part in parts for difference in part.differences),
            close=tuple(name for part in parts for name in part.close),
        )


def verify_folder(folder: Path, progress: Progress | None = None, source: Source | None = None) -> Verification:
    """Compare a checkpoint with its own manifest: index, headers, every value, and that there are no other files.

    With ``source``, also whether that is the checkpoint which tensors were copied from.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; give the folder with its {MANIFEST}, {folder.parent}")
    manifest = Manifest.read(folder / MANIFEST)
    files = manifest.layout
    if not any(os.path.lexists(folder / shard.name) for shard in files.shards):
        raise CheckpointError(f"{folder / files.shards[0].name} does not exist")
    copied = [] if source is None else [*copied_tensors(manifest, folder)]
    done = Done(files.nbytes + sum(entry.nbytes for entry, _ in copied), progress)
    try:
        found = _Found.of([_verify_file(folder, shard, files, manifest, done) for shard in files.shards])
        problems = [*found.problems, *_index_problems(folder, files), *_unknown_files(folder, files)]
        problems += _settings_problems(folder, manifest)
        others = () if source is None else tuple(other_tensors(copied, source, manifest, done))
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from error
    return Verification(
        seed=manifest.seed,
        compared=sum(len(item.names) for shard in files.shards for item in shard.stored),
        kept=tuple(manifest.kept),
        kept_compared=True,
        all_kept=all(entry.kept for entry in manifest.plan),
        differences=(*found.differences, *others),
        problems=tuple(problems),
        close=found.close,
        remark="" if source is None else remark_of(manifest),
    )


def _verify_file(folder: Path, shard: Shard, files: Layout, manifest: Manifest, done: Done) -> _Found:
    path = folder / shard.name
    try:
        with opened(path) as file:
            first, size = file.read(max(len(other.header) for other in files.shards)), os.fstat(file.fileno()).st_size
            owner = next((other.name for other in files.shards if first.startswith(other.header)), None)
            if owner not in (shard.name, None):
                return _Found(problems=(f"{shard.name}: has the header of {owner}",))
            if size != shard.size:
                by = "" if owner else f"; {_OF_ANOTHER}"
                return _Found(problems=(f"{shard.name}: {size:,} bytes, expected {shard.size:,}{by}",))
            header = () if owner else (f"{shard.name}: the header is not the one that the plan gives",)
            parts = [
                _compare_block(item, file, manifest, done)
                if isinstance(item, Block)
                else _compare_stored(item, file, manifest, done)
                for item in blocks(shard.stored)
            ]
            return _Found.of([_Found(problems=header), *parts])
    except FileNotFoundError:
        return _Found(problems=(f"{shard.name}: is missing",))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _compare_block(block: Block, file: BinaryIO, manifest: Manifest, done: Done) -> _Found:
    expected = block.drawn(manifest.seed)
    found = torch.empty_like(expected)
    file.seek(block.start)
    _read(file, bytes_view(found))
    done.add(block.stored[-1].entry.name, found.nbytes)
    if torch.equal(dtypes.bits(found), dtypes.bits(expected)):
        return _Found()
    differences: list[TensorDifference] = []
    for (name, entry, one), (_, _, other) in zip(block.named(found), block.named(expected), strict=True):
        comparison = Comparison(name)
        comparison.add(Region.whole(entry.shape).slices, one, other)
        differences += comparison.result()
    return _Found(differences=tuple(differences))


def _compare_stored(item: Stored, file: BinaryIO, manifest: Manifest, done: Done) -> _Found:
    entry = item.entry
    if entry.section is not None:
        return _compare_parts(item, file, manifest, done)
    if entry.kept:
        digests = {
            name: _digest(file, offset, entry.nbytes) for name, offset in zip(item.names, item.offsets, strict=True)
        }
        done.add(entry.name, entry.nbytes * len(item.names))
        other = [name for name, digest in digests.items() if digest != manifest.kept.get(entry.name)]
        return _Found(differences=tuple(map(_other_bytes, other)))
    comparisons = [Comparison.of(name, entry, entry.dtype) for name in item.names]
    position = 0
    for index, values in values_of(entry, manifest.seed):
        found = torch.empty_like(values)
        for comparison, offset in zip(comparisons, item.offsets, strict=True):
            file.seek(offset + position)
            _read(file, bytes_view(found))
            comparison.add(index, found, values)
        position += values.nbytes
        done.add(entry.name, values.nbytes * len(item.names))
    return _Found(
        differences=tuple(difference for comparison in comparisons for difference in comparison.result()),
        close=tuple(comparison.name for comparison in comparisons if comparison.close),
    )


def _compare_parts(item: Stored, file: BinaryIO, manifest: Manifest, done: Done) -> _Found:
    """Compare the drawn part of a tensor with what the seed gives, and the rest with its SHA-256."""
    entry, draw = item.entry, drawing(item.entry, manifest.seed)
    differences: list[TensorDifference] = []
    close: list[str] = []
    for name, offset in zip(item.names, item.offsets, strict=True):
        comparison, digest = Comparison.of(name, entry, entry.dtype), hashlib.sha256()
        for _, region in Region.whole(entry.shape).tiles(_BLOCK_BYTES // entry.dtype.itemsize):
            found = torch.empty(region.sizes, dtype=entry.dtype, device="cpu")
            file.seek(offset + region.start * entry.dtype.itemsize)
            _read(file, bytes_view(found))
            kept = kept_of(entry, region, found)
            if kept.numel():
                digest.update(bytes_view(kept))
            for index, values in draw(region):
                comparison.add(region.whole_of(index), found[index], values)
            done.add(name, found.nbytes)
        differences += comparison.result()
        close += [name] if comparison.close else []
        if digest.hexdigest() != manifest.kept.get(entry.name):
            differences.append(_other_bytes(name))
    return _Found(differences=tuple(differences), close=tuple(close))


def _other_bytes(name: str) -> TensorDifference:
    return TensorDifference(name=name, count=None, first=None, found="other bytes", expected="the kept ones")


def _digest(file: BinaryIO, offset: int, size: int) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(min(_BLOCK_BYTES, size)))
    file.seek(offset)
    while size:
        part = block[: min(_BLOCK_BYTES, size)]
        _read(file, part)
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def _read(file: BinaryIO, into: memoryview) -> None:
    """Fill ``into`` from the file; ``OSError`` if the file ends before."""
    if file.readinto(into) < len(into):  # type: ignore[attr-defined]
        raise OSError("it became shorter while it was read")


class _Index(msgspec.Struct, frozen=True):
    """The content of ``model.safetensors.index.json``."""

    metadata: dict[Text, Any]
    weight_map: dict[Text, Text]


def _index_problems(folder: Path, files: Layout) -> list[str]:
    """The differences between the index and what the plan gives."""
    if files.index is None:
        return []
    try:
        text = read_bytes(folder / INDEX, LARGEST_DOCUMENT)
    except FileNotFoundError:
        return [f"{INDEX}: is missing"]
    except FormatError as error:
        return [f"{INDEX}: {error}"]
    if text == files.index.encode():
        return []
    try:
        found, expected = parse(text, _Index), parse(files.index, _Index)
    except FormatError as error:
        return [f"{INDEX}: cannot be read: {error}"]
    wrong = [
        f"{INDEX}: {key} {name} is {shown(said.get(name))}, expected {right.get(name)!r}"
        for key, said, right in (
            ("metadata", found.metadata, expected.metadata),
            ("weight_map", found.weight_map, expected.weight_map),
        )
        for name in {**right, **said}
        if said.get(name) != right.get(name)
    ]
    return wrong or [f"{INDEX}: is not the text that the plan gives"]


def _settings_problems(folder: Path, manifest: Manifest) -> list[str]:
    """The differences between the files of settings and their texts in the manifest."""
    problems: list[str] = []
    for name, text in manifest.settings.items():
        try:
            found = read_bytes(folder / name, LARGEST_SETTINGS)
            problems += [f"{name}: {what}" for what in differences(text, found.decode(errors="replace"))]
        except FileNotFoundError:
            problems.append(f"{name}: is missing")
        except FormatError as error:
            problems.append(f"{name}: {error}")
    for name, digest in manifest.copies.items():
        try:
            with opened(folder / name) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                    problems.append(f"{name}: has other bytes than the file that was copied")
        except FileNotFoundError:
            problems.append(f"{name}: is missing")
    return problems


def _unknown_files(folder: Path, files: Layout) -> list[str]:
    """Files that do not belong to the checkpoint, but that a loader may read as parts of it."""
    endings = (TENSORS.removeprefix("model"), INDEX.removeprefix("model"))
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))
    return [f"{name}: does not belong to this checkpoint" for name in names if name not in files.names]
