"""Which tensors dtype= casts: compared with what torch and transformers do to the same modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zeta.errors import SpecError
from zeta.initializers import Keep
from zeta.resolve.casting import cast, casting_of
from zeta.resolve.planning import plan
from zeta.resolve.slots import walk
from zeta.rules import Rule, Rules


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.gate = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(2)
        self.bare = nn.BatchNorm1d(2, affine=False)
        self.register_buffer("rates", torch.ones(3))
        self.register_buffer("ids", torch.arange(3))


def dtypes_of(model: nn.Module, dtype: torch.dtype, **named: Any) -> dict[str, torch.dtype]:
    everything = plan(model, Rules([Rule("*", Keep())]))
    return {entry.name: entry.dtype for entry in cast(everything, model, dtype, **named) if entry.dtype is dtype}


PARAMETERS = {"layer.weight", "layer.bias", "gate.weight", "gate.bias", "norm.weight", "norm.bias"}
#: torch computes these together with the scale, and refuses another dtype
STATISTICS = {"norm.running_mean", "norm.running_var"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_and_the_statistics_beside_a_scale_are_cast(dtype: torch.dtype) -> None:
    assert set(dtypes_of(Model(), dtype)) == PARAMETERS | STATISTICS
    model = Model()
    model.norm.to(dtype)
    model.norm(torch.ones(4, 2, dtype=dtype))  # the combination that is cast runs


def test_all_floating_point_buffers_on_request_are_as_module_to() -> None:
    expected = {
        name for name, tensor in Model().to(torch.float16).state_dict().items() if tensor.dtype is torch.float16
    }
    assert set(dtypes_of(Model(), torch.float16, buffers=True)) == expected


@pytest.mark.parametrize(
    ("attribute", "dtype", "kept"),
    [
        ("_keep_in_fp32_modules", torch.float16, True),
        ("_keep_in_fp32_modules", torch.bfloat16, False),
        ("_keep_in_fp32_modules_strict", torch.float16, True),
        ("_keep_in_fp32_modules_strict", torch.bfloat16, True),
        ("_keep_in_fp32_modules_strict", torch.float64, False),
    ],
)
def test_what_a_model_keeps_in_fp32(attribute: str, dtype: torch.dtype, kept: bool) -> None:
    model = Model()
    setattr(model, attribute, ["gate"])
    assert ("gate.weight" not in dtypes_of(model, dtype)) is kept
    assert "layer.weight" in dtypes_of(model, dtype)


def test_a_dtype_that_is_none_of_floating_point_is_refused() -> None:
    model = Model()
    with pytest.raises(SpecError, match="dtype must be a floating-point dtype"):
        casting_of(model, walk(model), torch.int8)
    model._keep_in_fp32_modules = 5  # type: ignore[assignment]
    with pytest.raises(SpecError, match=r"Model\._keep_in_fp32_modules must be a list of parts of names, got 5"):
        casting_of(model, walk(model), torch.float16)
