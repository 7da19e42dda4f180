"""Programs to mutate: what recordings of many small constructors leave, and odd values that look like their parts."""

from __future__ import annotations

import json
from typing import Any, Final

import torch
from torch import nn

import zeta
from tests.fuzz import mutate
from tests.helpers.constructors import Random
from zeta.base.language.operations import OPERATIONS
from zeta.compute import programs
from zeta.initializers import Initializer, Program

ODD: Final[tuple[Any, ...]] = (
    *mutate.ODD,
    *sorted(OPERATIONS),
    *({"step": number} for number in (-1, 0, 1, 2, 5, 2**40, True)),
    {"nan": "fff8000000000000"}, {"nan": "0"},
    {"float": "nan"}, {"float": "inf"}, {"float": "x"}, {"complex": [0.0, 1.0]}, {"complex": [{"float": "nan"}, 1.0]},
    [0], [1, 0], [0, 1], [-1, 0], [2**62], [0, 0, 0], [4, 6], [6, 4], [24], [1], "draw", "data", "from_file", "uint8",
    "bool", "float64", "float16", "complex128", "float8_e4m3fn", "trunc", "floor", "tanh", "reduced",
    {"op": "full", "operands": [], "attributes": {"size": [4, 6], "value": 1}, "shape": [4, 6], "dtype": "int64"},
)  # fmt: skip


class Made(nn.Module):
    """A little of everything that constructors compute."""

    def __init__(self) -> None:
        super().__init__()
        x, y = torch.randn(4, 6), torch.rand(4, 6)
        dt = torch.exp(y * 4 - 6).clamp(min=1e-4)
        whole = torch.arange(24).view(4, 6)
        parts = torch.zeros(4, 6)
        parts[:, 0::2], parts[1:3, 1] = x[:, :3].sin(), 2.0
        made = {
            "softplus": dt + torch.log(-torch.expm1(-dt)),
            "centred": x - x.mean(0, keepdim=True),
            "sorted": y.sort(-1).values,
            "factor": torch.linalg.qr(x.t() @ x)[0],
            "singular": torch.linalg.svd(x)[1],
            "solved": torch.linalg.inv(x @ x.t() + torch.eye(4)),
            "masked": torch.where(x > 0, x, y.neg()).tril(),
            "parts": parts,
            "divided": (whole // 5) % 3,
            "rows": x[torch.randperm(4)],
            "gathered": x.gather(1, whole % 6),
            "scattered": torch.zeros(4, 6).scatter_(1, whole[:, :2] % 6, 1.5),
            "steps": torch.cumsum(y, 1).cumprod(0),
            "turned": torch.view_as_real(torch.polar(y, x)).flatten(1),
            "bits": torch.arange(4, dtype=torch.int32).view(torch.float32),
            "window": torch.hann_window(8) * torch.kaiser_window(8),
            "near": torch.bucketize(whole, torch.tensor([3, 9])),
            "padded": nn.functional.pad(x, (1, 2)).roll(1, 0).flip(1),
            "data": torch.tensor([[1.0, 2.0], [3.0, 5.0]]),
            "strided": x.diagonal(1) + x.reshape(-1).unfold(0, 3, 2)[:4].sum(1),
            "low": (torch.rand(9, dtype=torch.bfloat16) * 8).floor(),
        }
        for name, value in made.items():
            self.register_buffer(name, value)
        self.random = Random([(17 * n % 256, 31 * n % 256, 91 * n % 256, n) for n in range(40)])


def programs_of(model: type[nn.Module] = Made) -> list[dict[str, Any]]:
    """The programs of a recording, as JSON."""
    _, plan = zeta.record(model)
    return [entry.initializer.to_json() for entry in plan if isinstance(entry.initializer, Program)]


def computed(content: Any) -> object:
    """Read one program, and compute what is accepted."""
    program = Initializer.from_json(content)
    if not isinstance(program, Program):
        return repr(program)
    again = Initializer.from_json(json.loads(json.dumps(program.to_json())))
    assert repr(again) == repr(program)
    if program.steps[-1].numel > 2**20:
        return str(program)  # for a model that large
    value = programs.value(program, name="x", seed=0)
    assert (tuple(value.shape), value.dtype) == program.steps[-1].type
    return str(program)
