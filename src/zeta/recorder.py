"""The modes under which a constructor runs without memory: what it makes is on meta and claims to be where it was asked.

Every operation reaches :class:`_Operations`, which notes it in a graph. :class:`_Functions` answers what torch's own
dispatch never asks for: on which device a tensor is, and its values as a list or an array.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zeta import randomness
from zeta.errors import RecordingError
from zeta.fans import Axes, torch_axes
from zeta.graph import Graph, Node, Random, Source, concrete
from zeta.initializers import Dirac, Initializer, Orthogonal, Sparse, TruncatedNormal
from zeta.randomness import Made

_CPU: Final = torch.device("cpu")
_META: Final = torch.device("meta")
_ACTIVE = threading.local()


class Recorder:
    """One recording: its graph, and every tensor that was made under it and is still alive."""

    def __init__(self, *, freeze: bool = False) -> None:
        self.graph = Graph()
        self.freeze = freeze
        self.made: list[tuple[weakref.ref[Tensor], Source | None]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Recorder]:
        """Record what is done inside, in this thread."""
        if getattr(_ACTIVE, "recorder", None) is not None:
            raise RecordingError(
                "a recording is under way in this thread already; build the inner model without zeta.record, it is "
                "recorded as part of the outer one"
            )
        _ACTIVE.recorder = self
        try:
            # the innermost device context wins: factories name the CPU, whatever surrounds the recording
            with _INTERCEPTION, torch.random.fork_rng(devices=[]), _Functions(self), torch.device("cpu"):
                with _Operations(self):
                    yield self
        finally:
            _ACTIVE.recorder = None

    @staticmethod
    def current() -> Recorder:
        """The one that is running in this thread."""
        recorder: Recorder = _ACTIVE.recorder
        return recorder

    # -- making and changing ------------------------------------------------------------------------------------------

    def made_by(self, result: Tensor, node: Node, device: torch.device) -> Tensor:
        """Note a new tensor and what it holds."""
        self.graph.create(result, node, device)
        self.made.append((weakref.ref(result), node.source))
        return result

    def lift(self, tensor: Tensor) -> Tensor:
        """The meta twin of a real tensor, which holds its values."""
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)
        return self.made_by(twin, self.data(tensor), _CPU)

    def data(self, tensor: Tensor) -> Node:
        """The node of a real tensor's values, as they are now."""
        kept = tensor.detach().clone(memory_format=torch.contiguous_format)
        return Node(op="data", args=(kept,), shape=tuple(kept.shape), dtype=kept.dtype, source=source_here(), value=kept)

    def node(self, value: Any) -> Any:
        """Arguments of an operation, with each tensor's node in its place."""
        if isinstance(value, Tensor):
            return self.graph.read(value) if value.is_meta else self.data(value)
        if isinstance(value, list | tuple):
            return tuple(self.node(item) for item in value)
        return value

    def draw_into(self, tensor: Tensor, initializer: Initializer, axes: Axes | None, called: str) -> Tensor:
        """Note that a tensor was filled with what ``initializer`` draws."""
        source = source_here(called)
        args = (Random(initializer=initializer, axes=axes),)
        node = Node(op="random", args=args, shape=tuple(tensor.shape), dtype=tensor.dtype, source=source)
        self.graph.write(tensor, node, source)
        return tensor

    def value(self, tensor: Tensor) -> Tensor:
        """A tensor's values for real. Raises ``RecordingError`` if they are random."""
        if not tensor.is_meta:
            return tensor
        with _outside():
            node = self.graph.read(tensor)
            try:
                return concrete(node, f"{source_here()} reads a value that")
            except RecordingError as error:
                if not self.freeze:
                    raise RecordingError(
                        f"{error}. Such control flow cannot be recorded: decide without the values, give that "
                        'parameter a rule, or record with fallback="real", which freezes the values that were read'
                    ) from None
                return self._frozen(tensor, node)

    def _frozen(self, tensor: Tensor, node: Node) -> Tensor:
        value = randomness.frozen(node)
        self.graph.write(tensor, self.data(value), node.source)
        return value

    # -- one operation ------------------------------------------------------------------------------------------------

    def operation(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation on meta, and note what it did."""
        tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        name = _name(func)
        if name in _LIFTS:
            return args[0] if args[0].is_meta else self.lift(args[0])
        if tensors and not any(tensor.is_meta for tensor in tensors) and not randomness.is_random(func):
            return func(*args, **kwargs)  # real tensors from elsewhere, which nothing random has touched
        written = _written(func, args, kwargs)
        if name in _REARRANGING:
            return self._on_meta(func, args, kwargs)  # the same memory, or another's, under this name
        if written:
            return self._mutation(func, name, args, kwargs, written)
        made = randomness.made(func, name, args, kwargs, self.node, source_here)
        if made is not None:
            return self._random(made, kwargs)
        if name in _UNINITIALIZED:
            result = self._on_meta(func, args, kwargs)
            node = Node(op="uninitialized", shape=tuple(result.shape), dtype=result.dtype, source=source_here())
            return self.made_by(result, node, _device(args, kwargs, self))
        return self._plain(func, name, args, kwargs)

    def _random(self, made: Made, kwargs: dict[str, Any]) -> Tensor:
        result = torch.empty(made.node.shape, dtype=made.node.dtype, device=_META)
        return self.made_by(result, made.node, kwargs.get("device") or made.device or _CPU)

    def _plain(self, func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nodes = self.node(args)
        named = {key: self.node(value) for key, value in kwargs.items() if key not in _PLACES}
        before = {t.untyped_storage()._cdata for t in _tensors(args) if t.is_meta}
        try:
            result = self._on_meta(func, args, kwargs)
        except (RuntimeError, NotImplementedError):
            result = self._for_real(func, args, kwargs)
        outputs = [result] if isinstance(result, Tensor) else list(_tensors(result))
        if not outputs and not isinstance(result, list | tuple):
            # a number: somebody wants to know
            return func(*(self._real(item) for item in args), **kwargs)
        fresh = [output for output in outputs if output.untyped_storage()._cdata not in before]
        if not fresh:
            return result
        source, device = source_here(), _device(args, kwargs, self)
        if "dtype" in func_arguments(func) and len(outputs) == 1:
            named["dtype"] = outputs[0].dtype  # else torch's default when it is computed
        first = outputs[0]
        node = Node(
            op=name, args=nodes, kwargs=named, shape=tuple(first.shape), dtype=first.dtype, source=source
        )
        if isinstance(result, Tensor):
            return self.made_by(result, node, device)
        for position, output in enumerate(result):
            if isinstance(output, Tensor):
                part = Node(
                    op="item", args=(node, position), shape=tuple(output.shape), dtype=output.dtype, source=source
                )
                self.made_by(output, part, device)
        return result

    def _real(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.value(value)
        if isinstance(value, list | tuple):
            return [self._real(item) for item in value]
        return value

    def _on_meta(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run on the meta device, which knows shapes, dtypes and strides."""
        kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "non_blocking")}
        if "device" in func_arguments(func):
            kwargs["device"] = _META
        return func(*(_meta_twins(item) for item in args), **{k: _meta_twins(v) for k, v in kwargs.items()})

    def _for_real(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run on the CPU what meta cannot; return meta twins of the result.

        Where a shape depends on values, with these; else with zeros in their place.
        """
        needs = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags)
        of = self._real if needs else _zeros
        with _outside():
            real = func(*(of(item) for item in args), **{key: of(value) for key, value in kwargs.items()})
        if isinstance(real, list | tuple):
            return tuple(_meta_twins(item) for item in real)
        return _meta_twins(real)

    def _mutation(
        self, func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[Tensor]
    ) -> Any:
        source = source_here()
        target = written[0]
        if not target.is_meta:
            raise RecordingError(
                f"{source}: {name} would write into a real tensor that was there before the recording; make it inside "
                "the constructor"
            )
        out = kwargs.get("out")
        if len(written) > 1 or (out is not None and not isinstance(out, Tensor)):
            for tensor in written:
                self.graph.spoil(tensor, f"{name} wrote to, which is not recordable ({source})", source)
            return self._on_meta(func, args, kwargs)
        if out is not None:
            self._on_meta(func, args, kwargs)  # out may change its shape
        value = self._new_value(func, name, args, kwargs, target, source)
        if value is None:
            self.graph.spoil(target, f"{name} wrote to, which is not recordable ({source})", source)
            return self._on_meta(func, args, kwargs)
        self.graph.write(target, _fitted(value, target, source), source)
        return target

    def _new_value(
        self,
        func: OpOverload,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        target: Tensor,
        source: Source | None,
    ) -> Node | None:
        """What an operation in place leaves in its target, as if it made a new tensor."""
        base = name.split(".")[1]
        if base in ("fill_", "zero_"):
            value = self.node(args[1]) if base == "fill_" else 0
            if isinstance(value, Node):
                return _cast(value, target.dtype)
            return _full(target, value, source)
        if base == "copy_":
            return _cast(self.node(args[1]), target.dtype, source)
        drawn = randomness.drawn_in_place(base, args, kwargs, self.node, source)
        if drawn is not None:
            return drawn
        functional = _functional(func)
        if functional is None or randomness.is_random(func):
            return None
        nodes = self.node(args)
        named = {key: self.node(item) for key, item in kwargs.items() if key not in (*_PLACES, "out")}
        if "dtype" in func_arguments(functional):
            named.setdefault("dtype", target.dtype)
        dtype = target.dtype
        if "out" not in kwargs:
            with contextlib.suppress(RuntimeError, NotImplementedError):  # the result before it is cast to the target
                probe = self._on_meta(functional, args, kwargs)
                dtype = probe.dtype if isinstance(probe, Tensor) else dtype
        return Node(
            op=_name(functional), args=nodes, kwargs=named, shape=tuple(target.shape), dtype=dtype, source=source
        )


_LIFTS: Final = ("aten.lift_fresh.default", "aten.lift.default", "aten.lift_fresh_copy.default")
_REARRANGING: Final = (
    "aten.set_.source_Tensor", "aten.set_.source_Storage", "aten.set_.source_Storage_storage_offset",
    "aten.t_.default", "aten.transpose_.default", "aten.squeeze_.default", "aten.squeeze_.dim",
    "aten.unsqueeze_.default", "aten.as_strided_.default", "aten.detach_.default",
)  # fmt: skip
_UNINITIALIZED: Final = frozenset(
    f"aten.{name}"
    for name in (
        "empty.memory_format", "empty_like.default", "empty_strided.default", "new_empty.default",
        "new_empty_strided.default", "empty_permuted.default",
    )
)  # fmt: skip
#: arguments that say where a tensor is to be and not what is in it
_PLACES: Final = ("device", "layout", "pin_memory", "non_blocking", "generator")


@functools.lru_cache(maxsize=4096)
def _name(func: OpOverload) -> str:
    return func._schema.name.replace("::", ".") + "." + (func._overloadname or "default")


@functools.lru_cache(maxsize=4096)
def func_arguments(func: OpOverload) -> tuple[str, ...]:
    """The names of an operation's arguments."""
    return tuple(argument.name for argument in func._schema.arguments)


@functools.lru_cache(maxsize=4096)
def _mutated(func: OpOverload) -> tuple[tuple[int, str], ...]:
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _written(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    found = [args[n] if n < len(args) else kwargs.get(name) for n, name in _mutated(func)]
    return list(_tensors(found))


@functools.lru_cache(maxsize=4096)
def _functional(func: OpOverload) -> OpOverload | None:
    """The operation that makes a new tensor of what ``func`` writes in place or to ``out``."""
    namespace, packet = func._schema.name.split("::")
    found = getattr(getattr(torch.ops, namespace), packet.removesuffix("_"), None)
    if found is None:
        return None
    for version in found.overloads():
        candidate = getattr(found, version)
        if not candidate._schema.is_mutable and _signature(candidate) == _signature(func):
            return candidate  # type: ignore[no-any-return]
    return None


def _signature(func: OpOverload) -> list[str]:
    """The kinds of arguments that decide a value."""
    left_out = ("out", "dtype", "device", "layout", "pin_memory")
    return [re.sub(r"\(.*?\)", "", str(a.type)) for a in func._schema.arguments if a.name not in left_out]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _meta_twins(value: Any) -> Any:
    """Arguments with every real tensor replaced by one without memory; numbers in tensors stay."""
    if isinstance(value, Tensor) and not value.is_meta:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    if isinstance(value, list | tuple):
        return type(value)(_meta_twins(item) for item in value)
    return value


def _zeros(value: Any) -> Any:
    """Arguments with zeros for what has no memory."""
    if isinstance(value, Tensor) and value.is_meta:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_CPU).zero_()
    if isinstance(value, list | tuple):
        return [_zeros(item) for item in value]
    return value


def _device(args: tuple[Any, ...], kwargs: dict[str, Any], recorder: Recorder) -> torch.device:
    """Where a result claims to be: where it was asked to be, else where its arguments are."""
    if (device := kwargs.get("device")) is not None:
        return torch.device(device)
    claims = [recorder.graph.cell(t).device for t in _tensors(args) if t.is_meta and t.ndim]
    return next(iter(claims), _CPU)


def _full(target: Tensor, value: Any, source: Source | None) -> Node:
    shape = tuple(target.shape)
    kwargs = {"dtype": target.dtype}
    return Node(
        op="aten.full.default", args=(shape, value), kwargs=kwargs, shape=shape, dtype=target.dtype, source=source
    )


def _cast(node: Node, dtype: torch.dtype, source: Source | None = None) -> Node:
    if node.dtype is dtype:
        return node
    return Node(
        op="aten._to_copy.default",
        args=(node,),
        kwargs={"dtype": dtype},
        shape=node.shape,
        dtype=dtype,
        source=source or node.source,
    )


def _fitted(node: Node, target: Tensor, source: Source | None) -> Node:
    """A node with the target's shape and dtype, and the line that wrote it."""
    node = _cast(node, target.dtype, source)
    shape = tuple(target.shape)
    if node.shape != shape:
        args = (node, shape)
        node = Node(op="aten.expand.default", args=args, shape=shape, dtype=node.dtype, source=source)
    if node.source != source:
        # a copy is what determined the value, whatever made it
        node = Node(op="aten.clone.default", args=(node,), shape=node.shape, dtype=node.dtype, source=source)
    return node


class _Operations(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip the compiler, torch imports it, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not isinstance(func, OpOverload):
            raise RecordingError(f"{source_here()}: the operation {func} cannot be recorded")
        with torch._C.DisableTorchFunction():
            return self.recorder.operation(func, args, dict(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args, kwargs)
        if name == "__set__" and func.__self__.__name__ == "data" and not args[1].is_meta:
            return func(args[0], self.recorder.lift(args[1]))
        answer = _ANSWERS.get(name)
        if answer is not None:
            result = answer(self.recorder, func, args, kwargs)
            if result is not NotImplemented:
                return result
        if "out" in kwargs and "device" in kwargs:
            kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        return func(*args, **kwargs)

    def _attribute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attribute = func.__self__.__name__
        if attribute in ("device", "is_meta", "is_cpu", "is_cuda") and args[0].is_meta:
            device = self.recorder.graph.cell(args[0]).device
            return device if attribute == "device" else device.type == attribute.removeprefix("is_")
        return func(*args, **kwargs)


def _tolist(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return recorder.value(args[0]).tolist()


def _numpy(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(recorder.value(args[0]).clone(), *args[1:], **kwargs)


def _new_tensor(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs})


def _same_place(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``.to(...)`` gives the tensor itself back where nothing changes."""
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


def _deepcopy(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensor, memo = args[0], args[1]
    if not tensor.is_meta or not tensor.is_leaf or id(tensor) in memo:
        return NotImplemented
    with torch.no_grad():
        twin = tensor.clone()
    memo[id(tensor)] = twin
    return twin.requires_grad_(tensor.requires_grad)


Answer = Callable[[Recorder, Any, tuple[Any, ...], dict[str, Any]], Any]
_ANSWERS: Final[dict[str, Answer]] = {
    "tolist": _tolist,
    "numpy": _numpy,
    "__array__": _numpy,
    "new_tensor": _new_tensor,
    "to": _same_place,
    "cpu": _same_place,
    "__deepcopy__": _deepcopy,
}


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Run torch as if no mode were active."""
    with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
        yield


# -- where in the code -----------------------------------------------------------------------------------------------

# libraries whose own lines say less than those that call them
_THROUGH: Final = ("torch", "zeta", "transformers.initialization", "contextlib", "functools", "copy")


def source_here(called: str | None = None) -> Source | None:
    """The innermost line that is neither torch's nor zeta's; among torch's alone, the innermost of a module."""
    frame: FrameType | None = sys._getframe(1)
    inner: FrameType | None = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        if not _is_through(module):
            # outside of a call to zeta.record there is nothing of interest
            return _source(frame, called or _torch_name(inner))
        if module == "torch.nn.init" and called is None and not code.co_name.startswith("_"):
            called = code.co_name
        if module == "zeta.recording":
            break
        if module.startswith("torch.nn.modules"):
            inner = frame
        frame = frame.f_back
    return None if inner is None else _source(inner, called)


@functools.lru_cache(maxsize=4096)
def _is_through(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _THROUGH)


def _torch_name(frame: FrameType | None) -> str | None:
    return None if frame is None else frame.f_code.co_qualname


def _source(frame: FrameType, called: str | None) -> Source:
    code = frame.f_code
    return Source(
        file=code.co_filename.replace("\\", "/").rpartition("/")[2],
        line=frame.f_lineno,
        function=code.co_qualname.replace("<locals>.", ""),
        called=called,
    )


# -- torch.nn.init ---------------------------------------------------------------------------------------------------
#
# These functions read values or do nothing on meta. Somebody may hold them under any name, so their code is exchanged
# while a recording runs in any thread; in other threads the exchanged code calls the original.


def intercepted(name: str, tensor: Tensor, arguments: dict[str, Any]) -> Tensor:
    """What torch's function ``name`` does here: note it under recording, else do it."""
    recorder: Recorder | None = getattr(_ACTIVE, "recorder", None)
    with torch._C.DisableTorchFunction():  # the recorder itself says that nothing is on meta
        recorded = recorder is not None and tensor.is_meta
    if recorder is None or not recorded:
        return _INTERCEPTION.originals[name](tensor, **arguments)  # type: ignore[no-any-return]
    arguments.pop("generator", None)
    with torch._C.DisableTorchFunction():
        initializer, axes = _SPECS[name](tensor, **arguments)
        called = "trunc_normal_" if name == "_no_grad_trunc_normal_" else name
        return recorder.draw_into(tensor, initializer, axes, called)


def _trunc_normal(tensor: Tensor, mean: float, std: float, a: float, b: float) -> tuple[Initializer, None]:
    return TruncatedNormal(float(std), float(mean), low=float(a), high=float(b)), None


def _orthogonal(tensor: Tensor, gain: float) -> tuple[Initializer, Axes]:
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    return Orthogonal(float(gain)), torch_axes(tensor.ndim)


def _sparse(tensor: Tensor, sparsity: float, std: float) -> tuple[Initializer, Axes]:
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return Sparse(float(sparsity), float(std)), torch_axes(2)


def _dirac(tensor: Tensor, groups: int) -> tuple[Initializer, Axes]:
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    axes = torch_axes(tensor.ndim)
    return Dirac(), Axes(fan_in=axes.fan_in, fan_out=axes.fan_out, blocks=((0, groups),) if groups > 1 else ())


_SPECS: Final[dict[str, Callable[..., tuple[Initializer, Axes | None]]]] = {
    "_no_grad_trunc_normal_": _trunc_normal,
    "orthogonal_": _orthogonal,
    "sparse_": _sparse,
    "dirac_": _dirac,
}


# The names below are looked up in torch.nn.init, where this code runs, so zeta is imported inside.
# ruff: noqa: D103
def _code_of_trunc_normal(tensor, mean, std, a, b, generator=None):  # type: ignore[no-untyped-def]
    from zeta.recorder import intercepted

    arguments = {"mean": mean, "std": std, "a": a, "b": b, "generator": generator}
    return intercepted("_no_grad_trunc_normal_", tensor, arguments)


def _code_of_orthogonal(tensor, gain=1, generator=None):  # type: ignore[no-untyped-def]
    from zeta.recorder import intercepted

    return intercepted("orthogonal_", tensor, {"gain": gain, "generator": generator})


def _code_of_sparse(tensor, sparsity, std=0.01, generator=None):  # type: ignore[no-untyped-def]
    from zeta.recorder import intercepted

    return intercepted("sparse_", tensor, {"sparsity": sparsity, "std": std, "generator": generator})


def _code_of_dirac(tensor, groups=1):  # type: ignore[no-untyped-def]
    from zeta.recorder import intercepted

    return intercepted("dirac_", tensor, {"groups": groups})


class _Interception:
    """Exchange the code of torch's functions while at least one recording runs."""

    exchanged: Final[dict[str, CodeType]] = {
        "_no_grad_trunc_normal_": _code_of_trunc_normal.__code__,
        "orthogonal_": _code_of_orthogonal.__code__,
        "sparse_": _code_of_sparse.__code__,
        "dirac_": _code_of_dirac.__code__,
    }

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.codes = {name: getattr(torch.nn.init, name).__code__ for name in self.exchanged}
        self.originals: dict[str, Callable[..., Tensor]] = {
            name: _same_function(getattr(torch.nn.init, name)) for name in self.exchanged
        }

    def __enter__(self) -> None:
        with self.lock:
            self.depth += 1
            if self.depth == 1:
                for name, code in self.exchanged.items():
                    getattr(torch.nn.init, name).__code__ = code

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                for name, code in self.codes.items():
                    getattr(torch.nn.init, name).__code__ = code


def _same_function(function: Any) -> Callable[..., Tensor]:
    """A function of its own with the same code, which keeps it when the other's is exchanged."""
    twin = type(function)(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin  # type: ignore[no-any-return]


_INTERCEPTION: Final = _Interception()
