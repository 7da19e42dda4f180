"""An initializer that is a small program of torch operations, its random leaves drawn from the stream."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import torch
from torch import Tensor

from zeta import dtypes
from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers.base import Initializer, Site
from zeta.initializers.elementwise import Constant, Ones, Zeros

#: draw numbers that one leaf may use: its own, those of a complex part or a mask
DRAWS_PER_LEAF: Final = 256
_SHOWN: Final = 72


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
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return cls(bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b"")

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
    """One operation: ``aten.<name>.<overload>``, or one of ``draw``, ``data``, ``read``, ``write``, ``item``.

    ``read`` and ``write`` take a strided view (shape, strides, offset in elements) of a contiguous tensor.
    """

    op: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def refs(self) -> Iterator[int]:
        """The steps that this one uses."""
        return _refs((self.args, tuple(value for _, value in self.kwargs)))

    @property
    def name(self) -> str:
        """The operation's name without namespace and overload."""
        return self.op.split(".")[1] if "." in self.op else self.op


def _refs(value: Any) -> Iterator[int]:
    if isinstance(value, Ref):
        yield value.step
    elif isinstance(value, tuple):
        for item in value:
            yield from _refs(item)


@dataclass(frozen=True, repr=False)
class Program(Initializer):
    """A directed graph of torch operations in order; the last step is the value.

    Deterministic steps are computed on the CPU by torch, so that they equal what a real construction computes. Each
    random leaf is an initializer with a draw number of its own, drawn from the stream.

    Programs run on the CPU, whatever the parameter's device. Where something is random and every step treats elements
    alone or moves boxes of them, tiles of 2^18 elements are computed one by one; else the whole tensor at once, with
    temporaries of its size.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        try:
            steps = tuple(step if isinstance(step, Step) else _step_from_json(step) for step in self.steps)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecError(f"Program: not a list of steps: {error}") from error
        object.__setattr__(self, "steps", steps)
        if not steps:
            raise SpecError("Program: at least one step is needed")
        for position, step in enumerate(steps):
            if any(not 0 <= ref < position for ref in step.refs):
                raise SpecError(f"Program: step {position} ({step.op}) uses a step that is not before it")
            if step.op not in _OWN and not step.op.startswith("aten."):
                raise SpecError(f"Program: step {position} has the unknown operation {step.op!r}")

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The random leaves."""
        return tuple(step.args[0] for step in self.steps if step.op == "draw")

    def scaled(self, factor: float) -> Program:
        last = self.steps[-1]
        by = replace(last, op="aten.mul.Tensor", args=(Ref(len(self.steps) - 1), factor), kwargs=())
        return Program((*self.steps, by))

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
            names = list(dict.fromkeys(step.name for step in self.steps if step.op not in ("read", "item", "data")))
            text = f"{len(self.steps)} steps: {', '.join(names)}"
            text = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        return f"Program({text})"

    def _expression(self) -> str | None:
        """The program as one nested expression, if that is short."""
        texts: list[str] = []
        for step in self.steps:
            if step.op == "draw":
                draw: Draw = step.args[0]
                law = str(draw.initializer)
                texts.append(law if draw.of is None else f"{law} of {draw.of}")
            elif step.op == "read":
                texts.append(f"{texts[step.args[0].step]}[...]")
            elif step.op == "data":
                texts.append(f"data{list(step.shape)}")
            else:
                shown = [_shown(value, texts) for value in step.args]
                texts.append(f"{step.name}({', '.join(text for text in shown if text)})")
            if len(texts[-1]) > _SHOWN:
                return None
        return texts[-1]


_OWN: Final = ("draw", "data", "read", "write", "item")


def _shown(value: Any, texts: list[str]) -> str:
    if isinstance(value, Ref):
        return texts[value.step]
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(item, texts) for item in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- JSON ------------------------------------------------------------------------------------------------------------


def _step_to_json(step: Step) -> dict[str, Any]:
    return {
        "op": step.op,
        "args": [_to_json(value) for value in step.args],
        "kwargs": {name: _to_json(value) for name, value in step.kwargs},
        "shape": list(step.shape),
        "dtype": dtypes.name_of(step.dtype),
    }


def _step_from_json(data: Mapping[str, Any]) -> Step:
    return Step(
        op=data["op"],
        args=tuple(_from_json(value) for value in data["args"]),
        kwargs=tuple((name, _from_json(value)) for name, value in data["kwargs"].items()),
        shape=tuple(data["shape"]),
        dtype=dtypes.dtype_named(data["dtype"]),
    )


def _to_json(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case complex():
            return {"complex": [_to_json(value.real), _to_json(value.imag)]}
        case tuple():
            return [_to_json(item) for item in value]
        case Ref():
            return {"step": value.step}
        case Data():
            return {"base64": base64.b64encode(value.content).decode()}
        case torch.dtype():
            return {"dtype": dtypes.name_of(value)}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case Draw():
            axes = None if value.axes is None else value.axes.to_json()
            return {"draw": value.initializer.to_json(), "number": value.number, "of": value.of, "axes": axes}
    raise SpecError(f"Program: {value!r} has no form in JSON")


def _from_json(value: Any) -> Any:
    match value:
        case None | bool() | int() | str() | float():
            return value
        case list():
            return tuple(_from_json(item) for item in value)
        case {"float": text}:
            return float(text)
        case {"complex": [real, imag]}:
            return complex(_from_json(real), _from_json(imag))
        case {"step": number}:
            return Ref(number)
        case {"base64": text}:
            return Data(base64.b64decode(text, validate=True))
        case {"dtype": name}:
            return dtypes.dtype_named(name)
        case {"memory_format": name} if name in ("contiguous_format", "preserve_format", "channels_last"):
            return getattr(torch, name)
        case {"draw": initializer, "number": number, "of": of, "axes": axes}:
            return Draw(Initializer.from_json(initializer), number, of, None if axes is None else Axes.from_json(axes))
    raise SpecError(f"Program: {value!r} is not an argument of a step")


def constant(value: float) -> Constant:
    """``Zeros()``, ``Ones()`` or ``Constant(value)``."""
    if value == 1:
        return Ones()
    return Zeros() if value == 0 and math.copysign(1.0, value) > 0 else Constant(value)
