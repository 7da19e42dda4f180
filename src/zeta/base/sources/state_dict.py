"""A state dict, or that of a module, as a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zeta.base.distributed import is_sharded
from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.base.sources.source import Box, Source, TensorInfo, is_name
from zeta.errors import SpecError, listed

#: the last part of the names under which modules keep what is no tensor
EXTRA_STATE = "_extra_state"


class StateDict(Source):
    """Tensors by name, on any device. What is read may be a view of them."""

    def __init__(self, origin: str, state: Mapping[str, Any], what: str) -> None:
        self.origin = origin
        self._state = {name: value for name, value in state.items() if not is_extra(name)}
        nested = [name for name, value in self._state.items() if isinstance(value, Mapping)]
        if nested:
            raise SpecError(
                f"{what} must have tensors by name, and has dictionaries: {', '.join(map(shown, nested[:20]))}; pass "
                f"the one with the weights, such as state[{shown(nested[0])}]"
            )
        problems = {name: problem for name, value in self._state.items() if (problem := _problem(name, value))}
        if problems:
            lines = [f"{shown(name)}: {problem}" for name, problem in problems.items()]
            raise SpecError(listed(f"{what} has what cannot be read:", lines))
        self.tensors = {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in self._state.items()}

    def _read(self, name: str, box: Box) -> Tensor:
        with torch.no_grad():
            part: Tensor = self._state[name].detach()[box]
            return part.to("cpu").resolve_conj().resolve_neg().contiguous()

    def memory(self, name: str) -> Tensor | None:
        """The tensor itself."""
        found: Tensor = self._state[name]
        return found


def is_extra(name: object) -> bool:
    """Whether a module keeps something else than a tensor under this name of its state dict."""
    return isinstance(name, str) and name.rpartition(".")[2] == EXTRA_STATE


def _problem(name: object, value: object) -> str:
    if not is_name(name):
        return "the name is no text, too long or not valid Unicode"
    if not isinstance(value, Tensor):
        return f"is {shown(value)}, expected a tensor"
    if torch.nn.parameter.is_lazy(value):
        return "is lazy and has no shape; run the model once"
    if is_sharded(value):
        return (
            "is a DTensor, of which this process has a part; pass its full_tensor(), or save the state dict with "
            "torch.distributed.checkpoint and pass the folder"
        )
    if hasattr(value, "__tensor_flatten__"):
        return f"is {shown(value)}, which holds other tensors; pass plain ones, such as its dequantize()"
    if value.layout is not torch.strided or value.is_quantized:
        return f"is {visible(str(value.layout).removeprefix('torch.'))} or quantized; make it dense"
    if value.device.type == "meta":
        return "is on meta and has no values"
    return ""
