"""A file of ``torch.save``: a zip archive with a pickle and the bytes of each storage, uncompressed.

The pickle is read by ``unpickling`` with a table of what plain tensors need, which is a part of what
``torch.load(weights_only=True)`` allows. It gives each tensor's place; values are read from there.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from typing import Any, Final

import msgspec
import torch

from zeta.base import dtypes
from zeta.base.reading import LARGEST_DOCUMENT, LARGEST_SIZE, MOST_DIMENSIONS, shown
from zeta.base.sources.files import File, Fill, failing
from zeta.base.sources.places import Place, check_shape
from zeta.base.sources.source import is_name
from zeta.base.sources.state_dict import is_extra
from zeta.base.sources.unpickling import Table, ordered, unpickle
from zeta.errors import FormatError, listed

_ADVICE: Final = "if you trust it, load it, and pass the state dict, torch.load(path, weights_only=True)"
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_BROKEN: Final = (
    *(zipfile.BadZipFile, EOFError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError),
    *(NotImplementedError, RuntimeError, AssertionError, struct.error),
)
_STORAGES: Final = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64,
}  # fmt: skip
#: the dtypes of dense tensors whose elements are whole bytes
DTYPES: Final = frozenset([*dtypes.SAFETENSORS, *dtypes.NEWER_SAFETENSORS, *dtypes.COMPLEX])


class _Storage(msgspec.Struct, frozen=True):
    """The name of a storage in the archive, the dtype of its elements, and its size in bytes."""

    key: str
    dtype: torch.dtype
    nbytes: int


class _Tensor(msgspec.Struct, frozen=True):
    """A tensor in a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def places_in(file: File) -> dict[str, Place]:
    """The place of each tensor of a state dict that ``torch.save`` wrote.

    Raises ``CheckpointError`` for a file that is not whole, or has anything else than tensors by name.
    """
    with failing(file.path):
        state = saved(file)
        if not isinstance(state, dict):
            raise FormatError(f"has {_kind(state)}, expected a state dict, with tensors by name")
        nested = [name for name, value in state.items() if isinstance(value, dict) and not is_extra(name)]
        if nested:
            raise FormatError(
                f"has dictionaries, {', '.join(map(shown, nested[:20]))}, expected tensors by name; pass the one with "
                f"the weights, such as torch.load(path, weights_only=True)[{shown(nested[0])}]"
            )
        others = [
            f"{shown(name)}: {_kind(value)}"
            for name, value in state.items()
            if not (is_name(name) and (isinstance(value, Place) or is_extra(name)))
        ]
        if others:
            raise FormatError(listed(f"has not only tensors by name; {_ADVICE}, without these:", others))
        return {name: value for name, value in state.items() if isinstance(value, Place)}


def saved(file: File, start: int = 0, length: int | None = None) -> Any:
    """What ``torch.save`` wrote to a part of a file, with a ``Place`` for a tensor, or for each in a dictionary.

    Raises ``FormatError`` or ``CheckpointError``.
    """
    length = file.size - start if length is None else length
    with failing(file.path), file.reading() as fill:
        archive = _Archive(file, fill, start, length)
        value = unpickle(archive.pickle(), _TABLE, _storage, f"; {_ADVICE}")
        if isinstance(value, dict):
            return {
                name: archive.place(name, item) if isinstance(item, _Tensor) else item for name, item in value.items()
            }
        return archive.place("", value) if isinstance(value, _Tensor) else value


def _kind(value: object) -> str:
    return "a tensor" if isinstance(value, Place | _Tensor) else shown(value)


class _Part(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, fill: Fill, start: int, length: int) -> None:
        self._fill = fill
        self._start = start
        self._length = length
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, self._length)[whence]
        if position < 0:
            raise ValueError("a place before the file")
        self._position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._length - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if size > LARGEST_DOCUMENT:
            raise FormatError(f"has a list of {size:,} bytes; at most {LARGEST_DOCUMENT:,} are read")
        content = bytearray(size)
        self._fill(memoryview(content), self._start + self._position)
        self._position += size
        return bytes(content)


