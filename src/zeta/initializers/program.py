"""An initializer that is a small program of the closed language, its random leaves drawn from the stream."""

from __future__ import annotations

import base64
import binascii
import ctypes
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.escaping import visible
from zeta.base.language import evaluation, operations
from zeta.base.language.operations import Attributes, Operand, Type
from zeta.errors import SpecError, ZetaError
from zeta.fans import Axes
from zeta.initializers.base import Initializer, Keep, Site
from zeta.initializers.elementwise import Constant, Ones, Zeros
from zeta.initializers.fitting import check_law
from zeta.initializers.matrix import matrix_shape

#: draw numbers that one leaf may use: its own, those of a complex part or a mask
DRAWS_PER_LEAF: Final = 256
_SHOWN: Final = 72

# What a program may cost, so that no file makes a computer work or allocate without end: so much for every element
# of the tensor that it is for, and as for so many elements where the tensor is smaller.
MOST_STEPS: Final = 2**16
MOST_BYTES: Final = 2**10
MOST_WORK: Final = 2**14
LEAST_FOR_WORK: Final = 2**16
LEAST_FOR_MEMORY: Final = 2**18
_MOST_DIMS: Final = 64
_DTYPES: Final = (
    *dtypes.REAL, *dtypes.COMPLEX, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step."""

    step: int


@dataclass(frozen=True)
class Data:
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


@dataclass(frozen=True)
class Draw:
    """A random leaf: draw number ``number`` of the parameter ``of``, by default of the one that the program is for."""

    initializer: Initializer
    number: int
    of: str | None = None
    axes: Axes | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of the language (docs/programs.md), or a leaf: ``draw`` or ``data``, which say what they are.

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


@dataclass(frozen=True, repr=False)
class Program(Initializer):
    """Operations of the closed language in order, on logical tensors; the last step is the value.

    Each random leaf is an initializer with a draw number, drawn from the stream. Every step is checked when the program
    is built: operation, operands, attributes, the shape and dtype of its result, and what the whole may cost: 2^16
    steps, and for each element of the result 2^14 steps of arithmetic (for at least 2^16 elements) and 2^10 bytes at a
    time (for at least 2^18).

    Programs run on the CPU, whatever the parameter's device. Where something is random and every step treats elements
    alone or moves boxes of them, tiles of 2^18 elements are computed one by one; else the whole tensor at once, with
    temporaries of its size.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.steps, list | tuple) or not 1 <= len(self.steps) <= MOST_STEPS:
            raise SpecError(f"Program: steps must be a list of 1 to {MOST_STEPS:,} steps")
        steps: list[Step] = []
        for position, given in enumerate(self.steps):
            try:
                step = given if isinstance(given, Step) else step_from_json(given)
                _check_step(step, steps)
            except ZetaError as error:
                raise SpecError(f"Program: step {position}: {error}") from None
            steps.append(step)
        object.__setattr__(self, "steps", tuple(steps))
        _check_cost(self.steps)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The random leaves."""
        return tuple(step.leaf for step in self.steps if isinstance(step.leaf, Draw))

    def scaled(self, factor: float) -> Program:
        last = self.steps[-1]
        product = Step(op="mul", operands=(Ref(len(self.steps) - 1), factor), shape=last.shape, dtype=last.dtype)
        return Program((*self.steps, product))

    def solve(self, site: Site) -> Self:
        if site.shape != self.steps[-1].shape:
            raise SpecError(f"this program computes shape {self.steps[-1].shape}, the parameter has {site.shape}")
        return self

    def moments(self, site: Site) -> None:
        return None

    def to_json(self) -> dict[str, Any]:
        return {"name": "Program", "steps": [_step_to_json(step) for step in self.steps]}

    def _text(self, number: Any) -> str:
        text = self._expression()
        if text is None:
            names = list(dict.fromkeys(step.op for step in self.steps if step.op not in _UNNAMED))
            text = f"{len(self.steps)} steps: {', '.join(names)}"
            text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        return f"Program({text})"

    def _expression(self) -> str | None:
        """The program as one nested expression, if that is short."""
        texts: list[str] = []
        for step in self.steps:
            shown = [texts[item.step] if isinstance(item, Ref) else _shown(item) for item in step.operands]
            match step.leaf:
                case Draw():
                    law = str(step.leaf.initializer)
                    texts.append(law if step.leaf.of is None else f"{law} of {visible(step.leaf.of)}")
                case Data():
                    texts.append(f"data{list(step.shape)}")
                case None if step.op in ("slice", "strided"):
                    texts.append(f"{shown[0]}[...]")
                case None:
                    with_them = [_shown(value) for _, value in step.attributes]
                    texts.append(f"{step.op}({', '.join((*shown, *with_them))})")
            if len(texts[-1]) > _SHOWN:
                return None
        return texts[-1]


#: operations that a summary leaves out
_UNNAMED: Final = ("slice", "strided", "data", "reshape")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- checks ----------------------------------------------------------------------------------------------------------


def _check_step(step: Step, before: list[Step]) -> None:
    """Raise ``ZetaError`` unless a step's result follows from those before it and has the type that it states."""
    if len(step.shape) > _MOST_DIMS or not all(_is_extent(n) for n in step.shape) or step.nbytes >= 2**63:
        raise SpecError(f"{step.shape!r} is no shape")
    if step.dtype not in _DTYPES:
        raise SpecError(f"a program does not compute in {dtypes.name_of(step.dtype)}")
    if any(not 0 <= ref < len(before) for ref in step.refs):
        raise SpecError(f"{step.op} uses a step that is not before it")
    if not all(isinstance(item, Ref) or item is None or operations.is_number(item) for item in step.operands):
        raise SpecError(f"{step.op} has an operand that is no earlier step and no number")
    if (step.op in ("draw", "data")) != (step.leaf is not None) or (step.leaf and (step.operands or step.attributes)):
        raise SpecError(f"{step.op} has the wrong parts: draw and data are leaves, without operands and attributes")
    match step.leaf:
        case Draw():
            _check_draw(step.leaf, step)
        case Data():
            if len(step.leaf.content) != step.nbytes:
                raise SpecError(f"{len(step.leaf.content)} bytes of data for {_type_text(step.type)}")
            if step.dtype is torch.bool and step.leaf.content.strip(b"\0\1"):
                raise SpecError("data of truth values has bytes other than 0 and 1")
        case None:
            operands = tuple(before[item.step].type if isinstance(item, Ref) else item for item in step.operands)
            found = evaluation.result_type(step.op, operands, step.attributes, step.dtype)
            if found != step.type:
                raise SpecError(f"{step.op} gives {_type_text(found)}, but states {_type_text(step.type)}")


