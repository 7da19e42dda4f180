"""Record a model's own initialization without memory: run the constructor, and make a plan of its operations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeta import recipes
from zeta.base.distributed import is_sharded
from zeta.base.modules import modules_of, tensors_of, within_reach
from zeta.base.parametrizations import originals, planned_weight
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.base.process.surroundings import alone_with, plain
from zeta.base.reading import shown
from zeta.base.tensors import Swaps
from zeta.base.text import count_text
from zeta.errors import LayerTypeError, RecordingError, SpecError, ZetaError, listed, notice
from zeta.resolve import resolver, solving
from zeta.resolve.fitting import Only, chosen_by
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.recording.leaving import leave_on_meta
from zeta.resolve.recording.recognition import Recognized, recognize
from zeta.resolve.recording.restoring import restored
from zeta.resolve.recording.tracing import UNTOUCHED, Node, Recorder, Source, recording
from zeta.resolve.slots import Slot, walk
from zeta.rules import Kind, Rules

Model = TypeVar("Model", bound=nn.Module)
Fallback = Rules | str  # "real", or the name of a recipe
#: what transformers sets on a module that it has initialized, and then skips
_INITIALIZED = "_is_hf_initialized"


def record(
    factory: Callable[..., Model], /, *args: Any, fallback: Fallback | None = None, **kwargs: Any
) -> tuple[Model, Plan]:
    """Call ``factory(*args, **kwargs)`` without allocating its parameters; return its model, on meta, and its plan.

    The operations of the constructor on each parameter and buffer become the plan's entry: a known initializer if they
    are equivalent to one, else a :class:`~zeta.initializers.Program`; ``rule`` names the line that last determined the
    values. Overwritten values are dropped. Tensors that the model keeps outside of parameters and buffers are computed
    at once, if they are small and not random.

    Args:
        factory: a class or function that returns a module.
        args: its arguments.
        fallback: :class:`~zeta.rules.Rules`, or the name of a recipe, for parameters whose values cannot be recorded;
            or ``"real"``: random values that the constructor reads are drawn once, on the CPU, and kept as data,
            independent of the seed.
        kwargs: its named arguments.

    Raises:
        RecordingError: the constructor reads random values, leaves a parameter without a value, fills it in a way that
            is not recordable, or keeps random tensors outside of parameters and buffers. All problems are listed.
        LayerTypeError: the factory returned something else than a module, or is a module itself.

    >>> model, plan = record(nn.Linear, 64, 32)
    >>> model.weight.is_meta, plan["bias"].initializer
    (True, Uniform(low=-0.125, high=0.125))
    """
    if isinstance(factory, nn.Module):
        raise LayerTypeError(
            f"record takes the class of a model, or a function that builds it, got a {type(factory).__name__}, which "
            "is built already; zeta.init_ and zeta.plan take a model"
        )
    recorder = _recorder(fallback)
    with recording(recorder):
        with within_reach("the constructor", RecordingError):
            model = factory(*args, **kwargs)
        if not isinstance(model, nn.Module):
            raise LayerTypeError(f"expected a factory that returns a torch.nn.Module, got {shown(model)}")
        effective = _effective(model, recorder)
    with plain():
        plan = _plan(model, recorder, effective, fallback)
        leave_on_meta(model, recorder)
    return model, plan


def plan_recorded(
    model: nn.Module,
    initialize: Callable[[Any], object],
    *,
    fallback: Fallback | None = None,
    only: Only | None = None,
) -> Plan:
    """Record what ``initialize(model)`` does to a model, real or on meta. The model does not change.

    What the function does not write is kept if it has values; parameters without are an error. With ``only``, the plan
    is of these tensors alone.
    """
    recorder = _recorder(fallback)
    with (
        plain(),
        alone_with(model),
        contextlib.nullcontext(_live(model)) as live,  # not before: another thread may have the model on meta
        restored(model),
        _unsharded(model),
        _on_meta(model),
    ):
        for tensor in _tensors_of(model):
            if _is_strided(tensor):
                recorder.graph.cell(tensor)  # register the whole tensor before a view of it
        before = {slot.name: _contents(slot, recorder, {}) for slot in walk(model)}
        with recording(recorder):
            with within_reach("the function", RecordingError):
                returned = initialize(model)
            recorder.lent.settle()
            effective = _effective(model, recorder)
        if isinstance(returned, Rules):
            raise SpecError(
                "the function returned rules, and wrote nothing: give the rules themselves, as in "
                'zeta.plan(model, zeta.recipes.gpt2(model)), or the name of the recipe, "gpt2"'
            )
        return _plan(model, recorder, effective, fallback, live=live, before=before, only=only)


def _live(model: nn.Module) -> set[str]:
    """The names of the tensors that have values."""
    return {slot.name for slot in walk(model) if not slot.tensor.is_meta and not nn.parameter.is_lazy(slot.tensor)}


def _recorder(fallback: Fallback | None) -> Recorder:
    if fallback is not None and not isinstance(fallback, Rules) and fallback not in ("real", *recipes.names()):
        raise SpecError(f'fallback must be Rules([...]), the name of a recipe or "real", got {shown(fallback)}')
    return Recorder(freeze=fallback == "real")


@contextlib.contextmanager
def _unsharded(model: nn.Module) -> Iterator[None]:
    """Temporarily replace every ``DTensor`` by a plain meta tensor, so that the recording is of whole tensors."""
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    twins: dict[int, Tensor] = {}
    owners: list[dict[str, Any]] = [d for module in modules_of(model) for d in (module._parameters, module._buffers)]
    for owned in owners:
        replaced += [(owned, name, tensor) for name, tensor in owned.items() if is_sharded(tensor)]

    def restore() -> None:
        for owned, name, tensor in replaced:
            owned[name] = tensor

    with undone_on_error(restore), undone(restore):
        for owned, name, tensor in replaced:
            twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            if isinstance(tensor, nn.Parameter):
                twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
            vars(twin).update((key, value) for key, value in vars(tensor).items() if key != "_is_param")
            owned[name] = twins.setdefault(id(tensor), twin)
        yield


@contextlib.contextmanager
def _on_meta(model: nn.Module) -> Iterator[None]:
    """Temporarily swap every real parameter and buffer to meta, and restore them afterwards."""
    swaps = Swaps(
        (
            tensor,
            torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad
            ),
        )
        for tensor in _tensors_of(model)
        if not tensor.is_meta and _is_strided(tensor)
    )
    with undone_on_error(swaps.undo), undone(swaps.undo):
        swaps.make()
        yield


def _is_strided(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and one number for each element; a function cannot write to others."""
    return not nn.parameter.is_lazy(tensor) and tensor.layout is torch.strided and not tensor.is_quantized


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors_of(model)}.values())