class _Archive:
    """The entries of a zip archive that is a part of a file. Nothing in it is compressed."""

    def __init__(self, file: File, fill: Fill, start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length
        self._part = _Part(fill, start, length)
        self._starts: dict[str, int] = {}
        if self._part.read(4) != b"PK\3\4":
            raise FormatError(f"is no zip archive, as torch.save writes since torch 1.6, or is not whole; {_ADVICE}")
        try:
            infos = zipfile.ZipFile(self._part).infolist()  # closes nothing, as it did not open the file
        except FormatError:
            raise
        except _BROKEN as error:
            raise FormatError(f"is a zip archive that is truncated or broken: {shown(str(error))}") from None
        self._entries = {info.filename: info for info in infos}
        if len(self._entries) < len(infos):
            raise FormatError("is a zip archive in which a name occurs twice")
        first = [name for name in self._entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(first) != 1:
            raise FormatError("is a zip archive, and not one of torch.save: it has no data.pkl")
        self._prefix = first[0].removesuffix("data.pkl")

    def pickle(self) -> bytes:
        """The pickle; ``FormatError`` if its bytes or those of the storages are not in this machine's order."""
        if self._prefix + "byteorder" in self._entries and (order := self._content("byteorder")) != b"little":
            raise FormatError(f"has bytes in the order {shown(order)}, expected b'little'; {_ADVICE}")
        return self._content("data.pkl")

    def place(self, name: object, tensor: _Tensor) -> Place:
        """Where a tensor's elements are."""
        storage, sizes = tensor.storage, tensor.dtype.itemsize
        start, size = self._find("data/" + storage.key)
        where = f"tensor {shown(name)}"
        if size != storage.nbytes:
            raise FormatError(f"{where} is in a storage of {size:,} bytes, expected {storage.nbytes:,}")
        count = math.prod(tensor.shape)
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        if count and (tensor.offset + last + 1) * sizes > storage.nbytes:
            raise FormatError(f"{where} ends after its storage of {storage.nbytes:,} bytes")
        if count * sizes > storage.nbytes:
            raise FormatError(f"{where} has elements that share memory; save its contiguous()")
        check_shape(str(name), tensor.shape)
        first = self._start + start + tensor.offset * sizes
        return Place(self._file, first, tensor.shape, tensor.strides, tensor.dtype)

    def _content(self, name: str) -> bytes:
        start, size = self._find(name)
        self._part.seek(start)
        return self._part.read(size)

    def _find(self, name: str) -> tuple[int, int]:
        """The offset and the size of an entry's bytes."""
        info = self._entries.get(self._prefix + name)
        if info is None:
            raise FormatError(f"is a zip archive that lacks {shown(name)}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise FormatError(f"is a zip archive in which {shown(name)} is compressed")
        if name not in self._starts:
            self._part.seek(max(0, info.header_offset))
            header = self._part.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
                raise FormatError(f"is a zip archive that is broken at {shown(name)}")
            _, title, extra = _LOCAL_HEADER.unpack(header)
            self._starts[name] = self._part.tell() + title + extra
        start = self._starts[name]
        if start + info.file_size > self._length:
            raise FormatError(
                f"is truncated: {shown(name)} ends at {start + info.file_size:,} of {self._length:,} bytes"
            )
        return start, info.file_size


# -- what a pickle may name --------------------------------------------------------------------------------------------


def _storage(identifier: Any) -> _Storage:
    match identifier:
        case ("storage", torch.dtype() as dtype, str(key), str(), int(numel)) if 0 <= numel <= LARGEST_SIZE:
            return _Storage(key, dtype, numel * dtype.itemsize)
    raise FormatError(f"refers to {shown(identifier)}, expected a storage")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, *metadata: Any) -> _Tensor:
    """As ``torch._utils._rebuild_tensor_v2``."""
    return _typed_tensor(storage, offset, shape, strides, grad, hooks, getattr(storage, "dtype", None), *metadata)


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, _: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> _Tensor:
    """As ``torch._utils._rebuild_tensor_v3``."""
    if metadata:
        raise FormatError(f"has a tensor with the marks {shown(metadata)}; save its resolve_conj().resolve_neg()")
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise FormatError(f"has a tensor of the dtype {shown(dtype)}, which zeta does not read")
    if not isinstance(storage, _Storage) or not is_size(offset) or len(shape) != len(strides):
        raise FormatError(f"has a tensor of {shown(storage)}, expected a storage, an offset, sizes and strides")
    return _Tensor(storage, offset, sizes_of(shape), sizes_of(strides), dtype)


def is_size(value: object) -> bool:
    """Whether the value is a whole number from 0 on."""
    return type(value) is int and 0 <= value <= LARGEST_SIZE


def sizes_of(value: Any) -> tuple[int, ...]:
    """A tuple of sizes; ``FormatError`` for anything else."""
    if type(value) is not tuple or len(value) > MOST_DIMENSIONS or not all(map(is_size, value)):
        raise FormatError(f"has {shown(value)}, expected sizes")
    return value


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _with_type(function: Any, kind: Any, arguments: Any, _: Any) -> Any:
    """A tensor with attributes, which are dropped."""
    if (function is not _tensor and function is not _typed_tensor) or kind is not _PLAIN:
        raise FormatError(f"has a tensor of another class than torch.Tensor; {_ADVICE}")
    return function(*arguments)


#: the class of a tensor; it cannot be called
_PLAIN: Final = object()
#: names of what stands for sizes
SIZES: Final[Table] = {("torch", "Size"): sizes_of}
#: names of dtypes
DTYPE_NAMES: Final[Table] = {("torch", dtypes.name_of(dtype)): dtype for dtype in DTYPES}
_TABLE: Final[Table] = {
    **SIZES,
    **DTYPE_NAMES,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("torch", "Tensor"): _PLAIN,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _with_type,
    ("collections", "OrderedDict"): ordered,
}
