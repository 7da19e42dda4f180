"""A folder of ``torch.distributed.checkpoint``: ``.metadata``, and files that hold chunks of tensors.

torch reads ``.metadata`` by ``pickle.load``, which may run code. Here it is read by ``unpickling``: its classes become
records. A chunk is an archive of ``torch.save`` in a part of a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from zeta.base.reading import LARGEST_DOCUMENT, read_bytes, shown
from zeta.base.sources.archives import DTYPE_NAMES, SIZES, saved, sizes_of
from zeta.base.sources.files import File, failing
from zeta.base.sources.folder import is_plain
from zeta.base.sources.places import Place, check_shape, empty
from zeta.base.sources.source import Box, Source, TensorInfo, is_name
from zeta.base.sources.unpickling import Record, Table, dropped, ordered, record, unpickle
from zeta.base.text import shape_text
from zeta.errors import FormatError

METADATA: Final = ".metadata"
_MODULE: Final = "torch.distributed.checkpoint.metadata"
_EARLIER: Final = "torch.distributed._shard.sharded_tensor.metadata"
_RECORDS: Final = {
    "Metadata": _MODULE, "TensorStorageMetadata": _MODULE, "BytesStorageMetadata": _MODULE,
    "ChunkStorageMetadata": _MODULE, "TensorProperties": _MODULE, "MetadataIndex": _MODULE, "StorageMeta": _MODULE,
    "_StorageInfo": "torch.distributed.checkpoint.filesystem",
}  # fmt: skip
_TABLE: Final[Table] = {
    **SIZES,
    **DTYPE_NAMES,
    **{(module, name): record(name) for name, module in _RECORDS.items()},
    (_EARLIER, "TensorProperties"): record("TensorProperties"),
    ("torch.serialization", "_get_layout"): lambda name: name,
    ("collections", "OrderedDict"): ordered,
    # the memory format, deprecated, and the folder when it was written
    (_MODULE, "_MEM_FORMAT_ENCODING"): dropped,
    (_EARLIER, "MEM_FORMAT_ENCODING"): dropped,
    ("builtins", "getattr"): dropped,
    ("pathlib", "PosixPath"): dropped,
    ("pathlib", "WindowsPath"): dropped,
    ("pathlib._local", "PosixPath"): dropped,
    ("pathlib._local", "WindowsPath"): dropped,
}


class _Chunk(msgspec.Struct, frozen=True):
    """A part of a tensor: where it begins, its sizes, and the part of a file with its archive."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


class DistributedCheckpoint(Source):
    """Tensors whose boxes are put together from chunks. The files are not kept open, as there may be thousands."""

    def __init__(self, folder: Path) -> None:
        self.origin = str(folder)
        path = folder / METADATA
        with failing(path):
            metadata = _fields(unpickle(read_bytes(path, LARGEST_DOCUMENT), _TABLE), "Metadata")
            stored = _stored(metadata)
            found = {
                name: _described(name, _fields(value, "TensorStorageMetadata"))
                for name, value in _dictionary(metadata, "state_dict_metadata").items()
                if not (isinstance(value, Record) and value.kind == "BytesStorageMetadata")
            }
            self.tensors = {name: info for name, (info, _) in found.items()}
            self._chunks = {name: _chunks(name, *found[name], stored) for name in found}
        self._files = {
            name: File(folder / name, keep=False)
            for name in dict.fromkeys(chunk.file for chunks in self._chunks.values() for chunk in chunks)
        }
        self.files = self._files.values()
        for name, chunks in self._chunks.items():
            for chunk in chunks:
                self._check_end(name, chunk)
        self._places: dict[tuple[str, tuple[int, ...]], Place] = {}

    def _check_end(self, name: str, chunk: _Chunk) -> None:
        file = self._files[chunk.file]
        with failing(file.path):
            if chunk.start + chunk.length > file.size:
                raise FormatError(
                    f"is truncated: it has {file.size:,} bytes, and by {METADATA} a part of tensor {shown(name)} "
                    f"ends at {chunk.start + chunk.length:,}"
                )

    def _read(self, name: str, box: Box) -> Tensor:
        parts = [(chunk, part) for chunk in self._chunks[name] if (part := _common(chunk, box)) is not None]
        info = self.tensors[name]
        if len(parts) == 1 and parts[0][1] == box:
            return self._part(name, *parts[0])
        values = empty(tuple(cut.stop - cut.start for cut in box), info.dtype)
        for chunk, part in parts:
            values[_within(part, [cut.start for cut in box])] = self._part(name, chunk, part)
        return values

    def _part(self, name: str, chunk: _Chunk, part: Box) -> Tensor:
        key = (name, chunk.offsets)
        if key not in self._places:
            self._places[key] = self._place(name, chunk)
        return self._places[key].read(_within(part, chunk.offsets))

    def _place(self, name: str, chunk: _Chunk) -> Place:
        file, dtype = self._files[chunk.file], self.tensors[name].dtype
        with failing(file.path):
            place = saved(file, chunk.start, chunk.length)
            if not isinstance(place, Place) or (place.shape, place.dtype) != (chunk.sizes, dtype):
                found = f"{place.dtype}, {shape_text(place.shape)}" if isinstance(place, Place) else shown(place)
                raise FormatError(
                    f"a part of tensor {shown(name)} is {found}, expected {dtype}, {shape_text(chunk.sizes)}"
                )
        return place

    def close(self) -> None:
        """Nothing can be read afterwards."""
        for file in self._files.values():
            file.close()


