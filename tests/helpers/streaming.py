"""Check a model that has values as if its parameters were on meta and computed when they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zeta.base.modules import copy_of, modules_of
from zeta.check import supply
from zeta.check.show.report import CheckReport
from zeta.check.supply import Supply
from zeta.check.watch.streaming.source import Source
from zeta.resolve.slots import walk


class Held(Source):
    """Hands out copies of values that are kept outside of the model."""

    def __init__(self, values: dict[int, Tensor]) -> None:
        super().__init__({}, 0)
        self.entries = values  # type: ignore[assignment]
        self.computed: list[int] = []

    def values(self, key: int, dtype: torch.dtype) -> Tensor:
        self.computed.append(key)
        value = self.entries[key]
        assert isinstance(value, Tensor)
        return value.clone()


def emptied(model: nn.Module) -> Supply:
    """A copy of a model whose plain floating-point parameters are on meta, with a source that has their values."""
    twin = copy_of(model)
    values: dict[int, Tensor] = {}
    moved: dict[int, Any] = {}
    parametrized = {id(p) for slot in walk(twin) if slot.parametrization is not None for p in _parts(slot)}
    for module in modules_of(twin):
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in parametrized or not _is_plain(parameter):
                continue
            if id(parameter) not in moved:
                empty = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
                moved[id(parameter)] = empty, parameter
                values[id(empty)] = parameter.detach()
            module._parameters[name] = moved[id(parameter)][0]
        flat = vars(module).get("_flat_weights")
        if flat is not None:
            module._flat_weights = [moved[id(one)][0] if id(one) in moved else one for one in flat]
    return Supply(model=twin, slots=walk(twin), source=Held(values))


def _is_plain(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and type(parameter) is nn.Parameter and parameter.layout is torch.strided


def _parts(slot: Any) -> Any:
    return [slot.tensor, *slot.parametrization.parameters()]


def ran_streamed(report: CheckReport) -> bool:
    return any("one at a time" in remark for remark in report.sampled)


__all__ = ["Held", "emptied", "ran_streamed", "supply"]
