"""Observe one forward pass: every use of a module, and every functional call that a check needs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from zeta.base.distributed import any_sharded, is_fsdp, local
from zeta.base.modules import modules_of
from zeta.base.process.surroundings import in_transform
from zeta.check.facts.evidence import Choice, Sequences
from zeta.check.watch import activations, attention
from zeta.check.watch.batches import sequences_of, steps_of, tensors_in
from zeta.check.watch.calls import Composite, dropout_rate, ends_graph, is_detach, kind_of_call, selection, silenced
from zeta.check.watch.criteria.calls import LossCall, difference, loss_call
from zeta.check.watch.graph.makers import made_by
from zeta.check.watch.graph.parameters import ParameterUses
from zeta.check.watch.moments import Pending, pending, plain
from zeta.check.watch.streaming.source import NOTHING, Source
from zeta.check.watch.tags import Tags
from zeta.check.watch.wiring.strays import Foreign
from zeta.resolve.kinds import is_norm
from zeta.resolve.slots import type_name

_CHANNELS_FIRST: Final = (
    *(nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm),
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd),
)
_WEIGHTED: Final = ("linear", "conv", "bilinear", "addmm")


class Record:
    """The observations of one use of a module or one call; filled during the passes."""

    def __init__(self, name: str, kind: str, module: str, *, parameters: tuple[str, ...] = ()) -> None:
        self.name = name
        self.kind = kind
        self.module = module  #: the canonical name of the module that it happened in
        self.parameters = parameters
        self.block = False
        self.norm = False
        self.weighted = False
        self.activation: str | None = None
        self.output: Pending | None = None
        self.gradient: Pending | None = None
        self.given: Pending | None = None
        self.samples = 0
        self.resolution = 0.0
        self.steps: int | None = None
        self.dead: Tensor | None = None
        self.saturated: Tensor | None = None
        self.attention: attention.Observed | None = None
        self.scores: Any = None  #: the graph node of an attention's scores, or of its output
        self.attached = False  #: whether its output depends on a trainable parameter
        self.node: Any = None
        self.tensors: tuple[Tensor, Tensor] | None = None
        self.maker: Any = None  #: the graph node that made its output, except views
        self.above: list[Any] = []  #: the node that made its input, after the views of it
        self.source: Tensor | None = None  #: the tensor that its input is an alias of, or the input itself

    def watch(self, output: Tensor, unit: int | None) -> None:
        """Take the output's statistics now, and those of its gradient in the backward pass."""
        self.output = pending(output, unit)
        self.samples = output.numel() // max(1, output.shape[unit]) if unit is not None else output.numel()
        self.attached = output.requires_grad
        self.resolution = torch.finfo(output.dtype).eps
        if output.requires_grad:
            self.node, self.maker = output.grad_fn, made_by(output, in_order=True)[-1]
            output.register_hook(self._take_gradient)  # type: ignore[no-untyped-call]

    def _take_gradient(self, gradient: Tensor | None) -> None:
        self.gradient = pending(gradient, histogram=False) if gradient is not None else None  # of one's own backward


class _Frame:
    def __init__(self, module: nn.Module, name: str, given: Tensor | None) -> None:
        self.module = module
        self.name = name
        self.given = given
        self.version = 0 if given is None else given._version
        self.calls: list[Record] = []
        children = {key for key, child in module._modules.items() if child is not None}
        self.leaf = not children or (children == {"parametrizations"} and parametrize.is_parametrized(module))