def _common(chunk: _Chunk, box: Box) -> Box | None:
    """What a chunk and a box have in common."""
    common = tuple(
        slice(max(cut.start, offset), min(cut.stop, offset + size))
        for cut, offset, size in zip(box, chunk.offsets, chunk.sizes, strict=True)
    )
    return common if all(cut.start < cut.stop for cut in common) else None


def _within(part: Box, offsets: Sequence[int]) -> Box:
    """A box in the coordinates of what begins at ``offsets``."""
    return tuple(slice(cut.start - offset, cut.stop - offset) for cut, offset in zip(part, offsets, strict=True))


# -- what .metadata has ------------------------------------------------------------------------------------------------


def _fields(value: Any, kind: str) -> Mapping[Any, Any]:
    if not isinstance(value, Record) or value.kind != kind or not isinstance(value.state, dict):
        raise FormatError(f"has {shown(value)}, expected {kind}")
    return value.state


def _dictionary(fields: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise FormatError(f"has {shown(value)} as {name}, expected a dictionary")
    return value


def _described(name: Any, fields: Mapping[Any, Any]) -> tuple[TensorInfo, Any]:
    """The shape and dtype of a tensor, and its chunks."""
    if not is_name(name):
        raise FormatError(f"has the name {shown(name)}, expected valid Unicode")
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Record) and properties.kind == "TensorProperties" else None
    match state:
        case (torch.dtype() as dtype, "torch.strided", *_):
            pass
        case _:
            raise FormatError(
                f"tensor {shown(name)} has the properties {shown(state)}, expected a dtype and torch.strided"
            )
    shape = sizes_of(fields.get("size"))
    check_shape(name, shape)
    return TensorInfo(shape, dtype), fields.get("chunks")


def _stored(metadata: Mapping[Any, Any]) -> dict[tuple[str, tuple[int, ...]], Any]:
    """Where each chunk is, by the tensor's name and the chunk's offsets."""
    stored: dict[tuple[str, tuple[int, ...]], Any] = {}
    for index, info in _dictionary(metadata, "storage_data").items():
        fields = _fields(index, "MetadataIndex")
        name, offset = fields.get("fqn"), fields.get("offset")
        if isinstance(name, str) and offset is not None:
            stored[name, sizes_of(offset)] = info
    return stored


def _chunks(
    name: str, info: TensorInfo, chunks: Any, stored: Mapping[tuple[str, tuple[int, ...]], Any]
) -> tuple[_Chunk, ...]:
    """The chunks of a tensor that have elements; ``FormatError`` unless each element is in exactly one."""
    if not isinstance(chunks, list):
        raise FormatError(f"tensor {shown(name)} has {shown(chunks)}, expected a list of chunks")
    found: list[_Chunk] = []
    for chunk in chunks:
        fields = _fields(chunk, "ChunkStorageMetadata")
        offsets, sizes = sizes_of(fields.get("offsets")), sizes_of(fields.get("sizes"))
        if len(offsets) != len(info.shape) or len(sizes) != len(info.shape):
            raise FormatError(f"tensor {shown(name)} has a chunk with another number of dimensions")
        if any(offset + size > whole for offset, size, whole in zip(offsets, sizes, info.shape, strict=True)):
            raise FormatError(f"tensor {shown(name)} has a chunk that is not inside of it")
        if math.prod(sizes):
            found.append(_Chunk(offsets, sizes, *_storage_of(name, stored.get((name, offsets)))))
    if (count := sum(math.prod(chunk.sizes) for chunk in found)) != info.numel:
        raise FormatError(f"tensor {shown(name)} has {info.numel:,} elements, and its chunks {count:,}")
    if any(_overlaps(found)):
        raise FormatError(f"tensor {shown(name)} has chunks that overlap")
    return tuple(found)


def _storage_of(name: str, info: Any) -> tuple[str, int, int]:
    fields = _fields(info, "_StorageInfo")
    file, start, length = (fields.get(field) for field in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or not is_plain(file):
        raise FormatError(f"tensor {shown(name)} is in the file {shown(file)}, expected one in the folder itself")
    start, length = sizes_of((start, length))
    if fields.get("transform_descriptors"):
        raise FormatError(
            f"tensor {shown(name)} is compressed ({shown(fields['transform_descriptors'])}); save it without extensions"
        )
    return file, start, length


def _overlaps(chunks: Sequence[_Chunk]) -> Iterator[bool]:
    """Whether each chunk has an element of one before it, along the dimension that separates them best."""
    if len(chunks) < 2:
        return
    dims = range(len(chunks[0].offsets))
    dim = max(dims, key=lambda dim: len({chunk.offsets[dim] for chunk in chunks}), default=0)
    near: list[_Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[dim] if dims else 0):
        near = [other for other in near if other.offsets[dim] + other.sizes[dim] > chunk.offsets[dim]] if dims else near
        box = tuple(slice(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))
        yield any(_common(other, box) is not None for other in near)
        near.append(chunk)