# -- parametrized weights --------------------------------------------------------------------------------------------


def _effective(model: nn.Module, recorder: Recorder) -> dict[int, Node]:
    """The node of each parametrized weight, computed by its parametrization from the originals.

    And the nodes of the tensors that the parametrization stores, as the constructor left them.
    Under spectral_norm it is the node of what is divided, because that is what values are written to.
    """
    nodes: dict[int, Node] = {}
    for module in modules_of(model):
        if not isinstance(module, parametrize.ParametrizationList):
            continue
        with torch._C.DisableTorchFunction():  # the recording itself says that nothing is on meta
            stored = [tensor for tensor in tensors_of(module) if tensor.is_meta]
        nodes |= {id(tensor): recorder.graph.read(tensor) for tensor in stored}  # the call below may write to them
        with torch.no_grad():
            node = _present(recorder, planned_weight(module))
        nodes[id(module)] = replace(node, source=_present(recorder, originals(module)[-1]).source)
    return nodes


def _present(recorder: Recorder, tensor: Tensor) -> Node:
    """What a tensor holds; a real one in a copy of a module from outside."""
    with torch._C.DisableTorchFunction():  # the recording itself says that nothing is on meta
        real = not tensor.is_meta
    return recorder.data(tensor) if real else recorder.graph.read(tensor)


# -- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _RecordedTensor:
    """One tensor of the model: its slots (one for each name), and its node."""

    group: list[Slot]
    node: Node

    @property
    def slot(self) -> Slot:
        return self.group[0]


def _plan(
    model: nn.Module,
    recorder: Recorder,
    effective: dict[int, Node],
    fallback: Fallback | None,
    *,
    live: Collection[str] | None = None,
    before: Mapping[str, tuple[_Content, ...]] = MappingProxyType({}),
    only: Only | None = None,
) -> Plan:
    """The plan of a constructor, or of a function on a model of which the ``live`` tensors have values.

    ``before`` is what each name held when the function was called.
    """
    groups = resolver.groups(walk(model))
    wanted = chosen_by(only, groups, lambda group: [slot.name for slot in group])
    tensors = [_RecordedTensor(group=group, node=_node(group[0], recorder, effective)) for group in wanted]
    untouched = {
        group[0].name
        for group in groups
        if live is not None and all(_is_kept(slot, before, _contents(slot, recorder, effective)) for slot in group)
    }
    kept = {
        t.slot.name
        for t in tensors
        if t.slot.name in untouched and live is not None and (t.slot.kind is Kind.BUFFER or t.slot.name in live)
    }
    recognized, problems = recognize({t.slot.name: t.node for t in tensors if t.slot.name not in kept}, recorder.frozen)
    rules = recipes.rules_for(fallback, model) if isinstance(fallback, str) and fallback != "real" else fallback
    blank = set(problems) | (set() if live is None else kept - {*live})  # have no value, if it is not given here
    ruled = _ruled(model, groups, blank, rules) if isinstance(rules, Rules) else {}
    if live is not None:
        ruled = {name: entry for name, entry in ruled.items() if not entry.kept}
    entries: list[Entry] = []
    for tensor in tensors:
        name = tensor.slot.name
        if name in kept and name not in ruled:
            entries.append(resolver.unruled(tensor.group, restart=live is None or name not in live))
        elif name in ruled:
            problems.pop(name, None)
            entries.append(ruled[name])
        elif name not in problems:
            entries.append(_entry(tensor, recognized[name], problems))
    if live and len(untouched) == len(groups):
        notice(f"the function wrote to nothing of the model, so that all of it is kept. {_advice(model)}")
    elif live and isinstance(rules, Rules) and not ruled:
        _notice_idle(entries)
    if problems:
        raise RecordingError(
            listed(
                "these have no value that can be recorded (fallback=Rules([...]) gives them one):",
                (f"{name}: {problem}" for name, problem in problems.items()),
            )
        )
    return Plan(tuple(entries))


