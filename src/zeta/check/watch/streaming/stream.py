"""Run passes over parameters on meta: a mode computes them, and autograd remembers them by name.

- A mode of torch's functions replaces each of the parameters among the arguments of a call by its values, so that they
  may be used anywhere: in their module's forward, in another's, in the loss.
- The values are the output of an autograd function, and no leaf, which would be held by its ``AccumulateGrad``. The
  function takes the gradient; once all uses have delivered theirs, the sum is handed on and dropped.
- What autograd saves of the values, it saves as a key and a view, and computes again in the backward pass.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zeta.base.process.surroundings import in_transform
from zeta.base.tensors import storage_of
from zeta.check.watch.calls import unseen
from zeta.check.watch.moments import plain
from zeta.check.watch.streaming.gradients import OfRows, Part, Whole
from zeta.check.watch.streaming.picks import Picks
from zeta.check.watch.streaming.source import DEVICE, NOTHING, Source
from zeta.check.watch.streaming.tiles import Rows, in_tiles
from zeta.errors import TargetError, ZetaError
from zeta.resolve.recording.tracing.schemas import written_arguments

#: called with the ``id`` of a parameter, and with its whole gradient; of a large one, with what that is computed from
Take = Callable[[int, Tensor | Whole], None]

# attributes that have the values of the parameter; others are those of the tensor on meta
_VALUES: Final = frozenset(("T", "H", "mT", "mH", "data", "real", "imag"))
# attributes that tell where the values are
_PLACES: Final = {"device": DEVICE, "is_meta": False, "is_cpu": True}
# methods that need no values
_FACTS: Final = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "__len__"),
        *("is_floating_point", "is_complex", "is_contiguous", "is_inference", "is_neg", "is_conj", "is_signed"),
        *("__hash__", "register_hook", "register_post_accumulate_grad_hook", "requires_grad_", "retain_grad"),
        *("is_same_size", "dim_order", "_is_view", "__deepcopy__"),
    )
)
# they take the leaves of the graph, which are the tensors on meta
_BACKWARD: Final = tuple(
    (function, unseen(function)) for function in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
)
#: what to do about a model that cannot be run so
_HELD: Final = "pass streamed=False, which holds the model in memory"
# storages that are remembered before those that are gone are forgotten
_MANY: Final = 256


@dataclass(frozen=True, kw_only=True)
class _View:
    """A part of a parameter's values that autograd saved; ``rows`` if only some were computed."""

    key: int
    rows: tuple[int, int] | None
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Stream:
    """One forward and one backward pass over the parameters of a source.

    Args:
        source: computes the parameters.
        take: receives each gradient when it is complete.
        step: called with the ``id`` of a parameter whenever it was used or has got a gradient.
        picks: notes which rows of the large ones are used.
    """

    def __init__(
        self,
        source: Source,
        take: Take,
        step: Callable[[int], None],
        picks: Picks | None = None,
    ) -> None:
        self.source = source
        self.used: set[int] = set()  #: the parameters that a call took
        self.reached: set[int] = set()  #: those that got a gradient
        self._picks = Picks() if picks is None else picks
        self._take = take
        self._step = step
        self._forward = True
        self._missing: Counter[int] = Counter()  #: uses that have not delivered a gradient yet
        self._sums: dict[int, Tensor] = {}
        self._parts: dict[int, list[Part]] = {}  #: of large parameters
        self._storages: dict[int, tuple[Any, _View, int]] = {}  #: weak references, what is there, and its version

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let torch's functions find values, in the forward and in the backward pass."""
        if not self.source.entries:
            yield
            return
        try:
            with _Supply(self), _Unwritten(self), saved_tensors_hooks(self._pack, self._unpack):
                yield
            for key in [*self._sums, *self._parts]:  # of parameters of which a use is not a part of the loss
                self._hand_on(key)
        except RuntimeError as error:
            if isinstance(error, ZetaError) or "meta" not in str(error):
                raise
            text = str(error).partition("\n")[0]
            raise TargetError(
                f"torch says: {text}. Something takes a parameter, which is on meta, where it is not given its values, "
                f"such as an autograd.Function; {_HELD}"
            ) from error
        finally:
            self._sums.clear()
            self._parts.clear()
            self._storages.clear()
            self.source.forget()

    def backward_begins(self) -> None:
        """A forward pass that a checkpoint repeats in the backward pass delivers no gradients."""
        self._forward = False

    def given(self, value: Any) -> Any:
        """An argument with values; parameters may be in lists, as those of recurrent layers are."""
        if isinstance(value, Tensor):
            return self.values(value) if self.source.has(value) else value
        if type(value) in (list, tuple) and any(isinstance(item, Tensor) for item in value):
            return type(value)(map(self.given, value))
        return value

    def name_of(self, key: int) -> str:
        """The name of the parameter with this ``id``."""
        return self.source.entries[key].name

    def values(self, parameter: Tensor) -> Tensor:
        """The values of a parameter on meta, with a graph that leads to it."""
        if in_transform():
            raise TargetError(f"a transform of torch.func takes {self.name_of(id(parameter))}; {_HELD}")
        self._picks.take(id(parameter), None)
        if self._note(parameter):
            values: Tensor = _Given.apply(parameter, self)  # type: ignore[no-untyped-call]
        else:
            values = self.source.values(id(parameter), parameter.dtype)
        return self._remembered(values, parameter, None)

    def of_rows(self, parameter: Tensor, first: int, last: int) -> Tensor:
        """Some rows of a large parameter, with a graph that leads to it."""
        self._picks.take(id(parameter), (first, last))
        rows: Tensor = Rows.apply(parameter, self, first, last)  # type: ignore[no-untyped-call]
        return self._remembered(rows, parameter, (first, last))

    def in_tiles(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The result of a call that needs only some rows of a large parameter at a time; ``None`` for other calls."""
        found = in_tiles(func, args, kwargs) if self.source.large else None
        if found is None or id(found[0]) not in self.source.large or not self.source.has(found[0]):
            return None
        weight, made = found
        self._note(weight)
        if func is not Tensor.__getitem__:
            self._picks.take(id(weight), None)
        return made(self)

    def deliver(self, key: int, part: Tensor | Part | None) -> None:
        """Take the gradient of one use. What the forward pass differentiates itself is not a gradient of the loss."""
        if self._forward:
            return
        self._missing[key] -= 1
        if isinstance(part, Tensor):
            part = plain(part if part.layout is torch.strided else part.to_dense())
            if key in self.source.large:
                part = OfRows(gradient=part)
        if isinstance(part, Tensor):
            self._sums[key] = self._sums[key] + part if key in self._sums else part
        elif part is not None:
            self._parts.setdefault(key, []).append(part)
        if part is not None:
            self.reached.add(key)
        if self._missing[key] == 0 and (key in self._sums or key in self._parts):
            self._hand_on(key)

    def check_once(self, key: int) -> None:
        """Refuse to be differentiated twice: the gradient of some rows at a time has no graph of its own."""
        if torch.is_grad_enabled():
            raise TargetError(
                f"the gradient of {self.name_of(key)} is differentiated again (create_graph=True), and some rows of it "
                f"are computed at a time; {_HELD}"
            )

    def check_write(self, tensor: Tensor, name: str) -> None:
        """Refuse a write to the values of a parameter, through any view of them."""
        storage = storage_of(tensor)
        known = None if storage is None else self._storages.get(storage._cdata)
        if known is not None and not known[0].expired():
            raise self.written(known[1].key, name)

    def written(self, key: int, name: str) -> TargetError:
        """The error about a forward pass that writes to a parameter."""
        return TargetError(
            f"the forward pass writes to {self.name_of(key)} ({name}), whose values are computed for each use; {_HELD}"
        )

    def check_asked(self, inputs: Any) -> None:
        """Refuse a forward pass that takes gradients of parameters: those go to the check."""
        if self._forward and (found := next((x for x in _listed(inputs) if self.source.has(x)), None)) is not None:
            raise TargetError(f"the forward pass takes a gradient of {self.name_of(id(found))}; {_HELD}")

    def _hand_on(self, key: int) -> None:
        self._step(key)
        self._take(key, self._sums.pop(key) if key in self._sums else Whole(self._parts.pop(key)))

    def _note(self, parameter: Tensor) -> bool:
        """Note a use, and return whether a gradient of it is to come."""
        key = id(parameter)
        if key not in self.used:
            self.used.add(key)
            self._step(key)
        learned = parameter.requires_grad and torch.is_grad_enabled()
        if learned and self._forward:
            self._missing[key] += 1
        return learned

    def _remembered(self, values: Tensor, parameter: Tensor, rows: tuple[int, int] | None) -> Tensor:
        """The values, whose views autograd need not save."""
        storage = values.untyped_storage()
        if len(self._storages) > _MANY:
            self._storages = {place: known for place, known in self._storages.items() if not known[0].expired()}
        kept: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        view = _View(
            key=id(parameter), rows=rows, dtype=values.dtype, size=tuple(values.shape), stride=values.stride(), offset=0
        )
        self._storages[storage._cdata] = kept, view, values._version
        return values

    def _pack(self, tensor: Tensor) -> Tensor | _View:
        storage = storage_of(tensor)
        known = None if storage is None else self._storages.get(storage._cdata)
        if known is None or known[0].expired():
            return tensor
        _, whole, version = known
        if tensor.dtype is not whole.dtype or tensor._version != version:
            return tensor  # what was written to it, or is read as another dtype, is not computed again
        return replace(whole, size=tuple(tensor.shape), stride=tensor.stride(), offset=int(tensor.storage_offset()))

    def _unpack(self, packed: Tensor | _View) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if packed.rows is None:
            values = self.source.values(packed.key, packed.dtype)
        else:
            values = self.source.rows(packed.key, packed.dtype, *packed.rows)
        return values.as_strided(packed.size, packed.stride, packed.offset)


class _Given(torch.autograd.Function):
    """From a parameter on meta to its values; the gradient goes to the stream."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, stream: Stream) -> Tensor:
        ctx.stream, ctx.key = stream, id(parameter)
        ctx.variable = parameter  # by which a leaf of the graph is known
        ctx.set_materialize_grads(False)
        return stream.source.values(ctx.key, parameter.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[None, None]:
        ctx.stream.deliver(ctx.key, gradient)
        return None, None


class _Supply(TorchFunctionMode):
    """A mode that gives values to the parameters among the arguments of torch's functions."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        for backward, unseen_backward in _BACKWARD:
            if func is backward:
                if func is torch.autograd.grad:
                    self.stream.check_asked(kwargs.get("inputs", args[1] if len(args) > 1 else ()))
                with self:  # for the forward passes that checkpoints repeat in it
                    return unseen_backward(*args, **kwargs)
        if args and self.stream.source.has(args[0]):
            if name == "__get__":
                attribute = getattr(func.__self__, "__name__", "")
                if attribute in _PLACES:
                    return _PLACES[attribute]
                if attribute not in _VALUES:
                    return func(*args, **kwargs)
            elif name in _FACTS:
                return func(*args, **kwargs)
            elif _writes(name):
                raise self.stream.written(id(args[0]), name)
        if (made := self.stream.in_tiles(func, args, kwargs)) is not None:
            return made
        given = self.stream.given
        return func(*map(given, args), **{key: given(value) for key, value in kwargs.items()})


class _Unwritten(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that refuses operations that write to the values of a parameter, such as of ``weight.data``."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = stream

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, OpOverload) and func._schema.is_mutable:
            for written in written_arguments(func, args, kwargs):
                for tensor in _listed(written):
                    self.stream.check_write(tensor, func._schema.name.partition("::")[2])
        return func(*args, **kwargs)


def _listed(value: Any) -> list[Tensor]:
    """One tensor or several."""
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, Tensor)]


def _writes(name: str) -> bool:
    """Whether a method of this name changes its tensor."""
    if name.startswith("__"):
        return name in ("__setitem__", "__set__", "__delete__") or (name.startswith("__i") and name not in _READING)
    return name.endswith("_") and not name.startswith("_")


_READING: Final = ("__index__", "__int__", "__invert__")


def in_memory() -> Stream:
    """The stream of a model in memory: there is nothing to compute."""
    return forward_only(NOTHING)


def forward_only(source: Source) -> Stream:
    """A stream for passes forward.

    Gradients are not turned off for them: torch chooses some operations by whether their arguments need one, and these
    give other last bits than those of the same pass in memory.
    """
    return Stream(source, lambda key, gradient: None, lambda key: None)
