"""Write a plan straight to a safetensors file, one tile at a time, with a manifest that can prove it later.

A safetensors file is an 8-byte length, a JSON header and the tensors' bytes
(https://github.com/huggingface/safetensors#format). The header follows from the plan alone, so a verification
recomputes it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor, nn

from zeta import dtypes
from zeta._version import __version__
from zeta.aliasing import has_address
from zeta.apply import Progress, check_target, values_of
from zeta.errors import CheckpointError, LayerTypeError, SpecError, TargetError, ZetaError, listed
from zeta.names import Slot, walk
from zeta.planning import check_dtype, tie_problems
from zeta.plans import Entry, Plan
from zeta.random import STREAM_VERSION, check_seed
from zeta.rules import Kind

TENSORS: Final = "model.safetensors"
MANIFEST: Final = "zeta.json"
_FORMAT: Final = "zeta manifest 1"
_RESERVED: Final = "__metadata__"
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_COPY_BYTES: Final = 2**23

_SAFETENSORS_DTYPES: Final = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One name in the file: its entry and the bytes it takes. A tied name repeats its entry."""

    name: str
    entry: Entry
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``zeta.json`` says: all that is needed to compute every value again."""

    seed: int
    plan: Plan
    drop_ties: bool
    kept: dict[str, str]
    model: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | None):
            raise SpecError(f"the model's name must be a text or None, got {self.model!r}")

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps(
            {
                "format": _FORMAT,
                "seed": self.seed,
                "stream": STREAM_VERSION,
                "model": self.model,
                "versions": {"zeta": __version__, "torch": torch.__version__, "python": platform.python_version()},
                "tensors": TENSORS,
                "drop_ties": self.drop_ties,
                "kept_sha256": self.kept,
                "plan": json.loads(self.plan.to_json()),
            },
            indent=1,
            allow_nan=False,
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest; ``CheckpointError`` if it is missing, broken or of another stream version."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist: {path.parent} was not written by zeta") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is not a manifest of this version of zeta (expected format {_FORMAT!r})")
        if data.get("stream") != STREAM_VERSION:
            raise CheckpointError(
                f"{path} was written with stream version {data.get('stream')}; this zeta has version {STREAM_VERSION}"
            )
        try:
            manifest = cls(
                seed=check_seed(data["seed"]),
                plan=Plan.from_json(json.dumps(data["plan"])),
                drop_ties=bool(data["drop_ties"]),
                kept=dict(data["kept_sha256"]),
                model=data["model"],
            )
            for entry in manifest.plan:
                check_dtype(entry.initializer, entry.dtype)
                if entry.axes is not None:
                    entry.axes.fans(entry.shape)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        return manifest


def layout(plan: Plan, *, drop_ties: bool) -> tuple[bytes, list[Stored]]:
    """Return the file's first bytes (length and header) and what follows, in order.

    Larger element sizes come first, so that every tensor is aligned to its own.
    """
    named = [
        (name, entry)
        for entry in plan
        if entry.persistent
        for name in ((entry.name,) if drop_ties else (entry.name, *entry.ties))
    ]
    unknown = [
        f"{name}: {dtypes.name_of(e.dtype)}" for name, e in named if dtypes.name_of(e.dtype) not in _SAFETENSORS_DTYPES
    ]
    if unknown:
        raise CheckpointError(listed("safetensors has no such dtype:", unknown))
    count = Counter(name for name, _ in named)
    odd = [f"{name}: occurs {n} times, expected once" for name, n in count.items() if n > 1]
    odd += [f"{name}: is reserved by the format" for name in count if name == _RESERVED]
    odd += [f"{name!r}: is not valid Unicode" for name in count if _SURROGATE.search(name)]
    if odd:
        raise CheckpointError(listed("safetensors cannot hold these names; rename them:", odd))
    named.sort(key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {_RESERVED: {"format": "pt"}}
    stored: list[Stored] = []
    position = 0
    for name, entry in named:
        stored.append(Stored(name=name, entry=entry, start=position, stop=position + entry.nbytes))
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[dtypes.name_of(entry.dtype)],
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.nbytes],
        }
        position += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, stored


def save_files(
    model: nn.Module,
    plan: Plan,
    folder: Path,
    *,
    seed: int,
    drop_ties: bool,
    force: bool,
    model_name: str | None,
    progress: Progress | None,
) -> Generator[tuple[Entry, tuple[slice, ...], Tensor]]:
    """Write ``model.safetensors`` and ``zeta.json`` into ``folder``; yield every entry's tiles, with their index.

    Both files are written beside their place and renamed when complete. Close the generator to give up.
    """
    if not isinstance(model, nn.Module):
        raise LayerTypeError(f"expected a torch.nn.Module, got {model!r}")
    document = Manifest(seed=check_seed(seed), plan=plan, drop_ties=drop_ties, kept={}, model=model_name)
    header, stored = layout(plan, drop_ties=drop_ties)
    sources = _check(model, plan)
    check_folder(folder, force=force)
    with _new_files(folder, (TENSORS, MANIFEST)) as (tensors, manifest):
        kept: dict[str, str] = {}
        with tensors.open("w+b") as file:
            _reserve(file, len(header) + (stored[-1].stop if stored else 0), folder)
            file.write(header)
            total, done = sum(item.stop - item.start for item in stored), 0
            written: dict[str, Stored] = {}
            for item in stored:
                if (first := written.setdefault(item.entry.name, item)) is not item:
                    _repeat(file, len(header) + first.start, first.stop - first.start)
                    done += first.stop - first.start
                else:
                    digest = hashlib.sha256()
                    for index, tile in _tiles(item.entry, sources[item.entry.name], seed):
                        view = memory(tile)
                        file.write(view)
                        if item.entry.kept:
                            digest.update(view)
                        done += tile.nbytes
                        if progress is not None:
                            progress(item.name, done, total)
                        yield item.entry, index, tile
                    if item.entry.kept:
                        kept[item.entry.name] = digest.hexdigest()
                if progress is not None:
                    progress(item.name, done, total)
            file.flush()
            os.fsync(file.fileno())
        manifest.write_text(replace(document, kept=kept).to_json(), encoding="utf-8")
        _sync(manifest)
        check_folder(folder, force=force)  # somebody may have written there meanwhile


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise ``CheckpointError`` if ``folder`` is not one, or has an earlier run's files that may not be replaced."""
    existing = [name for name in (TENSORS, MANIFEST) if os.path.lexists(folder / name)]
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise CheckpointError(f"cannot write to {folder}: it is not a folder")
        for name in existing:
            if (folder / name).is_dir():
                raise CheckpointError(f"{folder / name} is a folder, expected a file; choose another folder")
    except PermissionError as error:
        raise CheckpointError(f"{folder} cannot be looked into: {error.strerror}") from error
    if existing and not force:
        raise CheckpointError(
            f"{folder} already has {' and '.join(existing)}; choose another folder, or overwrite with force (--force)"
        )


