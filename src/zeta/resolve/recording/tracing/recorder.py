"""The graph of one recording: tensors are on meta, and report the device that was asked for."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from zeta.base.language.state import outside_of_modes
from zeta.errors import RecordingError
from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.resolve.recording.sources import Source, source_here
from zeta.resolve.recording.tracing import randomness
from zeta.resolve.recording.tracing.arguments import (
    check_dense,
    device_of,
    fitted,
    meta_twins,
    new_memories,
    on_meta,
    spoil_statistics,
    tensors_in,
    zeros_for,
)
from zeta.resolve.recording.tracing.graph import Graph, Node, cast, concrete, everything_in, full, reachable, unknown
from zeta.resolve.recording.tracing.lending import Lending, is_held
from zeta.resolve.recording.tracing.lowering import copy, lowered
from zeta.resolve.recording.tracing.randomness import Place
from zeta.resolve.recording.tracing.rearranging import check_memory_given, resized
from zeta.resolve.recording.tracing.schemas import (
    LIFTS,
    REARRANGING,
    UNINITIALIZED,
    WRITING_UNSAID,
    functional,
    name_of,
    named,
    written_arguments,
)

_CPU: Final = torch.device("cpu")
_META: Final = torch.device("meta")


class Recorder:
    """One recording: its graph, and weak references to every tensor made in it."""

    def __init__(self, *, freeze: bool = False) -> None:
        self.graph = Graph()
        self.freeze = freeze
        #: values of random leaves that the constructor read (with ``freeze``), by serial number
        self.frozen: dict[int, Tensor] = {}
        self.made: list[tuple[Callable[[], Tensor | None], Source | None]] = []
        #: gives the generator that draws where none is named
        self.generator: Callable[[], torch.Generator] = functools.cache(torch.Generator)
        self._leaves: dict[Any, Node] = {}
        self.own: dict[int, torch.UntypedStorage] = {}  # real memories that the constructor made, of real tensors
        self.lent = Lending(self.graph, self.data, self._known, self.own)
        #: where the constructor started threads, in which nothing is recorded
        self.threads: list[Source | None] = []
        self.refused: dict[str, None] = {}  # errors that the constructor got: texts, as tracebacks keep tensors
        #: the ``id`` of ``vars(module)`` of modules that the constructor made, and that another thread made meanwhile
        self.built, self.elsewhere = set[int](), set[int]()
        self.views: list[tuple[Callable[[], Tensor | None], Source | None]] = []  # they share another tensor's memory

    def forget_lent(self) -> None:
        """Hold no more tensors whose memory was shared with others: the recording has ended."""
        self.lent = Lending(self.graph, self.data, self._known, self.own)

    def made_by(self, result: Tensor, node: Node, device: torch.device) -> Tensor:
        """Record a new tensor and its node."""
        self.graph.create(result, node, device)
        self.made.append((weakref.ref(result), node.source))
        return result

    def lift(self, tensor: Tensor, *, shared: bool = False, outside: bool = False) -> Tensor:
        """Make a meta tensor whose node has the values of a real tensor; ``shared``: and its memory.

        ``outside``: that memory may be written to by others than this tensor and its views.
        """
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)
        self.made_by(twin, self.data(tensor), _CPU)
        if outside or not tensor.untyped_storage().resizable():
            self.lent.note(twin, tensor)  # memory of NumPy or of a buffer, which other code may write to
        elif shared:
            self.lent.watch(twin, tensor)
        return twin

    def duplicate(self, tensor: Tensor, memo: dict[int, torch.UntypedStorage]) -> Tensor:
        """A tensor that looks into a copy of another's memory, of which ``memo`` has those made already."""
        self.lent.settle([tensor])
        source = source_here()
        with outside_of_modes():
            twin = self.graph.duplicate(tensor, memo, source)
        self.made.append((weakref.ref(twin), source))
        return twin

    def _memory(self, source: Any, dtype: torch.dtype) -> Any:
        """The memory that a tensor on meta is given: that of another one, or what was loaded, which is data."""
        if isinstance(source, Tensor):
            return source if source.is_meta else self.lift(source, outside=True)
        if source.device.type == "meta":
            return source
        with outside_of_modes():
            known = self.lent.twin_of(source)
            if known is None and is_held(source) and source._cdata not in self.graph.adopted:
                known = self.lift(everything_in(source, dtype), outside=True).untyped_storage()
            return known or self.graph.adopt(source, dtype, source_here())

    def data(self, tensor: Tensor) -> Node:
        """The node of a real tensor's values, as they are now."""
        check_dense(tensor)
        kept = tensor.detach().clone(memory_format=torch.contiguous_format)
        return Node(op="data", content=kept, shape=tuple(kept.shape), dtype=kept.dtype, source=source_here())

    def node(self, value: Any) -> Any:
        """Arguments of an operation, with each tensor replaced by its node."""
        if isinstance(value, Tensor):
            return self.graph.read(value) if value.is_meta else self.data(value)
        if isinstance(value, list | tuple):
            return tuple(self.node(item) for item in value)
        return value

    def place(self, generator: torch.Generator | None, source: Source | None, *drawn: Any) -> Place:
        """The context of a draw. torch's default generator stands for that of the recording."""
        drawing = generator or self.generator()
        if drawing._cdata == torch.default_generator._cdata:  # type: ignore[attr-defined]
            drawing = self.generator()
        return randomness.placed(drawing, self._leaves, source, *drawn)

    def _place(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Source | None) -> Place:
        forms = [(tuple(arg.shape), arg.dtype) if isinstance(arg, Tensor) else arg for arg in args]
        return self.place(kwargs.get("generator"), source, name, forms, kwargs.get("dtype"))

    def draw_into(
        self,
        tensor: Tensor,
        initializer: Initializer,
        axes: Axes | None,
        called: str,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Note that a tensor was filled with what ``initializer`` draws."""
        self.lent.settle([tensor])
        source = source_here(called)
        place = self.place(generator, source, called, tuple(tensor.shape), tensor.dtype)
        node = randomness.drawn(initializer, tuple(tensor.shape), tensor.dtype, place, axes)
        self.graph.write(tensor, replace(copy(node), source=source), source)
        self.lent.share()
        return tensor

    @contextlib.contextmanager
    def unnoted(self, *tensors: Tensor) -> Iterator[None]:
        """Temporarily drop the references to these tensors, which torch would refuse to swap."""
        dropped = []
        for noted in (self.made, self.views):
            found = [(number, tensor) for number, (ref, _) in enumerate(noted) for tensor in tensors if ref() is tensor]
            sources = [(tensor, noted[number][1]) for number, tensor in found]
            for number, _ in reversed(found):
                del noted[number]
            dropped.append((noted, sources))
        try:
            yield
        finally:
            for noted, sources in dropped:
                noted += [(weakref.ref(tensor), source) for tensor, source in sources]

    def spoil(self, tensor: Tensor, reason: str, called: str) -> Tensor:
        """Record that a tensor was filled with unknown values, and why."""
        source = source_here(called)
        self.graph.spoil(tensor, f"{reason} ({source})", source)
        self.lent.share()
        return tensor

    def value(self, tensor: Tensor) -> Tensor:
        """A tensor's values. Raises ``RecordingError`` if they are random; with ``freeze``, these are drawn."""
        if not tensor.is_meta:
            return tensor
        self.lent.settle([tensor])
        with outside_of_modes():
            return self._read(self.graph.read(tensor))

    def _read(self, node: Node) -> Tensor:
        try:
            return self._known(node, f"{source_here()} reads a value that")
        except RecordingError as error:
            raise RecordingError(
                f"{error}. Such control flow cannot be recorded: decide without the values, give that "
                'parameter a rule, or record with fallback="real", which freezes the values that were read'
            ) from None

    def _known(self, node: Node, purpose: str = "it") -> Tensor:
        try:
            return concrete(node, purpose)
        except RecordingError:
            if not self.freeze or any(one.op in ("unknown", "uninitialized") for one in reachable([node])):
                raise
            return randomness.frozen(node, self.frozen)

    def operation(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation on meta, and record it."""
        self.lent.settle(tensors_in((*args, *kwargs.values())))
        result = self._noted(func, args, kwargs)
        self.lent.share()
        return result

    def _noted(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [*tensors_in(args), *tensors_in(tuple(kwargs.values()))]
        name = name_of(func)
        if name in LIFTS:
            return args[0] if args[0].is_meta else self.lift(args[0])
        check_memory_given(name, args)
        makes = randomness.is_random(func) or name in UNINITIALIZED  # recorded, whatever the arguments are
        if tensors and not any(tensor.is_meta for tensor in tensors) and not makes:
            result = func(*args, **kwargs)  # only real tensors from outside of the recording
            self.own |= new_memories(result, tensors)
            return result
        written = list(tensors_in(written_arguments(func, args, kwargs)))
        if name in WRITING_UNSAID:
            spoil_statistics(self.graph, named(func, args, kwargs), source_here())
        if name in ("aten.resize_.default", "aten.resize_as_.default"):
            return resized(func, name, args, kwargs)
        if name in REARRANGING:
            if name.startswith("aten.set_.source"):
                args = (args[0], self._memory(args[1], args[0].dtype), *args[2:])
            return on_meta(func, args, kwargs)  # the same memory, or another's, under this name
        if written:
            return self._mutation(func, name, args, kwargs, written)
        if randomness.is_random(func):
            return self._random(func, name, args, kwargs)
        if name in UNINITIALIZED:
            result = on_meta(func, args, kwargs)
            node = Node(op="uninitialized", shape=tuple(result.shape), dtype=result.dtype, source=source_here())
            return self.made_by(result, node, device_of(args, kwargs, self.graph))
        return self._plain(func, name, args, kwargs)

    def _random(self, func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source, device = source_here(), torch.device(kwargs.get("device") or _CPU)
        node = randomness.made(func, args, kwargs, self.node, self._place(name, args, kwargs, source))
        if node is not None:
            return self.made_by(torch.empty(node.shape, dtype=node.dtype, device=_META), node, device)
        reason = f"{name} made, a random operation that is not recordable ({source})"
        try:
            result = on_meta(func, args, kwargs)
        except NotImplementedError:  # the shape depends on the drawn values
            raise RecordingError(f"{name} is a random operation that is not recordable ({source})") from None
        for tensor in tensors_in([result]):
            self.made_by(tensor, unknown(reason, tensor, source), device)
        return result

    def _plain(self, func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = {t.untyped_storage()._cdata for t in tensors_in(args) if t.is_meta}
        try:
            result = on_meta(func, args, kwargs)
        except (RuntimeError, NotImplementedError):
            result = self._for_real(func, args, kwargs)
        outputs = [result] if isinstance(result, Tensor) else list(tensors_in(result))
        if not outputs and not isinstance(result, list | tuple):
            # a number, which needs the values; or None, of a check such as that of a factorization, if they are known
            of = self._concrete if result is None else self._real
            with contextlib.suppress(*[RecordingError] if result is None else ()), outside_of_modes():
                return func(*(of(item) for item in args), **kwargs)
            return None
        if any(t.layout is not torch.strided for t in outputs):
            raise RecordingError(f"{source_here()}: {name} makes a sparse tensor, which programs lack; make it dense")
        if all(t.untyped_storage()._cdata in before or t.untyped_storage()._cdata in self.graph.cells for t in outputs):
            inputs = {id(tensor) for tensor in tensors_in(args)}
            self.views += [(weakref.ref(t), source_here()) for t in outputs if id(t) not in inputs]
            return result  # a view, or data
        source, device = source_here(), device_of(args, kwargs, self.graph)
        given = named(func, self.node(args), {key: self.node(value) for key, value in kwargs.items()})
        try:
            places = [(None, result)] if isinstance(result, Tensor) else list(enumerate(result))
            nodes = [
                lowered(func, given, tuple(output.shape), output.dtype, part, source)
                for part, output in places
                if isinstance(output, Tensor)
            ]
        except RecordingError as error:
            nodes = self._outside_of_the_language(func, args, kwargs, outputs, error, source)
        for output, node in zip(outputs, nodes, strict=True):
            self.made_by(output, node, device)
        return result

    def _outside_of_the_language(
        self,
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[Tensor],
        error: RecordingError,
        source: Source | None,
    ) -> list[Node]:
        """The results of an operation that the language does not have: data, if they depend on nothing random."""
        try:
            real_args, real_kwargs = self._concrete(args), {key: self._concrete(x) for key, x in kwargs.items()}
        except RecordingError:
            reason = f"{func} made: {error}"
            return [
                Node(op="unknown", content=reason, shape=tuple(t.shape), dtype=t.dtype, source=source) for t in outputs
            ]
        with outside_of_modes(), torch.no_grad():
            real = func(*real_args, **{key: x for key, x in real_kwargs.items() if key != "out"})
        return [self.data(tensor) for tensor in tensors_in(real if isinstance(real, list | tuple) else [real])]

    def _concrete(self, value: Any) -> Any:
        """Arguments with the values of tensors; ``RecordingError`` if they are random."""
        if isinstance(value, Tensor):
            return concrete(self.graph.read(value), "it") if value.is_meta else value
        if isinstance(value, list | tuple):
            return [self._concrete(item) for item in value]
        return value

    def _real(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.value(value)
        if isinstance(value, list | tuple):
            return [self._real(item) for item in value]
        return value

    def _for_real(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run on the CPU an operation that meta does not support; return meta twins of the result.

        If the shape of the result depends on values, these must be known, and the result is data. Otherwise zeros are
        used as values.
        """
        depends = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags)
        of = self._real if depends else zeros_for
        with outside_of_modes():
            real = func(*(of(item) for item in args), **{key: of(value) for key, value in kwargs.items()})
        if not depends:
            return meta_twins(tuple(real) if isinstance(real, list) else real)
        parts = [
            self.lift(x) if isinstance(x, Tensor) else x for x in (real if isinstance(real, list | tuple) else [real])
        ]
        return tuple(parts) if isinstance(real, list | tuple) else parts[0]

    def _mutation(
        self, func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[Tensor]
    ) -> Any:
        source = source_here()
        target = written[0]
        if not target.is_meta:
            return self._write_for_real(func, name, args, kwargs)
        out = kwargs.get("out")
        if len(written) == 1 and (out is None or isinstance(out, Tensor)):
            if out is not None:
                on_meta(func, args, kwargs)  # out may change its shape
            value = self._new_value(func, name, args, kwargs, target, source)
            if value is not None:
                self.graph.write(target, fitted(value, target, source), source)
                return target
        what = "a random operation that" if randomness.is_random(func) else "which"
        for tensor in written:
            self.graph.spoil(tensor, f"{name} wrote to, {what} is not recordable ({source})", source)
        try:
            result = on_meta(func, args, kwargs)
        except RuntimeError as error:  # also if it needs values
            raise RecordingError(f"{source}: {name} is not recordable: {str(error).partition(chr(10))[0]}") from error
        for tensor in tensors_in([result]):
            if tensor.untyped_storage()._cdata not in self.graph.cells:
                reason = f"{name} made, {what} is not recordable ({source})"
                self.made_by(tensor, unknown(reason, tensor, source), device_of(args, kwargs, self.graph))
        return result

    def _write_for_real(self, func: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Known values into a tensor from elsewhere, which was not lifted, as the constructor writes them."""
        try:
            if randomness.is_random(func):
                raise RecordingError("it draws")
            given = [self._concrete(item) for item in args], {key: self._concrete(x) for key, x in kwargs.items()}
        except RecordingError as error:
            raise RecordingError(
                f"{source_here()}: {name} would write into a real tensor that was there before the recording "
                f"({error}); make it inside the constructor"
            ) from None
        with outside_of_modes(), torch.no_grad():
            return func(*given[0], **given[1])

    def _new_value(
        self,
        func: OpOverload,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        target: Tensor,
        source: Source | None,
    ) -> Node | None:
        """The values that an in-place operation writes to its target, as a node; ``None`` if it is not recordable."""
        base, dtype = name.split(".")[1], target.dtype
        if base in ("fill_", "zero_"):
            value = self.node(args[1]) if base == "fill_" else 0
            return cast(value, dtype) if isinstance(value, Node) else full(value, target.shape, dtype, source)
        if randomness.is_random(func):
            return randomness.drawn_in_place(func, args, kwargs, self.node, self._place(name, args, kwargs, source))
        making = functional(func)
        if making is None:
            return None
        if "out" not in kwargs:
            on_meta(func, args, kwargs)  # raises where shapes do not fit
        if base == "copy_":
            return cast(self.node(args[1]), dtype, source)
        if "out" not in kwargs:
            with contextlib.suppress(RuntimeError, NotImplementedError):  # the dtype before the cast to the target's
                probe = on_meta(making, args, kwargs)
                dtype = probe.dtype if isinstance(probe, Tensor) else dtype
        given = named(making, self.node(args), {key: self.node(item) for key, item in kwargs.items()})
        try:
            return lowered(making, given, tuple(target.shape), dtype, None, source)
        except RecordingError as error:
            inputs = {key: value for key, value in kwargs.items() if key != "out"}
            return self._outside_of_the_language(making, args, inputs, [target], error, source)[0]
