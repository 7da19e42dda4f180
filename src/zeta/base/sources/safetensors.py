"""A safetensors file: an 8-byte length, a JSON header, and the tensors' bytes without gaps.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import torch

from zeta.base import dtypes
from zeta.base.reading import Shape, Size, Text, converted, parse_json, shown
from zeta.base.sources.files import File, failing
from zeta.base.sources.places import Place, check_shape, row_major
from zeta.base.text import shape_text
from zeta.errors import FormatError

#: bytes of a header, as in the safetensors library
LARGEST_HEADER: Final = 100_000_000
_FIRST: Final = 8
_METADATA: Final = "__metadata__"
_DTYPES: Final[dict[str, torch.dtype]] = {
    name: dtype for table in (dtypes.SAFETENSORS, dtypes.NEWER_SAFETENSORS) for dtype, name in table.items()
}


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor in the header; the offsets count from the header's end."""

    dtype: Text
    shape: Shape
    data_offsets: tuple[Size, Size]


def places_in(file: File) -> dict[str, Place]:
    """The place of each tensor of a safetensors file, in the order of the bytes.

    Raises ``CheckpointError`` if the file is not one, or not whole.
    """
    with failing(file.path):
        header = _header(file)
        entries = _entries(header)
        begin, end = _FIRST + len(header), 0
        places: dict[str, Place] = {}
        for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            if entry.data_offsets[0] != end:
                raise FormatError(
                    f"the bytes of tensor {shown(name)} begin at {entry.data_offsets[0]:,}, expected {end:,}, where "
                    "those of the tensor before it end"
                )
            places[name] = _place(name, entry, file, begin)
            end = entry.data_offsets[1]
        if begin + end != file.size:
            what = "is truncated" if begin + end > file.size else "has bytes that belong to no tensor"
            raise FormatError(f"{what}: it has {file.size:,} bytes, and its header describes {begin + end:,}")
        return places


def _header(file: File) -> bytes:
    if file.size < _FIRST:
        raise FormatError(f"is no safetensors file or is truncated: it has {file.size} bytes")
    with file.reading() as fill:
        first = bytearray(_FIRST)
        fill(memoryview(first), 0)
        size = int.from_bytes(first, "little")
        if size > LARGEST_HEADER:
            raise FormatError(f"is no safetensors file: its header would have {size:,} bytes")
        if _FIRST + size > file.size:
            raise FormatError(
                f"is truncated, or no safetensors file: it has {file.size:,} bytes, and its header needs {size:,}"
            )
        header = bytearray(size)
        fill(memoryview(header), _FIRST)
    return bytes(header)


def _entries(header: bytes) -> dict[str, _Entry]:
    try:
        raw = converted(parse_json(header), dict[Text, Any])
    except FormatError as error:
        raise FormatError(f"is no safetensors file: its header cannot be read: {error}") from None
    entries: dict[str, _Entry] = {}
    for name, value in raw.items():
        try:
            if name == _METADATA:
                converted(value, dict[Text, Text])
            else:
                entries[name] = converted(value, _Entry)
        except FormatError as error:
            raise FormatError(f"the header is wrong at {shown(name)}: {error}") from None
    return entries


def _place(name: str, entry: _Entry, file: File, begin: int) -> Place:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise FormatError(
            f"tensor {shown(name)} has the dtype {shown(entry.dtype)}, expected one of {', '.join(_DTYPES)}"
        )
    start, stop = entry.data_offsets
    nbytes = math.prod(entry.shape) * dtype.itemsize
    if stop - start != nbytes:
        raise FormatError(
            f"tensor {shown(name)} has {stop - start:,} bytes, expected {nbytes:,} for {entry.dtype} of the shape "
            f"{shape_text(entry.shape)}"
        )
    check_shape(name, entry.shape)
    return Place(file, begin + start, entry.shape, row_major(entry.shape), dtype)
