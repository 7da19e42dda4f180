"""The type and the values of one operation of the language, independent of the caller's state."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.operations import (
    ATTRIBUTE_KINDS,
    OPERATIONS,
    Attributes,
    Operand,
    Operation,
    Type,
    is_inexact,
    is_number,
)
from zeta.base.language.state import fixed_state, one_thread
from zeta.base.reading import shown
from zeta.errors import SpecError

_META: Final = torch.device("meta")
_CPU: Final = torch.device("cpu")


# -- types -----------------------------------------------------------------------------------------------------------


def result_type(name: str, operands: Sequence[Operand | Type], attributes: Attributes, dtype: torch.dtype) -> Type:
    """The type of an operation's result, from its operands: types of tensors, numbers, or ``None``.

    ``dtype`` is the stated dtype; operations that create or cast need it. Nothing is allocated.

    Raises ``SpecError`` where names, kinds, shapes or dtypes do not fit the signature.
    """
    # part of the cache key: 1, 1.0 and True are equal, but give different types
    kinds = (_kind(tuple(operands)), _kind(tuple(value for _, value in attributes)))
    try:
        return _result_type(name, tuple(operands), attributes, dtype, kinds)
    except TypeError as error:  # not hashable, so not allowed in a step
        raise SpecError(f"{name}: {error}") from None


@functools.lru_cache(maxsize=2**12)
def nbytes_of_parts(name: str, operands: tuple[Operand | Type, ...], attributes: Attributes, dtype: torch.dtype) -> int:
    """The bytes of all tensors that an operation returns; the attribute ``part`` selects one of them."""
    operation = OPERATIONS[name]
    with fixed_state():
        twins = [_empty(operand) if isinstance(operand, tuple) else operand for operand in operands]
        every = _call(operation, twins, {key: value for key, value in attributes if key != "part"}, dtype, _META)
    return sum(tensor.nbytes for tensor in every)


def _kind(value: Any) -> Any:
    return tuple(map(_kind, value)) if isinstance(value, tuple) else type(value)


@functools.lru_cache(maxsize=2**14)
def _result_type(
    name: str, operands: tuple[Operand | Type, ...], attributes: Attributes, dtype: torch.dtype, kinds: Any
) -> Type:
    operation = OPERATIONS.get(name)
    if operation is None:
        raise SpecError(f"{name!r} is no operation of the language of programs (docs/programs.md lists them)")
    _check_attributes(operation, attributes)
    _check_operands(operation, operands)
    try:
        with fixed_state():
            twins = [_empty(operand) if isinstance(operand, tuple) else operand for operand in operands]
            result = _call(operation, twins, dict(attributes), dtype, _META)
            if operation.elementwise:  # the meta device does not know which dtypes the CPU supports
                ones = [_one(twin) if isinstance(twin, Tensor) else twin for twin in twins]
                _call(operation, ones, dict(attributes), dtype, _CPU)
    except Exception as error:  # torch raises many classes of errors for invalid arguments
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SpecError(f"{name} cannot be computed of these operands: {reason}") from None
    if not isinstance(result, Tensor):
        raise SpecError(f"{name} has several results; the attribute part must select one")
    inexact = any(is_inexact(operand[1]) for operand in operands if isinstance(operand, tuple))
    if not (operation.creates or operation.casts) and is_inexact(result.dtype) and not inexact:
        raise SpecError(f"{name} of whole numbers would be of torch's default dtype; cast them first")
    return tuple(result.shape), result.dtype


def _empty(of: Type) -> Tensor:
    return torch.empty(of[0], dtype=of[1], device=_META)


def _one(twin: Tensor) -> Tensor:
    return torch.ones((1,) * twin.ndim, dtype=twin.dtype, device=_CPU)


def _check_attributes(operation: Operation, attributes: Attributes) -> None:
    given = dict(attributes)
    known = operation.attributes
    if len(given) < len(attributes) or given.keys() - known.keys() or known.keys() - given.keys() - operation.optional:
        raise SpecError(f"{operation.name} takes the attributes {sorted(known) or 'none'}, got {sorted(given)}")
    for key, value in attributes:
        if not ATTRIBUTE_KINDS[known[key]](value):
            raise SpecError(f"{operation.name}: {key} must be of the kind {known[key]!r}, got {shown(value)}")


def _check_operands(operation: Operation, operands: Sequence[Operand | Type]) -> None:
    tensors = [operand for operand in operands if isinstance(operand, tuple)]
    wanted = len(operation.operands)
    fits = len(operands) >= wanted - 1 if operation.variadic else len(operands) == wanted
    others = [operand for operand in operands if not isinstance(operand, tuple)]
    allowed = all(is_number(operand) or (operand is None and operation.name == "clamp") for operand in others)
    if not fits or not allowed or (others and not operation.numbers) or not (tensors or operation.creates):
        raise SpecError(
            f"{operation.name} takes the operands {', '.join(operation.operands) or 'none'}, got {shown(operands)}"
        )


# -- values ----------------------------------------------------------------------------------------------------------


def compute(name: str, operands: Sequence[Operand], attributes: Attributes, dtype: torch.dtype) -> Tensor:
    """Compute an operation on the CPU: a tensor of ``dtype``, which may share memory with an operand.

    To be called inside :func:`fixed_state`.
    """
    with one_thread():
        return _with_one_nan(name, _call(OPERATIONS[name], operands, dict(attributes), dtype, _CPU))


def _call(
    operation: Operation,
    operands: Sequence[Operand],
    attributes: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    part = attributes.pop("part", None)
    if operation.dense:
        operands = [_plain(value).contiguous() if isinstance(value, Tensor) else value for value in operands]
    if operation.creates or operation.casts:
        attributes["dtype"] = dtype
    if operation.creates:
        attributes["device"] = device
    if operation.variadic:
        result = operation.compute(*operands, **attributes)
    else:  # by name: torch has operands and attributes in one order
        result = operation.compute(**dict(zip(operation.operands, operands, strict=True)), **attributes)
    if part is not None:
        if not isinstance(result, list | tuple) or not 0 <= part < len(result):
            raise ValueError(f"there is no part {part}")
        if operation.name == "linalg_cholesky_ex" and part == 0 and device is _CPU and bool(result[1].any()):
            raise ValueError("the matrix is not positive-definite")  # the factor is one of no matrix
        result = result[part]
    return _plain(result) if isinstance(result, Tensor) else result


def _with_one_nan(name: str, values: Tensor) -> Tensor:
    """The values of an elementwise operation, with one pattern of bits for NaN where it would depend on the place."""
    if values.dtype not in _UNEVEN.get(name, ()):
        return values
    parts = torch.view_as_real(values) if values.is_complex() else values
    parts = torch.where(parts.isnan(), torch.full((), math.nan, dtype=parts.dtype, device=_CPU), parts)
    return torch.view_as_complex(parts) if values.is_complex() else parts


def _plain(tensor: Tensor) -> Tensor:
    """The values themselves: some of torch's results are marked as to be conjugated or negated."""
    return tensor.resolve_conj().resolve_neg()


