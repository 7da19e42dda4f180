"""The model after its recording: parameters and buffers on meta, every other tensor with its values, or an error.

Everything is checked before anything is changed: what was there before the recording stays as it is.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from zeta.base.modules import named_buffers_of, named_modules_of, named_parameters_of, tensors_of
from zeta.base.parametrizations import hooked
from zeta.base.tensors import attributes, covered, extent, meets, overlaps, swap
from zeta.errors import RecordingError, listed, notice
from zeta.resolve.recording.caches import LARGEST_STRAY, part_from_caches
from zeta.resolve.recording.holding import modules_held
from zeta.resolve.recording.sources import Source
from zeta.resolve.recording.tracing import Recorder, concrete, tensors_with

#: a tensor, and the line that made it
Living = tuple[Tensor, Source | None]
#: the tensors outside of parameters and buffers that the model holds, with their places
Held = list[tuple[str, Tensor]]


def leave_on_meta(model: nn.Module, recorder: Recorder) -> None:
    """Put the model's parameters and buffers on meta, and give values to other tensors that are still alive.

    A real tensor from before the recording, which the constructor registered, is replaced by another object.

    Raises ``RecordingError``, and changes nothing, for modules that the constructor did not make, tensors whose values
    are random or too large, and views of parameters where nothing finds them.
    """
    if problems := _given(model, recorder):
        raise RecordingError(
            listed(
                "these were there before the recording began, which would take their memory; build their module inside "
                "the constructor, or copy it there (copy.deepcopy):",
                problems,
            )
        )
    part_from_caches(model, recorder)
    held = list(attributes(model))
    if problems := _lent(model, held, recorder):
        raise RecordingError(
            listed(
                "a tensor that was there before the recording began shares memory with a recorded one, and the model "
                "has both, which would come apart; register a clone():",
                problems,
            )
        )
    if problems := _aliased(model, held, recorder):
        raise RecordingError(
            listed(
                "the constructor registers tensors that were there before the recording began, and keeps other tensors "
                "of the same memory; register a clone():",
                problems,
            )
        )
    for _, module in named_modules_of(model):
        for name in hooked(module):  # computed again when there are values
            setattr(module, name, torch.empty_like(getattr(module, name), device="meta", requires_grad=False))
    recorder.forget_lent()
    _drop_gradients(model)
    _forget_gradients([*tensors_of(model), *(tensor for _, tensor in held)])
    owned = _owned(model)
    if problems := list(_partly_owned(held, _owned(model, real=True))):
        raise RecordingError(
            listed(
                "these tensors share a part of their memory with parameters or buffers, so nothing could give values "
                "to the rest; register all of it (register_buffer), or keep a clone():",
                problems,
            )
        )
    strays, lost = _outside(model, held, recorder, owned)
    if strays or lost:
        del strays, lost  # they hold what they name
        gc.collect()  # what only a cycle holds is not the model's
        strays, lost = _outside(model, held, recorder, owned)
    values = _values(model, held, recorder, strays)
    if lost:
        raise RecordingError(
            listed(
                "these views of parameters or buffers are kept where nothing finds them to give them memory (a "
                "closure, a cache, a class attribute); keep them as attributes of a module, or make them in forward:",
                (f"a view {tuple(tensor.shape)}, made at {source}" for tensor, source in lost),
            )
        )
    for tensor, real in values:
        swap(tensor, real)
    _replace_real(model, [tensor for _, tensor in held], recorder)


def _drop_gradients(model: nn.Module) -> None:
    """Remove the gradients that the constructor leaves, and say so: a plan has values alone."""
    left: dict[str, Tensor] = {}
    for path, module in named_modules_of(model):
        for name, tensor in module._parameters.items():
            if tensor is not None and tensor.is_meta and tensor.is_leaf and tensor.grad is not None:
                left[f"{path}.{name}".lstrip(".")] = tensor
    for parameter in left.values():
        parameter.grad = None
    if left:
        notice(
            f"the constructor leaves gradients ({', '.join(list(left)[:3])}{', ...' if len(left) > 3 else ''}), and a "
            "plan has values alone: the model that is recorded has none. Set them after materialize_, or call "
            "zero_grad() in the constructor"
        )


def _forget_gradients(tensors: list[Tensor]) -> None:
    """Let go of what autograd keeps of how tensors were computed: tensors that the model itself does not have.

    Where there are values, ``materialize_`` gives them without it.
    """
    for tensor in tensors:
        if tensor.is_meta and not tensor._is_view() and tensor.grad_fn is not None:  # a view may refuse to be asked
            tensor.detach_().requires_grad_()


def _memory(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunctionSubclass():  # of what is lazy, which refuses to be asked
        return int(tensor.untyped_storage()._cdata)


def _given(model: nn.Module, recorder: Recorder) -> list[str]:
    """The names of real tensors that are not the constructor's, in modules that are not."""
    return [
        f"{name}.{local} {tuple(tensor.shape)}".lstrip(".")
        for name, module in named_modules_of(model)
        if id(vars(module)) not in recorder.built
        if not (recorder.threads and id(vars(module)) in recorder.elsewhere)
        for local, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and not nn.parameter.is_lazy(tensor) and not tensor.is_meta
        if _memory(tensor) not in recorder.own  # as in a copy whose class makes it without __init__
    ]


