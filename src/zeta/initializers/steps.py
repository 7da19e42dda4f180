"""The steps of a program, and their form in JSON."""

from __future__ import annotations

import base64
import binascii
import ctypes
import math
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from msgspec import Struct
from torch import Tensor

from zeta.base import dtypes
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers.base import Initializer

if TYPE_CHECKING:
    from zeta.base.language.operations import Attributes, Operand, Type

#: dimensions of a tensor in a program
MOST_DIMS: Final = 64
#: the bits of ``float("nan")``
_NAN: Final = "7ff8000000000000"
_HEX: Final = re.compile("[0-9a-f]{16}")
#: characters of a step that a text shows
LONGEST_SHOWN: Final = 72


class Ref(Struct, frozen=True):
    """The result of an earlier step."""

    step: int


class Data(Struct, frozen=True):
    """A constant tensor, as its bytes in row-major order, little-endian."""

    content: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> Data:
        """The bytes of a tensor."""
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        return cls(ctypes.string_at(flat.data_ptr(), flat.nbytes))

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor of these bytes."""
        if not self.content:
            return torch.empty(shape, dtype=dtype, device="cpu")
        return torch.frombuffer(bytearray(self.content), dtype=dtype).reshape(shape)

    def __repr__(self) -> str:
        return f"<{len(self.content)} bytes>"


class Draw(Struct, frozen=True):
    """A random leaf: draw ``number`` of the parameter ``of``; by default of the program's own parameter."""

    initializer: Initializer
    number: int
    of: str | None = None
    axes: Axes | None = None


class Step(Struct, frozen=True, kw_only=True):
    """One operation of the language (docs/programs.md), or a leaf: ``draw`` or ``data``, with its content in ``leaf``.

    Operands are results of earlier steps (:class:`Ref`), numbers, or ``None``; attributes are sorted by name.
    """

    op: str
    operands: tuple[Operand, ...] = ()
    attributes: Attributes = ()
    leaf: Draw | Data | None = None
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def refs(self) -> Iterator[int]:
        """The steps that this one uses."""
        return (operand.step for operand in self.operands if isinstance(operand, Ref))

    @property
    def type(self) -> Type:
        """The shape and dtype of the result."""
        return self.shape, self.dtype

    @property
    def numel(self) -> int:
        """The number of elements of the result."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the result."""
        return self.numel * self.dtype.itemsize


def step_to_json(step: Step) -> dict[str, Any]:
    """Return a JSON-ready dictionary; ``step_from_json`` reads it back exactly."""
    data: dict[str, Any] = {"op": step.op}
    match step.leaf:
        case Draw(law, number, of, axes):
            named = None if axes is None else axes.to_json()
            data |= {"draw": law.to_json(), "number": number, "of": of, "axes": named}
        case Data(content):
            data |= {"base64": base64.b64encode(content).decode()}
        case None:
            data |= {"operands": [_to_json(value) for value in step.operands]}
            data |= {"attributes": {key: _to_json(value) for key, value in step.attributes}}
    return data | {"shape": list(step.shape), "dtype": dtypes.name_of(step.dtype)}


def _to_json(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isnan(value):
                return value if math.isfinite(value) else {"float": str(value)}
            bits = struct.pack(">d", value).hex()  # of which one is usual, and each is another value
            return {"float": "nan"} if bits == _NAN else {"nan": bits}
        case complex():
            return {"complex": [_to_json(value.real), _to_json(value.imag)]}
        case Ref():
            return {"step": value.step}
        case tuple():
            return [_to_json(item) for item in value]
    raise SpecError(f"{shown(value)} has no form in JSON")


def step_from_json(data: Any) -> Step:
    """Read a step. ``SpecError`` for a form that ``step_to_json`` does not write; the program checks the rest."""
    operands: tuple[Operand, ...] = ()
    attributes: dict[str, Any] = {}
    match data:
        case {"op": "draw", "draw": law, "number": int(number), "of": str() | None as of, "axes": axes}:
            leaf: Draw | Data | None = Draw(
                Initializer.from_json(law), number, of, None if axes is None else Axes.from_json(axes)
            )
            known = 7
        case {"op": "data", "base64": str(text)}:
            leaf = Data(_decoded(text))
            known = 4
        case {"op": str(), "operands": list(listed), "attributes": dict(attributes)}:
            leaf, operands = None, tuple(map(_from_json, listed))
            known = 5
        case {"op": str(), "args": _}:
            raise SpecError("is written in format 1, as an operation of torch; record the model again")
        case _:
            raise SpecError(f"is no operation, draw or data: {str(data)[:LONGEST_SHOWN]}")
    match data:
        case {"op": str(op), "shape": list(shape), "dtype": str(dtype)} if len(data) == known:
            named = tuple(sorted((key, _from_json(value)) for key, value in attributes.items()))
            return Step(
                op=op,
                operands=operands,
                attributes=named,
                leaf=leaf,
                shape=tuple(shape),
                dtype=dtypes.dtype_named(dtype),
            )
    raise SpecError(f"needs op, shape and dtype and what it computes of, and nothing else, got {sorted(data)}")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(f"data is no base64: {error}") from None


def _from_json(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() if len(value) <= MOST_DIMS and not any(isinstance(item, list) for item in value):
            return tuple(map(_from_json, value))
        case {"float": "inf" | "-inf" | "nan" as text} if len(value) == 1:
            return float(text)
        case {"nan": str(text)} if len(value) == 1 and _HEX.fullmatch(text):
            number = struct.unpack(">d", bytes.fromhex(text))[0]
            if math.isnan(number):
                return number
        case {"complex": [real, imaginary]} if len(value) == 1:
            parts = [_from_json(part) for part in (real, imaginary)]
            if all(isinstance(part, float) for part in parts):
                return complex(*parts)
        case {"step": int(number)} if len(value) == 1 and not isinstance(number, bool):
            return Ref(number)
    raise SpecError(f"{str(value)[:LONGEST_SHOWN]} is no operand and no attribute")
