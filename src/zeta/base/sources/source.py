"""What every source of tensors offers, wherever the tensors are."""

from __future__ import annotations

import abc
import math
import operator
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import msgspec
import torch
from torch import Tensor

from zeta.base.escaping import visible
from zeta.base.reading import LONGEST_TEXT, shown
from zeta.base.sources.files import File
from zeta.errors import SpecError

Box = tuple[slice, ...]
NO_SETTINGS: Final[Mapping[str, bytes]] = MappingProxyType({})


class TensorInfo(msgspec.Struct, frozen=True):
    """The shape and dtype of a tensor whose values are not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.numel * self.dtype.itemsize


class Source(abc.ABC):
    """Tensors by name, which are read one by one and in parts. Use it as a context manager.

    ``origin`` says in messages where they come from, ``tensors`` has the shape and dtype of each in the file's order,
    ``files`` are what they are read from, and ``settings`` has the texts of the configuration and tokenizer files
    beside them, which are read when they are asked for. Several threads may read at the same time.
    """

    origin: str
    tensors: Mapping[str, TensorInfo]
    settings: Mapping[str, bytes] = NO_SETTINGS
    files: Collection[File] = ()

    def read(self, name: str, index: Box | None = None) -> Tensor:
        """The values of a tensor, or of the box ``index`` of it, as a contiguous tensor on the CPU.

        ``index`` has one slice with step 1 for each dimension. The tensor is new; that of a state dict may be a view.

        Raises ``SpecError`` for a name or box that the source does not have, and ``CheckpointError`` if a file cannot
        be read or changed after it was opened.
        """
        info = self.tensors.get(name) if isinstance(name, str) else None
        if info is None:
            raise SpecError(f"{visible(self.origin)} has no tensor {shown(name)}")
        return self._read(name, _box(name, info.shape, index))

    @abc.abstractmethod
    def _read(self, name: str, box: Box) -> Tensor:
        """As ``read``; the slices have numbers that fit the shape."""

    def states(self) -> dict[str, tuple[int, int]]:
        """The size, and the time of the last change in ns, of each file by its name; empty if there are none."""
        return {file.path.name: file.state for file in self.files}

    def folders(self) -> set[Path]:
        """The folders of the files, and of what they are links to."""
        return {path.parent for file in self.files for path in (file.path, file.path.resolve())}

    def memory(self, name: str) -> Tensor | None:
        """The tensor whose memory is read, if it is a live one, which may change before it is read."""
        return None

    def close(self) -> None:  # noqa: B027
        """Close the files. Nothing can be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.tensors):,} tensors of {visible(self.origin)}>"


def is_name(value: object) -> bool:
    """Whether the value can name a tensor: text of at most ``LONGEST_TEXT`` characters that is valid Unicode."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _box(name: str, shape: tuple[int, ...], index: Box | None) -> Box:
    if index is None:
        return tuple(slice(0, size) for size in shape)
    if not isinstance(index, tuple) or len(index) != len(shape) or not all(isinstance(cut, slice) for cut in index):
        raise SpecError(f"index for {shown(name)} must be a tuple of {len(shape)} slices, got {shown(index)}")
    return tuple(_cut(name, size, cut) for size, cut in zip(shape, index, strict=True))


def _cut(name: str, size: int, cut: slice) -> slice:
    try:
        start = 0 if cut.start is None else operator.index(cut.start)
        stop = size if cut.stop is None else operator.index(cut.stop)
        step = 1 if cut.step is None else operator.index(cut.step)
    except TypeError:
        start = stop = step = -1
    if step != 1 or not 0 <= start <= stop <= size:
        raise SpecError(f"index for {shown(name)} must have slices of step 1 within 0 and {size}, got {shown(cut)}")
    return slice(start, stop)