def _real_of(model: nn.Module) -> dict[int, Tensor]:
    """The real parameters and buffers, by ``id``."""
    return {id(t): t for t in tensors_of(model) if not nn.parameter.is_lazy(t) and not t.is_meta}


def _lent(model: nn.Module, held: Held, recorder: Recorder) -> list[str]:
    """The places of real tensors of the model that share memory with recorded ones of the model."""
    named = [*named_parameters_of(model), *named_buffers_of(model), *held]
    plain = [(name, t) for name, t in named if not nn.parameter.is_lazy(t) and t.layout is torch.strided]
    recorded = {_memory(tensor) for _, tensor in plain if tensor.is_meta}
    shared = recorder.lent.real_memories(recorded)
    return [f"{name} {tuple(t.shape)}" for name, t in plain if not t.is_meta and _memory(t) in shared]


def _aliased(model: nn.Module, held: Held, recorder: Recorder) -> list[str]:
    """Tensors that share memory with a registered tensor from outside, which another object replaces."""
    outside: dict[int, Tensor] = {}
    problems: list[str] = []
    for tensor in _real_of(model).values():
        other = outside.setdefault(_memory(tensor), tensor)
        if other is not tensor and _memory(tensor) not in recorder.own:
            problems.append(f"{tuple(tensor.shape)} and {tuple(other.shape)} share their memory")
    replaced = outside.keys() - recorder.own.keys()
    for place, tensor in held:
        if not tensor.is_meta and tensor.layout is torch.strided and _memory(tensor) in replaced:
            problems.append(f"{place} {tuple(tensor.shape)} shares the memory of a parameter or buffer")
    return problems


def _replace_real(model: nn.Module, held: list[Tensor], recorder: Recorder) -> None:
    """Put real parameters and buffers on meta: those that the constructor made as they are, others as new objects."""
    real = _real_of(model)
    sharing: dict[int, list[Tensor]] = {}
    for tensor in [*real.values(), *(tensor for tensor in held if not tensor.is_meta)]:
        if tensor.layout is torch.strided and _memory(tensor) in recorder.own:
            sharing.setdefault(_memory(tensor), []).append(tensor)
    for address, found in sharing.items():
        registered = [tensor for tensor in found if id(tensor) in real]
        tensors = [tensor for tensor in found if registered and meets(tensor, registered)]
        size = recorder.own[address].nbytes()
        memory = torch.empty(size, dtype=torch.uint8, device="meta").untyped_storage()
        for tensor in {id(tensor): tensor for tensor in tensors}.values():
            twin = torch.empty(0, dtype=tensor.dtype, device="meta")
            twin.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())
            swap(tensor, twin.requires_grad_(tensor.requires_grad))
    twins = {key: _twin(tensor) for key, tensor in real.items() if not tensor.is_meta}
    for _, module in named_modules_of(model):
        for table in ("_parameters", "_buffers"):
            replaced = {local: twins[id(t)] for local, t in vars(module)[table].items() if id(t) in twins}
            if replaced:  # another dictionary: a shallow copy of a module shares it with that module
                vars(module)[table] = {**vars(module)[table], **replaced}


def _twin(tensor: Tensor) -> Tensor:
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        twin = torch.Tensor._make_subclass(type(tensor), twin, tensor.requires_grad)
    else:
        twin.requires_grad_(tensor.requires_grad)
    vars(twin).update(vars(tensor))
    return twin


def _living(references: list[tuple[Any, Source | None]]) -> Iterator[Living]:
    return ((tensor, source) for reference, source in references if (tensor := reference()) is not None)


#: the parameters and buffers on meta, by their memory
Owned = dict[int, list[Tensor]]


def _owned(model: nn.Module, *, real: bool = False) -> Owned:
    """Those on meta; ``real``: the others, too."""
    found: Owned = {}
    for tensor in tensors_of(model):
        if tensor.is_meta or (real and not nn.parameter.is_lazy(tensor) and tensor.layout is torch.strided):
            found.setdefault(_memory(tensor), []).append(tensor)
    return found


def _partly_owned(held: Held, owned: Owned) -> Iterator[str]:
    """The tensors of which some elements are those of parameters or buffers, and others are not."""
    for place, tensor in held:
        sharing = owned.get(_memory(tensor), []) if tensor.layout is torch.strided else []
        if sharing and not covered(tensor, sharing) and meets(tensor, sharing):
            yield f"{place} {tuple(tensor.shape)}"