class Capture:
    """Observes a model's modules by hooks, and functional calls by a mode, while :meth:`watching`.

    Args:
        modules: canonical name and module, each module once.
        parameters: canonical name of a parameter by its ``id``.
        keep: store input and output in the records, for Jacobians, and compute no statistics.
        source: computes the parameters that are on meta.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        parameters: Mapping[int, str],
        *,
        keep: bool = False,
        source: Source = NOTHING,
    ) -> None:
        self.keep = keep
        self._source = source
        self.modules = modules
        self.parameters = dict(parameters)
        self.parameter_uses = ParameterUses(self.parameters)
        self.records: list[Record] = []
        self.used: set[str] = set()  #: modules whose forward ran
        self.detached: list[Any] = []  #: the graph nodes of tensors that were detached
        self.ended: list[Any] = []  #: and of those that a call without a graph took, such as a comparison
        self.losses: list[LossCall] = []  #: calls of loss functions
        self.sequences: list[Sequences] = []
        self.choices: list[Choice] = []  #: selections inside of modules
        self.dropping: dict[str, float] = {}  #: the largest probability of dropout, by the module that it is in
        self.foreign = Foreign()
        self.tags = Tags()
        self._statistics: Any = WeakTensorKeyDictionary()
        self._sources: Any = WeakTensorKeyDictionary()  #: what a tensor is an alias of
        self._arriving: Tensor | None = None
        self._stack: list[_Frame] = []
        self._names: Counter[str] = Counter()
        #: canonical name by module and local name, because FSDP2 replaces the parameters while they are gathered
        self._places: dict[tuple[int, str], str] = {}
        if any_sharded(modules[""]):
            held = _stored(modules_of(modules[""]))
            self._places = {place: parameters[id(p)] for place, p in held if id(p) in parameters}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record the block."""
        handles: list[RemovableHandle] = []
        try:
            handles.extend(
                module.register_forward_pre_hook(self._arrive, prepend=True, with_kwargs=True)
                for module in filter(is_fsdp, modules_of(self.modules[""]))  # wrappers too
            )
            for name, module in self.modules.items():
                handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leaving(name), with_kwargs=True))
            with _Calls(self):
                yield
        finally:
            self._stack.clear()
            for handle in handles:
                handle.remove()

    # -- modules -----------------------------------------------------------------------------------------------------

    def _arrive(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._arriving = _first_float((args, kwargs))

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.used.add(name)
            if self._places:
                self._name_gathered(module)
            given = self._first_float((args, kwargs))
            if given is not None and self._arriving is not None:
                self._handed_on(self._arriving, given)
            self._arriving = None
            self._stack.append(_Frame(module, name, given))

        return enter

    def _handed_on(self, source: Tensor, given: Tensor) -> None:
        """FSDP2 passes an alias of the input to its modules, to notice when the backward pass leaves them."""
        alike = source.shape == given.shape and local(source).data_ptr() == local(given).data_ptr()
        if alike and source is not given:
            self._sources[given] = self._sources.get(source, source)

    def _name_gathered(self, module: nn.Module) -> None:
        held = _stored(modules_of(module))
        self.parameters |= {id(p): self._places[place] for place, p in held if place in self._places}

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            while self._stack:
                frame = self._stack.pop()
                if frame.module is module:
                    with torch._C.DisableTorchFunction():
                        if isinstance(module, nn.RNNBase) and not self.keep:
                            self._recurrent_used(name, module, args[0] if args else kwargs.get("input"))
                        self._module_used(name, frame, output)
                    return

        return leave

    def _recurrent_used(self, name: str, module: nn.RNNBase, value: Any) -> None:
        """Keep some sequences of the first use."""
        found = sequences_of(name, module, value) if all(one.module != name for one in self.sequences) else None
        self.sequences += [] if found is None else [found]

    def _module_used(self, name: str, frame: _Frame, output: Any) -> None:
        module, result, leaf = frame.module, self._first_float(output), frame.leaf
        owns = any(parameter is not None for parameter in module._parameters.values())
        block = not leaf and name.rpartition(".")[2].isdecimal()
        if result is None or not (leaf or owns or block):
            return
        own = self._own(module)
        if not leaf and not block and set(own) <= {name for call in frame.calls for name in call.parameters}:
            return  # its calls are recorded separately, as in nn.MultiheadAttention
        if isinstance(module, nn.Identity | nn.Dropout | nn.modules.dropout._DropoutNd | nn.Flatten):
            return
        # the call that is the module's purpose, and not one of its parametrization
        inner = _only([call for call in frame.calls if call.weighted]) or _only(frame.calls) if leaf else None
        if inner is not None and inner in self.records:  # the record of the module replaces it
            self.records.remove(inner)
            self._names[inner.name.partition("#")[0]] -= 1
        kind = type_name(module)
        record = Record(self._numbered(name or "model"), kind, name, parameters=own)
        record.block = block
        record.norm = is_norm(module)
        record.steps = steps_of(module, frame.given)
        self._mark_units(module, frame.given, result)
        unit = self.tags.unit_of(result)
        if inner is not None:
            record.weighted, record.activation = inner.weighted, inner.activation
            record.dead, record.saturated = inner.dead, inner.saturated
            record.attention, record.scores = inner.attention, inner.scores
        elif leaf and not owns and not record.norm:
            self._activation_module(record, module, frame, result, unit)
        self._finish(record, result, unit, frame.given)

    def _activation_module(
        self, record: Record, module: nn.Module, frame: _Frame, result: Tensor, unit: int | None
    ) -> None:
        record.activation = activations.named(type(module).__name__)
        known = activations.KNOWN.get(record.activation or "")
        if known is None or frame.given is None or frame.given.shape != result.shape:
            return
        if unit is not None and frame.given._version == frame.version:
            record.dead = activations.dead_fraction(known, plain(frame.given), unit)
        record.saturated = _saturated(known, frame.given, result)

    def _own(self, module: nn.Module) -> tuple[str, ...]:
        owners = [module]
        if parametrize.is_parametrized(module):
            owners += modules_of(module.get_submodule("parametrizations"))
        # by place first: after a forward pass, FSDP2 may have other parameter objects
        names = (self._places.get(place) or self.parameters.get(id(p)) for place, p in _stored(owners))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def _mark_units(self, module: nn.Module, given: Tensor | None, result: Tensor) -> None:
        if isinstance(module, _CHANNELS_FIRST):
            dimensions = getattr(module, "kernel_size", None)
            batched = not isinstance(dimensions, tuple) or result.ndim == len(dimensions) + 2
            self.tags.mark(result, unit=1 if batched and result.ndim > 1 else 0)
        elif isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm | nn.Embedding):
            self.tags.mark(result, unit=result.ndim - 1)
        elif given is not None:
            self.tags.hand_on(given, result)

    def _finish(self, record: Record, result: Tensor, unit: int | None, given: Tensor | None) -> None:
        source = None if given is None else self._sources.get(given, given)
        if self.keep:  # no statistics: their hooks would run again in every product with a Jacobian
            record.source, record.tensors = source, None if given is None else (given, result)
            if result.numel():
                self.records.append(record)
            return
        if source is not None:
            record.given = self._seen(source)
            record.above = made_by(source, in_order=True) if record.weighted else []
        record.watch(result, unit)
        if record.output is not None:
            self._statistics[result] = (result._version, record.output)
            self.records.append(record)

    def _seen(self, tensor: Tensor) -> Pending | None:
        """The statistics of an input. Most inputs were outputs before, so that their statistics are known."""
        known: Pending | None
        version, known = self._statistics.get(tensor, (-1, None))
        if version == tensor._version:
            return known
        known = pending(tensor, self.tags.unit_of(tensor), histogram=False)
        self._statistics[tensor] = (tensor._version, known)
        return known

    def _first_float(self, value: Any) -> Tensor | None:
        found = _first_float(value)
        return None if found is None else self._source.of(found)

    def _numbered(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"

    # -- calls -------------------------------------------------------------------------------------------------------

    def before_any_call(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a call means for the graph."""
        module = self._stack[-1].name if self._stack else None
        self.foreign.note(func, (*args, *kwargs.values()), module, self.parameters)
        if is_detach(name, func) and args[0].grad_fn is not None:
            self.detached.append(args[0].grad_fn)
        rate = dropout_rate(name, args, kwargs)
        if module is not None and rate > 0:
            self.dropping[module] = max(rate, self.dropping.get(module, 0.0))

    def before_call(self, kind: str | None, args: tuple[Any, ...]) -> Tensor | None:
        """The fraction of dead units of an activation's input, before the call, which may overwrite it."""
        known = activations.KNOWN.get(kind or "")
        if known is None or not args or not isinstance(args[0], Tensor):
            return None
        unit = self.tags.unit_of(args[0])
        return None if unit is None else activations.dead_fraction(known, plain(self._source.of(args[0])), unit)

    def after_any_call(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what a call takes and selects, ends of the graph, and losses: outside of the model, also differences."""
        self.parameter_uses.take(name, func, args, kwargs, result)
        if ends_graph(name, args, result):
            self.ended += [t.grad_fn for _, t in tensors_in((args, kwargs)) if t.grad_fn is not None]
        if self.keep:
            return
        loss = loss_call(func, args, kwargs) or (None if self._stack else difference(name, args))
        choice = selection(name, args, kwargs, result, self._stack[-1].name) if self._stack else None
        self.losses += [] if loss is None else [loss]
        self.choices += [] if choice is None else [choice]

    def after_call(
        self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, dead: Tensor | None
    ) -> None:
        """Record a call."""
        output = _first_float(result)
        if output is None or not self._stack:
            return  # outside of the model: the loss
        frame = self._stack[-1]
        owner = frame.name or "model"
        record = Record(f"{owner}:{kind}", kind, frame.name)
        given = self._source.of(args[0]) if args and isinstance(args[0], Tensor) else None
        known = activations.KNOWN.get(kind)
        if known is not None:
            record.activation, record.dead = kind, dead
            record.saturated = _saturated(known, given, output)
        elif kind == "scaled_dot_product_attention":
            record.attention, record.scores = attention.of_call(*args, **kwargs), output.grad_fn
        elif kind == "softmax":
            if given is None or not self.tags.of(given).scores:
                return
            record.kind, record.name = "attention", f"{owner}:attention"
            record.attention, record.scores = attention.of_scores(plain(given)), given.grad_fn
        elif kind.startswith(_WEIGHTED):
            record.weighted = True
            held = [item for item in (*args, *kwargs.values()) if isinstance(item, nn.Parameter)]
            if self._places and any(id(p) not in self.parameters for p in held):
                self._name_gathered(self.modules[""])  # gathered by a method other than forward
            record.parameters = tuple(self.parameters[id(p)] for p in held if id(p) in self.parameters)
            if not record.parameters and not frame.leaf:
                return
            self.tags.mark(output, unit=1 if kind.startswith("conv") and output.ndim > 2 else output.ndim - 1)
        frame.calls.append(record)
        plain_function = frame.leaf and not frame.module._parameters and record.attention is None
        if plain_function or (frame.leaf and type(frame.module).__module__.startswith("torch.nn.")):
            return  # a part of a module that is recorded as a whole
        record.name = self._numbered(record.name)
        self._finish(record, output, self.tags.unit_of(output), given)


def _stored(modules: Iterable[nn.Module]) -> Iterator[tuple[tuple[int, str], Tensor]]:
    """Every parameter with its place: the module's ``id``, and the name there."""
    for module in modules:
        yield from (((id(module), key), held) for key, held in module._parameters.items() if held is not None)


def _saturated(known: activations.Activation, given: Tensor | None, output: Tensor) -> Tensor | None:
    if not known.bounds:  # so no shards are gathered for nothing
        return None
    return activations.saturated_fraction(known, None if given is None else plain(given), plain(output))


def _only(calls: list[Record]) -> Record | None:
    return calls[0] if len(calls) == 1 else None


def _first_float(value: Any) -> Tensor | None:
    """The first tensor of numbers with values: inside of ``vmap`` and its kin there are none."""
    floats = (t for _, t in tensors_in(value) if t.is_floating_point() or t.is_complex())
    return None if in_transform() else next(floats, None)


class _Calls(TorchFunctionMode):
    """A mode that receives every call of torch's functions and methods."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture
        self.composite = Composite()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        inner = self.composite.inside(func)
        if inner is not None:
            with self:
                return inner(*args, **kwargs)
        capture, kind = self.capture, kind_of_call(name)
        capture.before_any_call(name, func, args, kwargs)
        func, args, kwargs = silenced(name, func, args, kwargs)
        dead = None if in_transform() else capture.before_call(kind, args)
        result = func(*args, **kwargs)
        capture.after_any_call(name, func, args, kwargs, result)
        if kind is not None and kind != "product":
            capture.after_call(kind, args, kwargs, result, dead)
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            if kind == "product" and not any(isinstance(arg, nn.Parameter) for arg in args):
                capture.tags.mark(result, scores=True)
            else:
                capture.tags.hand_on(args[0], result)
        return result
