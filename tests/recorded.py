"""What the tests of recording share: a model with awkward habits, and a comparison with real constructions."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.init import orthogonal_ as renamed_orthogonal_
from torch.nn.init import trunc_normal_ as renamed_trunc_normal_

import zeta
from zeta import Plan, Report


def recorded(factory: Callable[..., Any], *args: Any, seed: int = 0, **kwargs: Any) -> tuple[Any, Plan, Report]:
    """Record and materialize."""
    model, plan = zeta.record(factory, *args, **kwargs)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zeta.ZetaNotice)
        return model, plan, zeta.materialize_(model, plan, seed=seed)


def ties(model: nn.Module) -> list[list[str]]:
    """The names of every tensor that has several."""
    by_tensor: dict[int, list[str]] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            by_tensor.setdefault(id(tensor), []).append(name)
    return [names for names in by_tensor.values() if len(names) > 1]


def moments(values: Tensor) -> tuple[float, float, float]:
    """Mean, std and kurtosis."""
    x = values.detach().double().flatten()
    std = float(x.std(correction=0))
    kurtosis = float(((x - x.mean()) ** 4).mean()) / std**4 if std > 0 else 0.0
    return float(x.mean()), std, kurtosis


def compare(model: nn.Module, plan: Plan, build: Callable[[], nn.Module], builds: int = 3) -> list[str]:
    """How a materialized model differs from real constructions; nothing is expected.

    Ties, shapes and dtypes must agree, and what does not vary between two real constructions must be equal, bit by bit.
    For the rest mean, std and kurtosis of all of a tensor's elements must agree within 6 standard errors, these
    estimated from the values themselves, and the range within what the same number of draws would explore. A wrong std
    of a tensor of n elements is found from a deviation of 6/sqrt(2n) on: 3 % at 20,000 elements.
    """
    reals = []
    for number in range(builds):
        torch.manual_seed(number)
        reals.append(build())
    problems: list[str] = []
    if ties(model) != ties(reals[0]):
        problems.append(f"ties: {ties(model)} for {ties(reals[0])}")
    for kind in ("named_parameters", "named_buffers"):
        ours = dict(getattr(model, kind)())
        theirs = [dict(getattr(real, kind)()) for real in reals]
        if list(ours) != list(theirs[0]):
            return [*problems, f"{kind}: {sorted(set(ours) ^ set(theirs[0]))}"]
        for name, tensor in ours.items():
            problems += [f"{name}: {text}" for text in differences(tensor, [real[name] for real in theirs])]
    return problems


def differences(ours: Tensor, theirs: list[Tensor]) -> list[str]:
    first = theirs[0]
    if (ours.shape, ours.dtype, ours.stride()) != (first.shape, first.dtype, first.stride()):
        return [f"{tuple(ours.shape)} {ours.dtype} for {tuple(first.shape)} {first.dtype}"]
    if ours.requires_grad != first.requires_grad or type(ours) is not type(first):
        return ["requires_grad or class differ"]
    if all(torch.equal(first, other) for other in theirs[1:]):
        return [] if torch.equal(ours, first) else [f"is constant, and differs by up to {(ours - first).abs().max()}"]
    pooled = torch.cat([other.detach().double().flatten() for other in theirs])
    x = ours.detach().double().flatten()
    if x.numel() < 32:
        low, high = float(pooled.min()), float(pooled.max())
        spread = max(high - low, 1e-12)
        inside = low - 4 * spread <= float(x.min()) and float(x.max()) <= high + 4 * spread
        return [] if inside else [f"leaves the range {low}..{high}"]
    return _moments_differ(x, pooled)


def _moments_differ(x: Tensor, pooled: Tensor) -> list[str]:
    found: list[str] = []
    mean, std = float(pooled.mean()), float(pooled.std())
    for power, name in ((1, "mean"), (2, "variance"), (4, "fourth moment")):
        a, b = ((x - mean) / std) ** power, ((pooled - mean) / std) ** power
        error = math.sqrt(float(a.var()) / a.numel() + float(b.var()) / b.numel())
        deviation = abs(float(a.mean() - b.mean()))
        if deviation > 6 * error + 1e-6:
            found.append(f"{name} deviates by {deviation / max(error, 1e-30):.1f} standard errors")
    for ours, theirs, name in ((x.min(), pooled.min(), "smallest"), (x.max(), pooled.max(), "largest")):
        # fewer draws reach less far; more than 3 std beyond what 3 times as many reached is another law
        if abs(float(ours - theirs)) > 3 * std:
            found.append(f"{name} value {float(ours):.4g} for {float(theirs):.4g}")
    return found


class Inner(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        nn.init.normal_(self.up.weight, std=0.5)
        nn.init.normal_(self.up.weight, std=0.02)  # 1: overwritten
        with torch.no_grad():
            self.down.weight.normal_(0, 0.02).mul_(1 / math.sqrt(2 * depth))  # 2: scaled afterwards
            self.down.bias.data.zero_()  # 3: through .data


class Awkward(nn.Module):
    """Twenty habits of constructors that make a recording difficult."""

    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Inner(width, depth) for _ in range(depth)])
        self.embed = nn.Embedding(100, width, padding_idx=3)
        nn.init.normal_(self.embed.weight, std=0.02)
        with torch.no_grad():
            self.embed.weight[3].zero_()  # 4: one row
        self.head = nn.Linear(width, 100, bias=False)
        self.head.weight = self.embed.weight  # 5: tied
        self.packed = nn.Parameter(torch.empty(3 * width, width))
        for part in self.packed.chunk(3):  # 6: blocks of a packed projection
            nn.init.xavier_uniform_(part)
        self.rnn = nn.LSTM(width, width)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias_ih"):
                parameter.data[width : 2 * width].fill_(1.0)  # 7: one gate of a bias
            if name.startswith("weight_hh"):
                for gate in parameter.data.chunk(4):
                    renamed_orthogonal_(gate)  # 8: orthogonal gates, by another name
        dt = torch.exp(torch.rand(width) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # 9: the inverse of softplus
        self.A_log = nn.Parameter(torch.log(torch.arange(1, 17, dtype=torch.float32).repeat(width, 1)))  # 10
        low, high = (math.erf(bound / math.sqrt(2)) for bound in (-2, 2))
        self.timm = nn.Parameter(torch.empty(width, width))
        with torch.no_grad():  # 11: timm's truncated normal
            self.timm.uniform_(low, high).erfinv_().mul_(0.02 * math.sqrt(2.0)).add_(0.01).clamp_(-0.03, 0.05)
        self.twin = copy.deepcopy(self.layers[0])  # 12: a deep copy has the same values
        self.drop = [rate.item() for rate in torch.linspace(0, 0.1, depth)]  # 13: numbers of a tensor
        self.slopes = torch.tensor([2.0**-n for n in range(4)])  # 14: a tensor as a plain attribute
        self.tables = {"ids": [torch.arange(5), torch.eye(2)]}  # 15: tensors in containers
        table = np.outer(np.arange(6), np.ones(4)).astype(np.float32)
        self.register_buffer("numpy", torch.from_numpy(table) * 0.5)  # 16: from numpy
        pe = torch.zeros(10, width)
        position = torch.arange(10).unsqueeze(1)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
        self.register_buffer("pe", pe, persistent=False)  # 17: strided slices of a buffer
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))  # 18: infinite values
        self.transposed = nn.Parameter(torch.empty(width, 2 * width))
        renamed_trunc_normal_(self.transposed.t(), std=0.02, a=-0.04, b=0.04)  # 19: a transposed view
        self.scale = nn.Parameter(0.1 * torch.ones(width))
        self.view = self.transposed.data[:4]  # 20: a view of a parameter as a plain attribute
        if self.transposed.is_meta or self.transposed.device.type == "meta":  # 21: behaves otherwise on meta
            raise AssertionError("a recording is not a construction on meta")
        self.half = nn.Linear(width, width).to(torch.bfloat16)  # 22: drawn in fp32, kept in bf16
        self.channels = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)  # 23