def compute_elementwise(
    name: str, operands: Sequence[Operand], attributes: Attributes, dtype: torch.dtype, shape: Sequence[int]
) -> Tensor:
    """Compute an elementwise operation for a result of ``shape``; an element's bits do not depend on other elements.

    With torch's code for AVX2 and AVX-512, this holds for the bits of NaN too: of some operations, see ``_UNEVEN``,
    every NaN becomes the same one. On other processors, sign and payload of a NaN that an operation makes of several
    may depend on the place of the element; whether it is NaN never does.

    torch uses vector code for whole vectors, and scalar code for the rest at the end of each thread's range or if
    memory is not contiguous. Functions such as ``sigmoid`` differ between the two in the last bits. So the operands are
    flattened, padded to whole vectors, and computed in pieces so small that torch uses one thread.
    """
    count = math.prod(shape)
    if count == 0 or not shape:
        return compute(name, operands, attributes, dtype)
    operation = OPERATIONS[name]
    filled = -(-count // _VECTORS) * _VECTORS
    stretches = []
    for start in range(0, filled, _STRETCH):

        def part(value: Operand, start: int = start) -> Operand:
            if not isinstance(value, Tensor) or value.ndim == 0:  # 0-d tensors do not decide the dtype: keep them 0-d
                return value
            flat = value.expand(shape).reshape(-1)[start : start + _STRETCH]
            missing = min(filled - start, _STRETCH) - flat.numel()
            return torch.cat([flat, flat[-1:].expand(missing)]) if missing else flat.contiguous()

        stretches.append(_call(operation, [part(value) for value in operands], dict(attributes), dtype, _CPU))
    flat: Tensor = stretches[0] if len(stretches) == 1 else torch.cat(stretches)
    return _with_one_nan(name, flat[:count]).view(*shape)


#: operations and dtypes for which torch's loops for AVX2 or AVX-512 combine two NaN in one order at some places, in the
#: other at others, and so keep other bits; all others have torch's NaN, so that they equal torch's own values
_UNEVEN: Final[Mapping[str, tuple[torch.dtype, ...]]] = {
    "mish": (*dtypes.REAL, *dtypes.COMPLEX),
    "lerp": (torch.float16, torch.bfloat16, *dtypes.COMPLEX),
    "div": (*dtypes.COMPLEX,),
    "log1p": (*dtypes.COMPLEX,),
}
#: elements of a tensor that torch computes on one thread
_STRETCH: Final = 2**15
#: a multiple of the elements that any of torch's vector loops processes at a time
_VECTORS: Final = 256
