"""Move a batch to the model's device, and decide how it is passed to the model."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from zeta.base.modules import tensors_of
from zeta.base.reading import shown
from zeta.check.facts.evidence import Sequences
from zeta.check.watch.loaders import has_training_step, stepping
from zeta.check.watch.memory import Saved, saved
from zeta.errors import SpecError, ZetaError
from zeta.resolve.slots import unwrap

# steps and sequences of recurrent modules that are run again
_STEPS: Final = 32
_SEQUENCES: Final = 2
#: the keys of a target in a batch that is a mapping
TARGETS: Final = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one forward pass; ``target`` is the part of the batch that the model does not take."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    batch: Any
    whole: str | None = None  #: says that the model got a mapping as one argument, as its keys name no arguments
    step: bool = False  #: whether a call of the model is its ``training_step``
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext  #: in which it is called
    content: tuple[Saved, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tensors = tensors_in((self.args, dict(self.kwargs), self.batch))
        object.__setattr__(self, "content", tuple(content for _, content in saved(tensors)))

    def restore(self) -> None:
        """Give the arguments their values again, which a forward pass may change in place."""
        for content in self.content:
            content.restore()

    def output_of(self, model: nn.Module) -> Any:
        """Call the model, with the arguments as they were given.

        Raises ``SpecError`` where it fails on a mapping that may have been meant as named arguments.
        """
        self.restore()
        try:
            with self.around(), stepping(model) if self.step else contextlib.nullcontext():
                return model(*self.args, **self.kwargs)
        except (TypeError, AttributeError, KeyError) as error:
            if self.whole is None or isinstance(error, ZetaError):
                raise
            first = str(error).partition("\n")[0]
            raise SpecError(
                f"{self.whole}, as it has no arguments of these names, and raised {type(error).__name__}: {first}. "
                "Name the batch's entries like the arguments of forward, or pass a tuple of them"
            ) from error


def call_of(model: nn.Module, batch: Any, loss: Any = None) -> Call:
    """Decide how ``batch`` is passed to ``model``.

    A mapping becomes named arguments, a tuple or list positional ones, anything else the only argument. The target is
    what ``forward`` does not take of a tuple, one element or several; or a mapping's ``labels`` (``label``,
    ``targets``, ``target``, ``y``) if ``forward`` has no such argument.

    A Lightning module takes the whole batch in its ``training_step``, which returns the loss, unless one is given.

    Raises ``SpecError`` if ``forward`` accepts none of these forms, or if all tensors are empty.
    """
    if isinstance(batch, Iterator):
        raise SpecError(
            f"check takes one batch or a DataLoader, got {shown(batch)}, which gives many; pass next(batches)"
        )
    tensors = tensors_in(batch)
    if tensors and not any(tensor.numel() for _, tensor in tensors):
        raise SpecError(f"this batch has no values ({describe(batch)}); pass one of 16 samples or more")
    device = device_of(model)
    moved = move(batch, device)
    if loss is None and has_training_step(model):
        return Call(args=(moved,), kwargs={}, target=None, batch=moved, step=True)
    signature = inspect.signature(unwrap(model).forward)
    for args, kwargs, target in _ways(moved):
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            continue
        whole = None
        if args[:1] and isinstance(args[0], Mapping) and isinstance(moved, Mapping):
            whole = (
                f"{type(model).__name__}.forward{signature} got all of the batch ({describe(batch)}) as one argument"
            )
        return Call(args=args, kwargs=kwargs, target=target, batch=moved, whole=whole)
    raise SpecError(
        f"{type(model).__name__}.forward{signature} cannot take this batch ({describe(batch)}); "
        "pass a tensor, a tuple of its arguments, or a dictionary of its named arguments"
    )


def _ways(batch: Any) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    if isinstance(batch, Mapping):
        named = {str(key): value for key, value in batch.items()}
        target = next((key for key in TARGETS if key in named), None)
        ways: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = [((), named, None)]
        if target is not None:
            rest = {key: value for key, value in named.items() if key != target}
            ways.append(((), rest, named[target]))
            if len(rest) == 1:
                ways.append((tuple(rest.values()), {}, named[target]))
            ways.append(((rest,), {}, named[target]))
        return [*ways, ((batch,), {}, None)]
    if isinstance(batch, tuple | list):
        ways = [(tuple(batch), {}, None)]
        for count in range(len(batch) - 1, 0, -1):
            left = batch[count:]
            ways.append((tuple(batch[:count]), {}, left[0] if len(left) == 1 else left))
        return [*ways, ((batch,), {}, None)]
    return [((batch,), {}, None)]


def move(value: Any, device: torch.device) -> Any:
    """Copy every tensor in ``value`` to ``device``, also inside tuples, lists, mappings and dataclasses.

    Other objects with a method ``to``, such as batches of graphs, are copied and moved with it; and so are the tensors
    among the attributes of other objects.
    """

    def moved(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.detach().to(device, copy=True)
        if callable(getattr(item, "to", None)):
            return _copied(item).to(device)
        held = getattr(item, "__dict__", None)
        if isinstance(item, type) or type(held) is not dict or not any(isinstance(x, Tensor) for x in held.values()):
            return item
        twin = copy.copy(item)
        vars(twin).update({name: mapped(value, moved) for name, value in held.items()})
        return twin

    return mapped(value, moved)


def _copied(item: Any) -> Any:
    try:
        return copy.deepcopy(item)
    except (RuntimeError, TypeError):  # torch copies no tensor with a graph, and Python no lock
        return copy.copy(item)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with ``change`` applied to every tensor and every other object that is not a container."""
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in fields(value):  # object.__setattr__, for frozen classes and fields that __init__ does not take
            object.__setattr__(twin, field.name, mapped(getattr(value, field.name), change))
        return twin
    return change(value)


def tensors_in(value: Any) -> list[tuple[str, Tensor]]:
    """Every tensor in an output or a batch with its place, also inside tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return [("", value)]
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        items = [(str(number), item) for number, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    return [(f"{key}.{place}".rstrip("."), tensor) for key, item in items for place, tensor in tensors_in(item)]


def steps_of(module: nn.Module, given: Tensor | None) -> int | None:
    """The steps of a recurrent module; ``None`` for other modules and for packed sequences."""
    if isinstance(module, nn.RNNCellBase):
        return 1
    if not isinstance(module, nn.RNNBase) or given is None or given.ndim != 3:
        return None
    return given.shape[1 if module.batch_first else 0]


def sequences_of(name: str, module: nn.RNNBase, value: Any) -> Sequences | None:
    """The first steps of a few of the sequences that a recurrent module gets."""
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value)
        whole, steps = padded, int(lengths.max())
    elif isinstance(value, Tensor) and value.ndim in (2, 3):
        whole = value.unsqueeze(1) if value.ndim == 2 else value.transpose(0, 1) if module.batch_first else value
        steps = len(whole)
    else:
        return None
    inputs = whole[:_STEPS, :_SEQUENCES].detach().clone()
    return Sequences(module=name, recurrent=module, inputs=inputs, steps=steps)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model: that of its first tensor with memory; parameters on meta are computed on the CPU."""
    return next((tensor.device for tensor in tensors_of(model) if not tensor.is_meta), torch.device("cpu"))


def describe(batch: Any) -> str:
    """A short description of a batch, for errors."""
    found = tensors_in(batch)
    shapes = ", ".join(f"{place or 'tensor'} {tuple(tensor.shape)}" for place, tensor in found[:6])
    return f"{type(batch).__name__}: {shapes or 'no tensor'}"
