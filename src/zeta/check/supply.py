"""Where the values of a check come from: from the model, from a copy in memory, or computed one parameter at a time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zeta import verbs
from zeta.base.distributed import any_fsdp, is_sharded
from zeta.base.modules import copy_of, named_buffers_of, named_parameters_of, tensors_of
from zeta.base.process.available import available_memory
from zeta.base.progress import progress_of
from zeta.base.reading import shown
from zeta.base.text import bytes_text
from zeta.check.facts.evidence import TensorFacts
from zeta.check.measure.duplicates import can_be_in_tiles
from zeta.check.measure.effort import CheckProgress, Course, seconds_of
from zeta.check.measure.unwritten import Initialize, with_memory
from zeta.check.watch.streaming.source import NOTHING, Source
from zeta.errors import SpecError, TargetError, listed, notice
from zeta.initializers.blocks import is_elementwise
from zeta.resolve.fitting import fit
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, walk
from zeta.rules import Kind

#: bytes; of larger parameters, only some rows are computed at a time
LARGE: Final = 2**28
# numbers read or written for each element of a parameter, each time that it is computed: drawn, used, measured
_TOUCHED: Final = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Supply:
    """The model that is run, and what computes the parameters that are on meta."""

    model: nn.Module
    slots: list[Slot]
    source: Source = NOTHING
    #: of a copy, the names of the tensors on meta of the model that was copied, by ``id``
    copied: Mapping[int, str] = field(default_factory=dict)

    @property
    def streamed(self) -> bool:
        """Whether parameters are computed one at a time."""
        return bool(self.source.entries)

    @property
    def nbytes(self) -> int:
        """The bytes of the parameters that are computed one at a time."""
        return sum(slot.tensor.nbytes for slot in self.each())

    def each(self) -> Iterator[Slot]:
        """One name of each parameter that is computed."""
        known: set[int] = set()
        for slot in self.slots:
            if self.source.has(slot.tensor) and id(slot.tensor) not in known:
                known.add(id(slot.tensor))
                yield slot


def supply_of(
    model: nn.Module,
    slots: list[Slot],
    plan: Plan | None,
    initialize: Initialize | None,
    seed: int,
    streamed: bool | None,
    progress: bool,
) -> Supply:
    """The model; for one on meta, a copy with memory and values, or one whose parameters are computed when used.

    Raises:
        SpecError: ``streamed=True`` without a plan, or for a model with values.
        TargetError: tensors on meta that get no value.
    """
    if streamed is not None and not isinstance(streamed, bool):
        raise SpecError(f"streamed must be True, False or None, got {shown(streamed)}")
    on_meta = [slot.name for slot in slots if slot.tensor.is_meta]
    if not on_meta:
        if streamed:
            raise SpecError("streamed=True computes parameters that are on meta, and this model has all of its values")
        return Supply(model=model, slots=slots)
    if any_fsdp(model):
        raise TargetError(
            listed("FSDP2 models cannot be copied, and these are on meta; materialize the model first:", on_meta)
        )
    every = (*named_parameters_of(model), *named_buffers_of(model))
    copied = {id(tensor): name for name, tensor in every if tensor.is_meta}
    if plan is not None:
        hooked = [name for name, tensor in named_parameters_of(model) if tensor._backward_hooks]
        if _is_streamed(slots, streamed):
            if hooked:
                raise TargetError(
                    listed(
                        "parameters that are computed one at a time cannot have hooks on their gradients; check with "
                        "streamed=False:",
                        hooked,
                    )
                )
            return replace(_streamed(copy_of(model), plan, seed), copied=copied)
        twin: nn.Module = copy_of(model)
        _give_hooks(model, twin)
        verbs.materialize_(twin, plan, seed, progress=progress)
        return Supply(model=twin, slots=walk(twin), copied=copied)
    if streamed:
        raise SpecError("streamed=True computes parameters from a plan; pass plan=, such as that of zeta.record")
    if initialize is not None:
        twin = with_memory(model)
        _give_hooks(model, twin)
        initialize(twin)
        return Supply(model=twin, slots=walk(twin), copied=copied)
    raise TargetError(
        listed("these are on meta and have no values; pass plan= or initialize=, or materialize the model:", on_meta)
    )


def _give_hooks(model: nn.Module, twin: nn.Module) -> None:
    """Give the copy's parameters the hooks on gradients, which ``deepcopy`` drops."""
    copies = dict(named_parameters_of(twin))
    for name, tensor in named_parameters_of(model):
        for hook in (tensor._backward_hooks or {}).values():
            copies[name].register_hook(hook)  # type: ignore[no-untyped-call]


