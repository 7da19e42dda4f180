"""The modes of a recording.

:class:`Operations` receives every operation. :class:`Functions` handles functions that torch does not dispatch as
operations: the device of a tensor, and its values as a list or an array.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from zeta.base.generators import FUNCTIONS, Private, foreign_apart
from zeta.base.language.state import outside_of_modes
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.process.surroundings import plain
from zeta.errors import RecordingError, ZetaError
from zeta.resolve.recording.active import ACTIVE
from zeta.resolve.recording.sources import is_pickled, source_here, source_of
from zeta.resolve.recording.tracing.addresses import ADDRESSES, address_of
from zeta.resolve.recording.tracing.arguments import new_memories
from zeta.resolve.recording.tracing.building import BUILDING, ELSEWHERE
from zeta.resolve.recording.tracing.interception import INTERCEPTION
from zeta.resolve.recording.tracing.rearranging import check_untraced, each_number
from zeta.resolve.recording.tracing.recorder import Recorder
from zeta.resolve.recording.tracing.unseen import THREADS, notice_unseen

_CPU: Final = torch.device("cpu")
_OF_META: Final = re.compile(r"\bmeta\b(?!-)")


class Operations(Private):  # type: ignore[no-untyped-call]
    """Sends every operation to the recorder. Functions that seed torch's generators seed private ones."""

    supports_higher_order_operators = False

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(None)
        self.recorder = recorder
        recorder.generator = lambda: self.generator(_CPU)
        self.autocast = False  #: whether the running function was called under autocast; operations run without it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return self._operation(func, types, args, kwargs or {})
        except RecordingError as error:
            self.recorder.refused[str(error)] = None
            raise

    def _operation(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(func, OpOverload):
            raise RecordingError(f"{source_here()}: the operation {func} cannot be recorded")
        if any(issubclass(kind, FakeTensor) for kind in types):
            raise RecordingError(
                f"{source_here()}: {func} takes a FakeTensor, which has no values to record; make it outside of "
                "FakeTensorMode, or inside the constructor"
            )
        if self.autocast and _is_cast(func):
            raise RecordingError(
                f"{source_here()}: {func} under torch.autocast, whose precision depends on the device and cannot be "
                "recorded; compute initial values outside of autocast"
            )
        if func._schema.name.startswith("aten::_foreach_"):
            return self._each(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            return self.recorder.operation(func, args, dict(kwargs))

    def _each(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        """An operation on lists of tensors, applied to one element after the other."""
        name = func._schema.name.removeprefix("aten::_foreach_")
        if func._overloadname.startswith("Scalar"):  # with a number, torch has these under other names
            name = name.replace("maximum", "clamp_min").replace("minimum", "clamp_max")
        operation = getattr(torch.ops.aten, name, None)
        if operation is None:
            raise RecordingError(f"{source_here()}: the operation {func} cannot be recorded")

        def of(value: Any, number: int) -> Any:
            return value[number] if isinstance(value, list | tuple) else value

        if name.startswith(("addcdiv", "addcmul")) and len(args) > 3:
            args, kwargs = args[:3], {"value": args[3]}
        count = next(len(value) for value in args if isinstance(value, list | tuple))
        with self:
            results = [
                operation(*(of(value, n) for value in args), **{key: of(value, n) for key, value in kwargs.items()})
                for n in range(count)
            ]
        return None if func._schema.is_mutable else results


@functools.lru_cache(maxsize=4096)
def _is_cast(func: OpOverload) -> bool:
    """Whether autocast changes the operation on the CPU or on CUDA."""
    keys = ("AutocastCPU", "AutocastCUDA")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(func._name, key) for key in keys)


class Functions(TorchFunctionMode):
    """Makes meta tensors behave as if they were real."""

    def __init__(self, recorder: Recorder, operations: Operations) -> None:
        super().__init__()
        self.recorder = recorder
        self.operations = operations

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return self._called(func, getattr(func, "__name__", ""), args, kwargs or {})
        except (RuntimeError, BufferError, RecordingError) as error:
            if isinstance(error, RecordingError) or _OF_META.search(str(error)):
                self.recorder.refused[str(error)] = None
            raise

    def _called(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        check_untraced()
        self.operations.autocast = torch._C._is_any_autocast_enabled()
        if name == "__get__":
            return self._attribute(func, args, kwargs)
        if name == "__deepcopy__" and args[0].is_meta and args[0].is_leaf and id(args[0]) not in args[1]:
            return self._deep_copy(args[0], args[1])
        if name == "__deepcopy__" and not args[0].is_meta:  # copies bytes, which is no operation
            with outside_of_modes():
                result = func(*args, **kwargs)
            self.recorder.own |= new_memories(result, [args[0]])
            return result
        if name == "__set__" and func.__self__.__name__ == "data":
            return func(args[0], self._given(*args))
        answer = _ANSWERS.get(name)
        if answer is not None:
            result = answer(self.recorder, func, args, kwargs)
            if result is not NotImplemented:
                return result
        if "out" in kwargs and "device" in kwargs:
            kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "its data is not allocated" not in str(error):  # as torch says where an operation's code has no memory
                raise
            raise RecordingError(
                f"{source_here()}: torch.{name} reads memory directly, and inside a recording there is none; call it "
                "outside of the constructor, and give the result to it"
            ) from error

    def _given(self, tensor: Tensor, value: Tensor) -> Tensor:
        """What a tensor gets as its ``data``: on meta like it, or real, in memory that it shares with ``value``."""
        if tensor.is_meta or not value.is_meta:
            return value if value.is_meta or not tensor.is_meta else self.recorder.lift(value, shared=True)
        if value.is_conj() or value.is_neg():
            raise RecordingError(
                f"{source_here()}: a real tensor is given a view that conjugates or negates a recorded one as its "
                "data; give it values of its own, as in .data = values.resolve_conj().resolve_neg()"
            )
        try:
            known = self.recorder.value(value)
            if known.numel() == 0:
                return known.clone()
            lent = self.recorder.lent.lend(value).detach()
            if tensor.untyped_storage()._cdata in self.recorder.own:
                self.recorder.own |= new_memories(lent, [])
            return lent
        except RecordingError:
            raise RecordingError(
                f"{source_here()}: a parameter around a tensor from outside of the constructor is given values that "
                "are random; make another parameter of them, as in layer.weight = torch.nn.Parameter(values)"
            ) from None

    def _attribute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attribute = func.__self__.__name__
        if attribute in ("device", "is_meta", "is_cpu", "is_cuda") and args[0].is_meta:
            device = self.recorder.graph.cell(args[0]).device
            return device if attribute == "device" else device.type == attribute.removeprefix("is_")
        return func(*args, **kwargs)

    def _deep_copy(self, tensor: Tensor, memo: dict[Any, Any]) -> Tensor:
        """As torch copies real tensors: their memory once in each ``memo``, so that views stay views of one copy."""
        with torch.no_grad():
            apart = tensor.is_conj() or tensor.is_neg() or type(tensor) is not Tensor
            twin = tensor.clone() if apart else self.recorder.duplicate(tensor, memo.setdefault("torch", {}))
        twin.requires_grad_(tensor.requires_grad)
        grad, attributes = tensor.grad, vars(tensor)
        with self:
            if grad is not None:
                twin.grad = copy.deepcopy(grad, memo)
            vars(twin).update(copy.deepcopy(attributes, memo))
        memo[id(tensor)] = twin
        return twin


def _pickled(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Refuse to pickle: torch would read memory that does not exist. ``copy.copy`` also comes here, and is allowed."""
    if not args[0].is_meta or not is_pickled():
        return NotImplemented
    raise RecordingError(
        f"{source_here()}: pickle and torch.save need values, and inside a recording there are none; use copy.deepcopy"
    )


def _tolist(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return recorder.value(args[0]).tolist()


def _formatted(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``f"{tensor:.3f}"`` of a single number, as of a real tensor; without a format, of a random one as it is shown."""
    tensor, form = args
    if not tensor.is_meta or tensor.ndim or type(tensor) is not Tensor:
        return NotImplemented
    try:
        return format(recorder.value(tensor).item(), form)
    except RecordingError:
        if form:
            raise
        return str(tensor)


def _numpy(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of the memory that NumPy gets, torch keeps what it writes there."""
    if not args[0].is_meta:
        return NotImplemented
    plain = args[0].numel() == 0 or args[0].is_conj() or args[0].is_neg()
    return func(recorder.value(args[0]) if plain else recorder.lent.lend(args[0]), *args[1:], **kwargs)


def _dlpack_device(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with outside_of_modes():
        return func(torch.empty(0, device="cpu")) if args[0].is_meta else NotImplemented


def _new_tensor(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    data = (_with_values(recorder, value) if isinstance(value, list | tuple) else value for value in args[1:])
    return torch.tensor(*data, **{"dtype": args[0].dtype, **kwargs})


def _tensor(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A list may contain tensors of one number, whose values torch reads without passing through the modes."""
    data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
    if isinstance(data, torch.UntypedStorage):
        return _of_bytes(data, **{k: x for k, x in kwargs.items() if k in ("dtype", "requires_grad")})
    numpy = sys.modules.get("numpy")
    if func.__name__ != "tensor" and numpy and isinstance(data, numpy.ndarray) and not kwargs.get("copy"):
        return _shared(data, *args[1:], **{k: x for k, x in kwargs.items() if k not in ("data", "obj", "copy")})
    if not isinstance(data, list | tuple):
        return NotImplemented
    return func(
        _with_values(recorder, data), *args[1:], **{k: x for k, x in kwargs.items() if k not in ("data", "obj")}
    )


def _shared(array: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor in an array's memory, where it can be so; torch would copy it below the modes."""
    tensor = torch.from_numpy(array)
    if device is not None and torch.device(device) != _CPU:
        tensor = tensor.to(device)
    return tensor.to(tensor.dtype if dtype is None else dtype).requires_grad_(requires_grad)


def _of_bytes(storage: torch.UntypedStorage, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor in memory that was loaded, of torch's dtype for it; torch would read it below the modes."""
    tensor = torch.empty(0, dtype=dtype or torch.int64, device="cpu").set_(storage)
    return tensor.requires_grad_(requires_grad)


def _unshareable(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args[0].is_meta:
        return NotImplemented
    raise RecordingError(
        f"{source_here()}: share_memory moves memory, and inside a recording there is none; call it on the model when "
        "it has values, after materialize_"
    )


def _storage(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Memory with what is in it, as far as that is known."""
    try:
        return func(recorder.lent.lend(args[0])) if args[0].is_meta and args[0].numel() else NotImplemented
    except RecordingError:
        return NotImplemented


def _with_values(recorder: Recorder, value: Any) -> Any:
    """Nested lists, with meta tensors replaced by real ones."""
    if isinstance(value, list | tuple):
        return [_with_values(recorder, item) for item in value]
    return recorder.value(value) if isinstance(value, Tensor) else value


def _same_place(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``.to(...)`` returns the tensor itself if nothing changes, as it does for a real tensor."""
    tensor = args[0]
    if not isinstance(tensor, Tensor) or not tensor.is_meta or kwargs.get("copy"):
        return NotImplemented
    if func.__name__ == "cpu":
        device, dtype = _CPU, None
    elif len(args) == 2 and isinstance(args[1], Tensor):
        device, dtype = recorder.graph.cell(args[1]).device if args[1].is_meta else args[1].device, args[1].dtype
    else:
        try:
            device, dtype, _, form = torch._C._nn._parse_to(*args[1:], **kwargs)
        except (RuntimeError, TypeError):
            return NotImplemented
        if form is not None:
            return NotImplemented
    if device is not None and device != recorder.graph.cell(tensor).device:
        return NotImplemented
    return tensor if dtype is None or dtype is tensor.dtype else func(tensor, dtype)


def _indexed(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Lists and arrays as an index: torch would turn them into meta tensors, without their values."""
    index = args[1]
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, list | range) or hasattr(part, "__array_interface__") for part in parts):
        return NotImplemented
    made = tuple(
        torch.tensor(list(part) if isinstance(part, range) else part, device="cpu")
        if isinstance(part, list | range) or hasattr(part, "__array_interface__")
        else part
        for part in parts
    )
    return func(args[0], made if isinstance(index, tuple) else made[0], *args[2:])


def _numbers(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = (*args, *(kwargs[name] for name in sorted(kwargs)))  # map_(other=), map2_(x=, y=)
    tensors = [value for value in given if isinstance(value, Tensor)]
    if not tensors[0].numel() or not any(tensor.is_meta for tensor in tensors):
        return NotImplemented
    function = next(value for value in given if not isinstance(value, Tensor))
    return each_number(tensors[0], [recorder.value(tensor) for tensor in tensors], function)


Answer = Callable[[Recorder, Any, tuple[Any, ...], dict[str, Any]], Any]
_ANSWERS: Final[dict[str, Answer]] = {
    "tolist": _tolist,
    **dict.fromkeys(("apply_", "map_", "map2_"), _numbers),
    "__format__": _formatted,
    "data_ptr": lambda recorder, func, args, kwargs: address_of(args[0]) if args[0].is_meta else NotImplemented,
    "untyped_storage": _pickled,
    "storage": _storage,
    "share_memory_": _unshareable,
    "numpy": _numpy,
    "__array__": _numpy,
    "__dlpack__": _numpy,
    "__dlpack_device__": _dlpack_device,
    "new_tensor": _new_tensor,
    "tensor": _tensor,
    "as_tensor": _tensor,
    "asarray": _tensor,
    "to": _same_place,
    "cpu": _same_place,
    "__getitem__": _indexed,
    "__setitem__": _indexed,
}


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say of an error of torch over tensors on meta, which the block did not ask for, what it comes from."""
    try:
        yield
    except (RuntimeError, BufferError) as error:
        text = str(error).partition("\n")[0]
        if isinstance(error, ZetaError) or not _OF_META.search(text):
            raise
        raise RecordingError(
            f"{source_of(error)}: torch says: {text}. Inside a recording tensors have no memory, and this function "
            "reads memory directly; call it outside of the constructor, and give the result to it"
        ) from error


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Record the operations of the block in this thread. Random states of torch, Python and NumPy do not move.

    Modes of the caller, such as a default device or ``FakeTensorMode``, are off in the block and restored afterwards.
    """
    if ACTIVE.recorder is not None:
        raise RecordingError(
            "a recording is under way in this thread already; build the inner model without zeta.record, it is "
            "recorded as part of the outer one"
        )
    operations = Operations(recorder)

    def leave() -> None:
        ACTIVE.recorder = None
        ELSEWHERE[:] = [found for found in ELSEWHERE if found is not recorder.elsewhere]

    with undone_on_error(leave), undone(leave):
        ACTIVE.recorder = recorder
        ELSEWHERE.append(recorder.elsewhere)
        with (
            plain(),
            INTERCEPTION.held(),
            FUNCTIONS.held(),
            THREADS.held(),
            BUILDING.held(),
            ADDRESSES.held(),
            operations.borrowing(),
            foreign_apart() as drawn,
            Functions(recorder, operations),
            operations,
            _explained(),
        ):
            yield
        recorder.lent.settle(ended=True)
    notice_unseen(recorder.threads, recorder.refused, drawn())
