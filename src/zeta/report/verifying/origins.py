"""Compare what a checkpoint has of another one with that: by the SHA-256 of each tensor that was copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from zeta.base.progress import Done
from zeta.base.reading import shown
from zeta.base.sources import Source
from zeta.base.tensors import bytes_view
from zeta.base.text import count_text, shape_text
from zeta.compute.assembled import TILE
from zeta.compute.stream.regions import Region
from zeta.errors import CheckpointError
from zeta.report.verifying.bitwise import TensorDifference
from zeta.resolve.plans import Entry
from zeta.write.checkpoint import MANIFEST, Manifest

#: names of tensors in a remark
_SHOWN: Final = 3
#: an entry, and the name of the tensor of the other checkpoint that it has all of
Copied = tuple[Entry, str]


def copied_tensors(manifest: Manifest, folder: Path) -> Iterator[Copied]:
    """The entries that have all of a tensor of another checkpoint; ``CheckpointError`` if nothing is from another."""
    if manifest.origin is None:
        raise CheckpointError(f"{folder / MANIFEST} has nothing of another checkpoint; leave source out")
    for entry in manifest.plan:
        found = manifest.origin.tensors.get(entry.name)
        if found is not None and found.tensor is not None:
            yield entry, found.tensor


def remark_of(manifest: Manifest) -> str:
    """What was not compared with the other checkpoint, if anything that is from there was not."""
    given = {} if manifest.origin is None else manifest.origin.tensors
    apart = [name for name, found in given.items() if found.tensor is None]
    if not apart:
        return ""
    more = f" and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
    return (
        f"of {count_text(len(given), 'tensor')} from the source, {len(given) - len(apart):,} compared with it; of the "
        f"others, which were computed or put together, the SHA-256 alone: {', '.join(apart[:_SHOWN])}{more}"
    )


def other_tensors(
    copied: Iterable[Copied], source: Source, manifest: Manifest, done: Done
) -> Iterator[TensorDifference]:
    """The tensors that the other checkpoint does not have as they were copied."""
    for entry, name in copied:
        info = source.tensors.get(name)
        if info is None:
            text = f"no tensor {shown(name)}"
        elif _digest(entry, name, source, done) != manifest.kept.get(entry.name):
            text = f"other values in {shown(name)} ({shape_text(info.shape)})"
        else:
            continue
        yield TensorDifference(
            name=entry.name, count=None, first=None, found=f"{text} of {source.origin}", expected="what was copied"
        )


def _digest(entry: Entry, name: str, source: Source, done: Done) -> str:
    """The SHA-256 of a tensor in an entry's dtype."""
    digest = hashlib.sha256()
    for _, region in Region.whole(source.tensors[name].shape).tiles(TILE):
        values = source.read(name, region.slices).to(entry.dtype)
        digest.update(bytes_view(values))
        done.add(entry.name, values.nbytes)
    return digest.hexdigest()