class _OfTheCopy(TorchFunctionMode):
    """Refuses values of the model that was copied: it is on meta, and torch would compute with raw memory.

    A copy keeps functions as they are: a closure, a default or a global name in them still refers to the model.
    """

    def __init__(self, copied: Mapping[int, str]) -> None:
        super().__init__()
        self._copied = copied

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = (each for given in (*args, *(kwargs or {}).values()) for each in _items(given))
        name = next((self._copied[id(each)] for each in operands if id(each) in self._copied), None)
        if name is None:
            return func(*args, **(kwargs or {}))
        refusal = TargetError(
            f"the forward pass or the loss takes {name} of the model on meta, and not of its copy that is checked, as "
            "a function or a hook that the model keeps refers to the model; give it memory with zeta.materialize_, and "
            "check that"
        )
        try:
            result = func(*args, **(kwargs or {}))
        except Exception as error:
            raise refusal from error
        if isinstance(result, bool | int | torch.Size | torch.dtype | None):
            return result  # no value, as of weight.shape
        raise refusal


def _items(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list | tuple) else (given,)


def of_the_copy(supply: Supply) -> contextlib.AbstractContextManager[object]:
    """A block in which what runs takes the tensors of the model that is checked, and not those of its original."""
    return _OfTheCopy(supply.copied) if supply.copied else contextlib.nullcontext()


def _is_streamed(slots: list[Slot], streamed: bool | None) -> bool:
    """Whether parameters are computed one at a time: as asked for, or if a copy would take too much memory.

    That is more than half of what is available; the other half is for gradients.
    """
    if streamed is not None:
        return streamed
    available = available_memory()
    size = sum({id(slot.tensor): slot.tensor.nbytes for slot in slots if slot.tensor.is_meta}.values())
    if available is None or size <= available / 2:
        return False
    notice(
        f"the model takes {bytes_text(size)}, more than half of the {bytes_text(available)} of memory that are "
        "available: its parameters are computed one at a time (streamed=True)"
    )
    return True


def _streamed(twin: nn.Module, plan: Plan, seed: int) -> Supply:
    """A copy in which buffers and parametrized weights have memory, and the other parameters stay on meta."""
    found = fit(twin, plan)
    sharing = Counter(tensor.untyped_storage()._cdata for tensor in tensors_of(twin) if tensor.is_meta)
    entries: dict[int, Entry] = {}
    others: list[str] = []
    for entry in found.entries:
        slot = found.slots[entry.name]
        whole = not entry.kept and entry.section is None
        if whole and _is_streamable(slot) and sharing[slot.tensor.untyped_storage()._cdata] == 1:
            entries[id(slot.tensor)] = entry
        elif slot.tensor.is_meta:
            others.append(entry.name)
    large = frozenset(key for key, entry in entries.items() if entry.nbytes > LARGE and _has_tiles(entry))
    if others:
        verbs.materialize_(twin, plan, seed, only=others)
    return Supply(model=twin, slots=walk(twin), source=Source(entries, seed, large))


def _has_tiles(entry: Entry) -> bool:
    """Whether some rows of a parameter can be computed and compared without the others."""
    return is_elementwise(entry.initializer) and can_be_in_tiles(entry.axes, len(entry.shape))


def _is_streamable(slot: Slot) -> bool:
    tensor: Tensor = slot.tensor
    plain = slot.parametrization is None and slot.kind is not Kind.BUFFER and isinstance(tensor, nn.Parameter)
    return plain and tensor.is_meta and not is_sharded(tensor) and tensor.is_floating_point()


def remarks(supply: Supply, tensors: Sequence[TensorFacts]) -> Iterator[str]:
    """What the report says of a check that computed parameters one at a time."""
    if not supply.streamed:
        return
    yield (
        f"the parameters ({bytes_text(supply.nbytes)}) were computed from the plan one at a time, when they were used; "
        "the model was never in memory as a whole"
    )
    unread = [one.name for one in tensors if supply.source.has(one.slot.tensor) and not one.stats.count]
    if unread:
        count = "1 parameter" if len(unread) == 1 else f"{len(unread):,} parameters"
        names = ", ".join(unread[:3]) + (", ..." if len(unread) > 3 else "")
        yield f"nothing used {count}, whose values were not computed: {names}"
    for one in tensors:
        if supply.source.has(one.slot.tensor) and 0 < one.stats.count < one.slot.tensor.numel():
            rows = len(one.slot.tensor)
            used = one.stats.count * rows // one.slot.tensor.numel()
            yield f"{used:,} of {rows:,} experts of {one.name} were used; the values of the others were not computed"


@contextlib.contextmanager
def course_of(supply: Supply, progress: CheckProgress | bool | None) -> Iterator[Callable[[int], None]]:
    """A function that reports progress when a parameter was used, and again when it got its gradient."""
    slots = {id(slot.tensor): slot for slot in supply.each()}
    seconds = {
        key: seconds_of(calls=1, multiplications=0, touched=_TOUCHED * slot.tensor.numel())
        for key, slot in slots.items()
    }
    total = sum(seconds[key] * (1 + slot.tensor.requires_grad) for key, slot in slots.items())
    with progress_of(progress if supply.streamed else None, "s") as tell:
        course = Course(tell, total, "parameters are computed when they are used")
        yield lambda key: course.take(slots[key].name, seconds[key])
