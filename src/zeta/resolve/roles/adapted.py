"""The layers with a low-rank adapter: where W, A and B are, which way each is stored, and the scaling of the layer.

Such a layer computes W + s B A, with W (out x in), A (r x in) and B (out x r). peft's layers and layers written by hand
are found in the same way, by :mod:`zeta.rules.adapters`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zeta.base import dtypes
from zeta.base.modules import check_module
from zeta.base.reading import shown
from zeta.base.text import by_reason, shape_text
from zeta.errors import SpecError, ZetaError, listed
from zeta.fans import known_axes
from zeta.resolve.fitting import Only, chosen_by
from zeta.resolve.slots import Slot, named_modules, unwrap, walk
from zeta.rules import Kind, Role
from zeta.rules.adapters import Adapters
from zeta.rules.role_names import ADAPTER_A, ADAPTER_B

#: what a layer's factor of B A may be called
_SCALINGS: Final = ("scaling", "scale")
#: how the names of peft's variants begin that compute W + s B A (DoRA: normalized) of one A and B for each input
_SAME_FUNCTION: Final = ("Dora", "Velora")
#: of W, A and B: whether a matrix is stored as its transpose
_Turned = tuple[bool, bool, bool]


class Adapted(Struct, frozen=True, kw_only=True, eq=False):
    """A layer that computes W + ``scaling`` B A. ``turned``: of W, A and B, whether the transpose is stored.

    ``others`` are names of A of further adapters of the layer, which were not selected.
    """

    name: str
    base: Slot
    a: Slot
    b: Slot
    turned: _Turned
    scaling: float
    others: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """The outputs of A."""
        return self.a.shape[1 if self.turned[1] else 0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of W."""
        rows, columns = self.base.shape
        return (columns, rows) if self.turned[0] else (rows, columns)

    @property
    def is_embedding(self) -> bool:
        """Whether W is looked up."""
        return self.base.kind is Kind.EMBEDDING

    @property
    def slots(self) -> tuple[Slot, Slot, Slot]:
        """Those of W, A and B."""
        return self.base, self.a, self.b

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, A and B as (out x in), (r x in) and (out x r): views of what is stored."""
        w, a, b = (
            slot.tensor.detach().T if turned else slot.tensor.detach()
            for slot, turned in zip(self.slots, self.turned, strict=True)
        )
        return w, a, b


def adapted_layers(model: nn.Module, only: Only | None, scaling: float | None) -> list[Adapted]:
    """The layers with adapters that ``only`` selects, by a name of the layer or of one of its matrices.

    Raises ``SpecError`` that lists every layer of which something does not follow.
    """
    check_module(model)
    if scaling is not None and not _is_factor(scaling):
        raise SpecError(f"scaling must be a positive number, as in scaling=alpha / rank, got {shown(scaling)}")
    model = unwrap(model)
    slots, modules = walk(model), named_modules(model)
    adapters = Adapters(modules)
    parts = [(slot, part) for slot in slots if (part := adapters.of(slot.name)) is not None]
    ours = {slot.name for slot, _ in parts}
    pairs: dict[tuple[str, tuple[str, ...]], dict[Role, Slot]] = {}
    for slot, part in parts:
        if part.role is not Role.ADAPTER and slot.kind is not Kind.BIAS and slot.tensor.ndim >= 2:
            pairs.setdefault((part.layer, _which(slot.name, part.layer)), {})[part.role] = slot
    complete = [(layer, pair) for (layer, _), pair in pairs.items() if len(pair) == 2]
    if not complete:
        raise SpecError(
            "the model has no LoRA: no two matrices of it are called A and B, as lora_A and lora_B beside a layer are"
        )
    chosen = chosen_by(only, complete, lambda item: (item[0], *(slot.name for slot in item[1].values())))
    found: list[Adapted] = []
    refused: list[tuple[str, str]] = []
    for layer, pair in chosen:
        a, b = pair[Role.ADAPTER_A], pair[Role.ADAPTER_B]
        try:
            _check_function(layer, a, modules)
            weights = list(_beside(layer, slots, ours))
            base, turned = _base(a, b, weights)
            factor = _scaling(layer, a, modules, scaling, alone=len(weights) == 1)
            others = tuple(
                other[Role.ADAPTER_A].name for name, other in complete if name == layer and other is not pair
            )
            found.append(Adapted(name=layer, base=base, a=a, b=b, turned=turned, scaling=factor, others=others))
        except ZetaError as error:
            refused.append((layer or "the model", str(error)))
    refused += _apart(found, slots)
    if refused:
        raise SpecError(listed("these adapters cannot be initialized; nothing was changed:", by_reason(refused)))
    return found


def _which(name: str, layer: str) -> tuple[str, ...]:
    """What tells apart the pairs of a layer: the parts of a name that do not say A or B."""
    parts = name[len(layer) :].strip(".").split(".")
    known = [part for part in parts if not (ADAPTER_A.fullmatch(part) or ADAPTER_B.fullmatch(part))]
    return tuple(known) if len(known) < len(parts) else ()


def _beside(layer: str, slots: Iterable[Slot], ours: Iterable[str]) -> Iterator[Slot]:
    """The parameters of a module, and of the modules directly in it, that belong to no adapter."""
    prefix, ours = f"{layer}." if layer else "", set(ours)
    for slot in slots:
        inside = slot.name.startswith(prefix) and slot.name.count(".", len(prefix)) <= 1
        if inside and slot.name not in ours and slot.kind in (Kind.WEIGHT, Kind.EMBEDDING):
            yield slot


def _base(a: Slot, b: Slot, weights: Sequence[Slot]) -> tuple[Slot, _Turned]:
    """The one weight that B A can be added to, and how the three are stored."""
    if any(isinstance(slot.module, NonDynamicallyQuantizableLinear) for slot in weights):
        raise SpecError(
            "it is the output projection of a MultiheadAttention, which reads its weight and does not call it, so that "
            "B A is not added once: peft's attention adds it twice; leave it out with only="
        )
    if packed := [slot for slot in weights if not slot.tensor.is_floating_point()]:
        raise SpecError(
            f"{packed[0].name} has dtype {dtypes.name_of(packed[0].tensor.dtype)}, as a quantized weight, from which "
            "s B A cannot be subtracted; do this with the floating-point model, and quantize its weights afterwards"
        )
    if a.tensor.ndim != 2 or b.tensor.ndim != 2:
        raise SpecError(
            f"A has shape {shape_text(a.shape)} and B {shape_text(b.shape)}, as those of a convolution, and the method "
            "is for matrices; leave it out with only="
        )
    fitting = [(base, turned) for base in weights if (turned := _turned(base, a, b)) is not None]
    if len(fitting) == 1:
        return fitting[0]
    named = ", ".join(f"{slot.name} ({shape_text(slot.shape)})" for slot in weights) or "none"
    raise SpecError(
        f"it has {len(fitting) or 'no'} weights that B A can be added to, with A {shape_text(a.shape)} and B "
        f"{shape_text(b.shape)}; beside them: {named}"
    )


def _turned(base: Slot, a: Slot, b: Slot) -> _Turned | None:
    """Which of the three are stored as transposes; ``None`` if they do not fit, or fit in several ways."""
    if base.tensor.ndim != 2:
        return None
    known = _is_turned(base), _is_turned(a), _is_turned(b)
    if _fit(base, a, b, known):
        return known
    each = (False, True)
    ways = [way for way in itertools.product(each, each, each) if _fit(base, a, b, way)]
    return ways[0] if len(ways) == 1 else None


def _is_turned(slot: Slot) -> bool:
    """Whether the outputs are along dimension 1, as in a Conv1D of GPT-2, an embedding, or ``x @ A``."""
    axes = known_axes(slot.module, slot.local_name, slot.shape)
    return axes is not None and axes.resolved(slot.shape).fan_out == (1,)


def _fit(base: Slot, a: Slot, b: Slot, turned: _Turned) -> bool:
    (out, into), (rank, of_a), (of_b, inner) = (
        slot.shape[::-1] if way else slot.shape for slot, way in zip((base, a, b), turned, strict=True)
    )
    return rank == inner and into == of_a and out == of_b


def _scaling(layer: str, a: Slot, modules: Mapping[str, nn.Module], given: float | None, *, alone: bool) -> float:
    """The factor that the layer, or a module in it that holds A, multiplies B A by; else the ``given`` one.

    A number of a layer with several weights may be another factor, as that of attention: it counts only if W is
    ``alone``.
    """
    inside = _inside(layer, a)
    for module in _around(layer, a, modules):
        for attribute in _SCALINGS:
            value: Any = getattr(module, attribute, None)
            by_name = isinstance(value, Mapping)
            if by_name:
                value = next((value[part] for part in inside if part in value), None)
            if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
                value = float(value.detach())
            if isinstance(value, int | float) and not isinstance(value, bool):
                if not (by_name or alone):
                    if given is None:
                        raise SpecError(
                            f"its {attribute} is {shown(value)}, which may be another factor than that of B A, as the "
                            "layer has further weights; give it, as in scaling=alpha / rank"
                        )
                    continue
                if not _is_factor(value):
                    raise SpecError(f"its {attribute} is {shown(value)}, and must be a positive number")
                if given is not None and given != value:
                    raise SpecError(
                        f"its {attribute} is {shown(value)}, and scaling={shown(given)} was given; leave out scaling="
                    )
                return float(value)
    if given is None:
        raise SpecError(
            "the factor of B A is not known: no attribute scaling or scale has it; give it, as in scaling=alpha / rank"
        )
    return float(given)


def _inside(layer: str, a: Slot) -> list[str]:
    """The parts of A's name in its layer; one of them is the adapter's name, if it has any."""
    return a.name[len(layer) :].strip(".").split(".")


def _around(layer: str, a: Slot, modules: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """The layer, and the modules in it that hold A."""
    inside = _inside(layer, a)
    places = [".".join([*([layer] if layer else []), *inside[:depth]]) for depth in range(len(inside))]
    return (modules[place] for place in places if place in modules)


def _check_function(layer: str, a: Slot, modules: Mapping[str, nn.Module]) -> None:
    """Raise ``SpecError`` if peft's layer does not compute W + s B A of this A now, in the state that it is in."""
    inside = _inside(layer, a)
    for module in _around(layer, a, modules):
        if getattr(module, "merged", False) is True:
            raise SpecError("its adapter is merged into the weight; unmerge it first")
        variants: Any = getattr(module, "lora_variant", None)
        for name, variant in variants.items() if isinstance(variants, Mapping) else ():
            kind = type(variant).__name__
            if name in inside and not kind.startswith(_SAME_FUNCTION):
                raise SpecError(
                    f"peft's {kind} computes another function than W + s B A, so that the model would change; make "
                    "the adapter without it, or leave it out with only="
                )
        active: Any = getattr(module, "active_adapters", None)
        known = [name for name in inside if name in (getattr(module, "scaling", None) or ())] if active else []
        if getattr(module, "disable_adapters", False) is True:
            raise SpecError("its adapters are disabled, so that the model computes W alone, and would change")
        if known and not any(name in active for name in known):
            raise SpecError(
                f"its adapter {shown(known[0])} is not active, so that the model would change; "
                f"model.set_adapter({shown(known[0])}) first"
            )


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _apart(found: Iterable[Adapted], slots: Iterable[Slot]) -> Iterator[tuple[str, str]]:
    """What is wrong with weights that others have too: to change one would change what another layer computes."""
    names: dict[int, list[str]] = {}
    for slot in slots:
        names.setdefault(id(slot.tensor), []).append(slot.name)
    owners: dict[int, str] = {}
    for layer in found:
        owner = owners.setdefault(id(layer.base.tensor), layer.a.name)
        if owner != layer.a.name:
            yield layer.name, f"{owner} and {layer.a.name} adapt the same weight; select one with only="
            continue
        for slot in layer.slots:
            tied = [name for name in names[id(slot.tensor)] if name != slot.name]
            if tied:
                yield layer.name, f"{slot.name} is tied to {', '.join(tied)}, which would change too; untie them first"