def _advice(model: nn.Module) -> str:
    """What to do if a function writes nothing."""
    if any(getattr(module, _INITIALIZED, False) for module in modules_of(model)):
        return (
            "transformers skips modules that are initialized already, as here. Record what builds the model "
            "instead: _, plan = zeta.record(type(model), model.config), then zeta.apply_(model, plan, seed)"
        )
    return "A function of one module, as for model.apply(function), is given as lambda model: model.apply(function)"


def _notice_idle(entries: list[Entry]) -> None:
    """Say of a fallback that gave nothing which parameters have values, so that they are kept."""
    kept = [entry.name for entry in entries if entry.kept and entry.kind is not Kind.BUFFER]
    if kept:
        notice(
            f"fallback= gave nothing: what the function does not write has values, and is kept "
            f"({count_text(len(kept), 'parameter')}, such as {kept[0]}). fallback= is for what has none, on meta; let "
            "the function write these, or write them with rules of their own: zeta.init_(model, rules, only=...)"
        )


def _node(slot: Slot, recorder: Recorder, effective: dict[int, Node]) -> Node:
    if slot.parametrization is not None:
        return effective[id(slot.parametrization)]
    if nn.parameter.is_lazy(slot.tensor):
        reason = "is lazy and has no shape yet; run one forward pass first, or give its size"
        return Node(op="unknown", content=reason, shape=(), dtype=slot.tensor.dtype)
    if is_sharded(slot.tensor):
        reason = "was sharded by the constructor; shard the model that zeta.record returns, before materialize_"
        return Node(op="unknown", content=reason, shape=(), dtype=slot.tensor.dtype)
    if not _is_strided(slot.tensor):
        return Node(op="unknown", content=UNTOUCHED, shape=(), dtype=slot.tensor.dtype)
    if id(slot.tensor) in effective:
        return effective[id(slot.tensor)]
    return recorder.graph.read(slot.tensor) if slot.tensor.is_meta else recorder.data(slot.tensor)


#: what a tensor holds: the views, outermost first, through which it shows a memory; and the node of that memory
_Content = tuple[tuple[Hashable, ...], int | None]


def _contents(slot: Slot, recorder: Recorder, effective: dict[int, Node]) -> tuple[_Content, ...]:
    """What the tensors of a slot hold; of a parametrized weight, all originals.

    The node is ``None`` if it is not a memory that still has its values from before the recording.
    """
    stored = [slot.tensor] if slot.parametrization is None else originals(slot.parametrization)
    return tuple(
        _content(effective[id(one)] if id(one) in effective else recorder.graph.read(one))
        if _is_strided(one) and one.is_meta
        else ((), id(one))
        for one in stored
    )


def _content(node: Node) -> _Content:
    views: list[Hashable] = []
    while node.op in ("slice", "permute", "reshape", "strided"):
        views.append((node.op, node.shape, node.attributes))
        node = node.operands[0]
    return tuple(views), node.serial if node.op == "unknown" and node.content == UNTOUCHED else None


def _is_kept(slot: Slot, before: Mapping[str, tuple[_Content, ...]], now: tuple[_Content, ...]) -> bool:
    """Whether a name still has its values from before the recording: not others, moved there from another tensor."""
    return before.get(slot.name) == now and all(memory is not None for _, memory in now)


def _ruled(model: nn.Module, groups: list[list[Slot]], names: set[str], rules: Rules) -> dict[str, Entry]:
    """The entries that rules give for the tensors with these names."""
    wanted = [group for group in groups if group[0].name in names]
    return {entry.name: entry for entry in resolver.resolve(rules, groups, wanted, model)}


def _entry(tensor: _RecordedTensor, found: Recognized, problems: dict[str, str]) -> Entry:
    slot, node = tensor.slot, tensor.node
    axes = found.axes if found.axes is not None else solving.axes_if_any(tensor.group)
    entry = Entry(
        name=slot.name,
        ties=tuple(other.name for other in tensor.group[1:]),
        shape=slot.shape,
        dtype=slot.tensor.dtype,
        kind=slot.kind,
        rule=_provenance(node.source, type(slot.module).__name__),
        initializer=found.initializer,
        axes=axes,
        padding_idx=found.padding_idx,
        persistent=slot.persistent,
    )
    try:
        if axes is not None:
            axes.resolved(slot.shape)
        solving.check_dtype(entry.initializer, entry.dtype)
    except ZetaError as error:
        problems[slot.name] = str(error)
    return entry


def _provenance(source: Source | None, module: str) -> str:
    """The line that determined a value, the function that it called, and the module's class."""
    if source is None:
        return f"data ({module})"
    called = () if source.called is None else (source.called,)
    return f"{source.place} ({', '.join((*called, module))})"