def _check_draw(draw: Draw, step: Step) -> None:
    law = draw.initializer
    if isinstance(law, Program | Keep) or law.solve(Site(shape=step.shape, axes=draw.axes)) != law:
        raise SpecError(f"{law!r} is not a law with every number known, which a draw needs")
    if law.needs_axes:
        law.moments(Site(shape=step.shape, axes=draw.axes))  # raises where the axes do not fit
    check_law(law, step.dtype)
    if not 0 <= draw.number < 2**63 or not isinstance(draw.of, str | None):
        raise SpecError(f"a draw has a number from 0 on and a parameter's name, got {draw.number!r} and {draw.of!r}")


def _check_cost(steps: tuple[Step, ...]) -> None:
    """Raise ``SpecError`` if a program would take more time or memory than its result justifies."""
    for_work, for_memory = max(steps[-1].numel, LEAST_FOR_WORK), max(steps[-1].numel, LEAST_FOR_MEMORY)
    work = 0
    last_use = {ref: position for position, step in enumerate(steps) for ref in step.refs}
    ending = Counter[int]()
    held = 0
    for position, step in enumerate(steps):
        beside = 0  # bytes of parts that nobody asked for
        if step.leaf is None:
            types = [steps[item.step].type if isinstance(item, Ref) else item for item in step.operands]
            work += operations.work(step.op, types, step.type)
            if any(key == "part" for key, _ in step.attributes):
                beside = evaluation.nbytes_of_parts(step.op, tuple(types), step.attributes, step.dtype) - step.nbytes
        else:
            work += _work_of(step)
        ending[last_use.get(position, position)] += step.nbytes
        held += step.nbytes
        if work > MOST_WORK * for_work or held + beside > MOST_BYTES * for_memory:
            raise SpecError(
                f"Program: up to step {position} ({step.op}) it takes {work:,} steps of arithmetic and "
                f"{held + beside:,} bytes; a tensor of {steps[-1].numel:,} elements may take {MOST_WORK * for_work:,} "
                f"and {MOST_BYTES * for_memory:,}"
            )
        held -= ending.pop(position, 0)


def _work_of(step: Step) -> int:
    """About how many steps of arithmetic a draw takes; orthogonal matrices are products, sparse ones are sorted."""
    if not isinstance(step.leaf, Draw) or not step.leaf.initializer.needs_axes:
        return step.numel
    sizes = matrix_shape(Site(shape=step.shape, axes=step.leaf.axes))
    return step.numel * max(32, min(sizes.rows, sizes.columns * math.prod(sizes.kernel)))


def _is_extent(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _type_text(of: Type) -> str:
    return f"{dtypes.name_of(of[1])}{list(of[0])}"


# -- JSON ------------------------------------------------------------------------------------------------------------


def _step_to_json(step: Step) -> dict[str, Any]:
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
            return value if math.isfinite(value) else {"float": str(value)}
        case complex():
            return {"complex": [_to_json(value.real), _to_json(value.imag)]}
        case Ref():
            return {"step": value.step}
        case tuple():
            return [_to_json(item) for item in value]
    raise SpecError(f"{value!r} has no form in JSON")


def step_from_json(data: Any) -> Step:
    """Read a step. Raises ``SpecError`` for anything that ``to_json`` does not write; the program checks the rest."""
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
            raise SpecError(f"is no operation, draw or data: {str(data)[:_SHOWN]}")
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
        case list() if len(value) <= _MOST_DIMS and not any(isinstance(item, list) for item in value):
            return tuple(map(_from_json, value))
        case {"float": "inf" | "-inf" | "nan" as text} if len(value) == 1:
            return float(text)
        case {"complex": [real, imaginary]} if len(value) == 1:
            parts = [_from_json(part) for part in (real, imaginary)]
            if all(isinstance(part, float) for part in parts):
                return complex(*parts)
        case {"step": int(number)} if len(value) == 1 and not isinstance(number, bool):
            return Ref(number)
    raise SpecError(f"{str(value)[:_SHOWN]} is no operand and no attribute")


def constant(value: float) -> Constant:
    """``Zeros()``, ``Ones()`` or ``Constant(value)``."""
    if value == 1:
        return Ones()
    return Zeros() if value == 0 and math.copysign(1.0, value) > 0 else Constant(value)