def _outside(model: nn.Module, held: Held, recorder: Recorder, owned: Owned) -> tuple[list[Living], list[Living]]:
    """The tensors to give values, and those that look into memory of parameters or buffers where nothing finds them.

    Both have also tensors that no operation returned, such as the parameters of a module in a list or a closure.
    """
    strays, lost = _strays(held, recorder, owned), _lost(model, held, recorder, owned)
    known = [*tensors_of(model), *(tensor for _, tensor in held), *(tensor for tensor, _ in (*strays, *lost))]
    for tensor, source in _unseen(known, recorder):
        (lost if _memory(tensor) in owned else strays).append((tensor, source))
    return strays, lost


def _unseen(known: list[Tensor], recorder: Recorder) -> list[Living]:
    """The tensors with recorded memory that are not among the known ones. Most often the memories have no others."""
    every = {id(each): each for tensor in known for each in (tensor, tensor._base) if each is not None}
    counts = Counter(_memory(tensor) for tensor in every.values() if tensor.layout is torch.strided)
    cells = recorder.graph.cells
    more = {key: cell.node.source for key, cell in cells.items() if tensors_with(cell.storage) > counts[key]}
    if not more:
        return []
    # the class is asked: an object of another one may load something to answer
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor) and id(thing) not in every]
    plain = [tensor for tensor in alive if not is_lazy(tensor) and tensor.layout is torch.strided and tensor.is_meta]
    return [(tensor, more[_memory(tensor)]) for tensor in plain if _memory(tensor) in more]


def _strays(held: Held, recorder: Recorder, owned: Owned) -> list[Living]:
    """The living tensors, views among them, of whose elements none is one of a parameter or buffer."""
    alive = {id(tensor): (tensor, source) for tensor, source in _living([*recorder.made, *recorder.views])}
    for _, tensor in held:
        alive.setdefault(id(tensor), (tensor, None))
    places = {id(tensor) for _, tensor in held}
    return [
        (t, source)
        for key, (t, source) in alive.items()
        if t.is_meta
        if _memory(t) not in owned or (key in places and not covered(t, owned[_memory(t)]))
    ]


def _lost(model: nn.Module, held: Held, recorder: Recorder, owned: Owned) -> list[Living]:
    """The living views of parameters and buffers that are no attribute of a module: ``materialize_`` misses them."""
    alive = {id(tensor): (tensor, source) for tensor, source in _living(recorder.views) if tensor.is_meta}
    if not alive:
        return []
    known = [*tensors_of(model), *(tensor for _, tensor in held)]
    found = {id(each) for tensor in known for each in (tensor, tensor._base)}  # torch keeps the base of each view alive
    return [(t, source) for key, (t, source) in alive.items() if key not in found and _memory(t) in owned]


def _values(model: nn.Module, held: Held, recorder: Recorder, strays: list[Living]) -> list[tuple[Tensor, Tensor]]:
    """Each stray tensor and a real one of its values; those that share a memory do so again."""
    problems = [
        f"{place}: is lazy and has no shape yet; run one forward pass first, or give its size"
        for place, tensor in _in_hidden(model)
        if is_lazy(tensor)
    ]
    values: list[tuple[Tensor, Tensor]] = []
    memories: dict[int, torch.UntypedStorage] = {}
    for tensor, source in strays:
        if is_lazy(tensor):
            continue  # the model dropped it, or it is named above
        storage, size = tensor.untyped_storage(), tensor.untyped_storage().nbytes()
        try:
            if size > LARGEST_STRAY:
                raise RecordingError(f"has {size:,} bytes, of which at most {LARGEST_STRAY:,} are computed")
            found = concrete(recorder.graph.read(tensor), "it")
        except RecordingError as error:
            place = next((place for place, found in (*held, *_in_hidden(model)) if found is tensor), "a tensor")
            problems.append(f"{place} {tuple(tensor.shape)}, made at {source}: {error}")
            continue
        if storage._cdata not in memories or tensor.is_conj() or tensor.is_neg():
            memories[storage._cdata] = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
        real = torch.empty(0, dtype=tensor.dtype, device="cpu")
        real.set_(memories[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
        _copied(real, found)
        values.append((tensor, real.requires_grad_(tensor.requires_grad)))
    if problems:
        raise RecordingError(
            listed(
                "these tensors are neither parameters nor buffers of the model, so nothing could give them their "
                "values (register_buffer does, and registering the module that has them):",
                problems,
            )
        )
    return values


def _in_hidden(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of modules that the model keeps out of torch's sight, with their places."""
    for name, module in modules_held(model).items():
        for local, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{name}.{local}", tensor


def _copied(tensor: Tensor, values: Tensor) -> None:
    """Write values to a tensor of which elements may share memory, where they have the same value."""
    if overlaps(tensor):
        flat = tensor.as_strided((extent(tensor),), (1,))
        places = torch.arange(len(flat), device="cpu").as_strided(tensor.shape, tensor.stride())
        flat[places.reshape(-1)] = values.reshape(-1)
    else:
        tensor.copy_(values)