def memory(tensor: Tensor) -> ctypes.Array[ctypes.c_char]:
    """The bytes of a contiguous CPU tensor, without a copy. Valid while the tensor lives."""
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())


def _check(model: nn.Module, plan: Plan) -> dict[str, Slot]:
    """Every entry's slot, after checking that its values can be computed or copied."""
    slots = {slot.name: slot for slot in walk(model)}
    problems: list[str] = []
    for entry in plan:
        slot = slots.get(entry.name)
        if slot is None or slot.shape != entry.shape:
            problems.append(f"{entry.name}: the model has no such parameter of shape {tuple(entry.shape)}")
        elif slot.parametrization is not None:
            problems.append(f"{entry.name}: is parametrized; initialize a real model and save its state_dict instead")
        else:
            try:
                if entry.kept and entry.persistent:
                    check_target(entry, slot)
                    _check_plain(slot)
                _check_writable(entry)
            except ZetaError as error:
                problems.append(f"{entry.name}: {'is kept, but ' if entry.kept else ''}{error}")
        problems += [
            f"{tie}: the model has no such parameter, to be tied to {entry.name}"
            for tie in entry.ties
            if tie not in slots
        ]
        problems += [
            f"{name}: is {'' if entry.persistent else 'not '}to be saved by the plan, but is a buffer with persistent="
            f"{slots[name].persistent}; make it persistent under every name or none, and plan this model"
            for name in (entry.name, *entry.ties)
            if name in slots and slots[name].persistent != entry.persistent
        ]
    problems += tie_problems(plan, slots, lambda entry: entry.persistent)
    planned = {name for entry in plan for name in (entry.name, *entry.ties)}
    problems += [f"{name}: is not in the plan" for name in slots if name not in planned]
    if problems:
        raise TargetError(listed("this plan cannot be saved for this model; nothing was written:", problems))
    return slots


def _check_plain(slot: Slot) -> None:
    """Raise ``TargetError`` unless the tensor's bytes are its values."""
    tensor = slot.tensor
    if tensor.layout is not torch.strided:
        raise TargetError(
            f"has layout {str(tensor.layout).removeprefix('torch.')}, which safetensors lacks; make it dense with "
            ".to_dense()"
        )
    if not has_address(tensor):
        raise TargetError(f"is a {type(tensor.data).__name__} without memory of its own; make it a plain tensor")


def _check_writable(entry: Entry) -> None:
    """Raise ``ZetaError`` where a model in the plan's dtypes could not be initialized either."""
    check_dtype(entry.initializer, entry.dtype)
    if not entry.kept and entry.kind is not Kind.BUFFER and not dtypes.is_drawable(entry.dtype):
        raise TargetError(
            f"has dtype {dtypes.name_of(entry.dtype)}; save the floating-point model and quantize it afterwards, or "
            "use Keep()"
        )


def _tiles(entry: Entry, slot: Slot, seed: int) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    if entry.kept:
        whole = tuple(slice(0, size) for size in entry.shape)
        shown = slot.tensor.detach().to(device="cpu", dtype=entry.dtype).resolve_conj().resolve_neg()
        yield whole, shown.contiguous()
    else:
        yield from values_of(entry, seed)


def _repeat(file: BinaryIO, start: int, size: int) -> None:
    """Append a copy of ``size`` bytes that the file already has at ``start``."""
    end = file.tell()
    for offset in range(0, size, _COPY_BYTES):
        file.seek(start + offset)
        block = file.read(min(_COPY_BYTES, size - offset))
        file.seek(end + offset)
        file.write(block)


def _reserve(file: BinaryIO, size: int, folder: Path) -> None:
    """Fail now, and not after minutes, if the disk has no room."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise CheckpointError(f"{folder} has room for {free:,} bytes, and {size:,} are needed; nothing was written")


def _sync(path: Path) -> None:
    """Let the disk have a file's bytes, or a folder's names, before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_files(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[Path, ...]]:
    """Temporary paths for ``names`` inside ``folder``: renamed into place on success, removed on any failure."""
    created = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    complete = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".zeta-", dir=folder, ignore_cleanup_errors=True) as inner:
            paths = tuple(Path(inner) / f"{name}.tmp" for name in names)
            yield paths
            _move(paths, tuple(folder / name for name in names))
        complete = True
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot write to {folder}: {error.strerror or error}; nothing was left there") from error
    finally:
        if not complete:
            for parent in created:
                with contextlib.suppress(OSError):
                    parent.rmdir()
    with contextlib.suppress(OSError):  # not every system can
        _sync(folder)


def _move(paths: tuple[Path, ...], targets: tuple[Path, ...]) -> None:
    """Rename every path to its target, or none: what is there already is set aside first, and put back on failure.

    The last target goes first and comes last. It is the manifest, which then never stands beside another's tensors.
    """
    asides = [
        target.with_name(f"{path.parent.name}.{target.name}") for path, target in zip(paths, targets, strict=True)
    ]
    with contextlib.ExitStack() as undo:
        for target, aside in zip(reversed(targets), reversed(asides), strict=True):
            existed = os.path.lexists(target)
            undo.callback(_put_back, target, aside if existed else None)
            if existed:
                target.replace(aside)
        for path, target in zip(paths, targets, strict=True):
            path.replace(target)
        undo.pop_all()
    for aside in asides:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _put_back(target: Path, aside: Path | None) -> None:
    """Make ``target`` what it was: the file that was set aside, if it was, or nothing."""
    try:
        if aside is None:
            target.unlink(missing_ok=True)
        elif os.path.lexists(aside):
            aside.replace(target)
    except OSError as error:
        earlier = "a new file stays there" if aside is None else f"the earlier file is {aside}"
        raise CheckpointError(f"cannot restore {target}: {error.strerror or error}; {earlier}") from error
