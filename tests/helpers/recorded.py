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


def compare(model: nn.Module, plan: Plan, build: Callable[[], nn.Module], builds: int = 4) -> list[str]:
    """How a materialized model differs from real constructions; nothing is expected.

    Ties, shapes and dtypes must agree, and what does not vary between real constructions must be equal, bit by bit. For
    the rest, the elements of ``builds`` seeds are held against those of as many constructions: see ``laws_differ``.
    """
    reals = []
    for number in range(builds):
        torch.manual_seed(number)
        reals.append(build())
    problems: list[str] = []
    if ties(model) != ties(reals[0]):
        problems.append(f"ties: {ties(model)} for {ties(reals[0])}")
    theirs = [_named(real) for real in reals]
    if list(_named(model)) != list(theirs[0]):
        return [*problems, f"names: {sorted(set(_named(model)) ^ set(theirs[0]))}"]
    for name, ours in _of_seeds(model, plan, builds).items():
        first, other = _named(model)[name], theirs[0][name]
        problems += [f"{name}: {text}" for text in _form_differs(first, other)]
        problems += [f"{name}: {text}" for text in _values_differ(ours, [real[name].detach() for real in theirs])]
    return problems


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _of_seeds(model: nn.Module, plan: Plan, count: int) -> dict[str, list[Tensor]]:
    """The values as they are, and those of some seeds; the model is left as it was."""
    values = {name: [tensor.detach().clone()] for name, tensor in _named(model).items()}
    for seed in range(1000, 999 + count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", zeta.ZetaNotice)
            zeta.apply_(model, plan, seed=seed)
        for name, tensor in _named(model).items():
            values[name].append(tensor.detach().clone())
    with torch.no_grad():
        for name, tensor in _named(model).items():
            tensor.copy_(values[name][0])
    return values


def _form_differs(ours: Tensor, theirs: Tensor) -> list[str]:
    if (ours.shape, ours.dtype, ours.stride()) != (theirs.shape, theirs.dtype, theirs.stride()):
        return [f"{tuple(ours.shape)} {ours.dtype} for {tuple(theirs.shape)} {theirs.dtype}"]
    if ours.requires_grad != theirs.requires_grad or type(ours) is not type(theirs):
        return ["requires_grad or class differ"]
    return []


def _values_differ(ours: list[Tensor], theirs: list[Tensor]) -> list[str]:
    first = theirs[0]
    if all(torch.equal(first, other) for other in theirs[1:]):
        wrong = [other for other in ours if not torch.equal(first, other)]
        return [f"is constant, and differs by up to {(wrong[0] - first).abs().max()}"] if wrong else []
    return laws_differ(*(torch.cat([one.double().flatten() for one in side]) for side in (ours, theirs)))


def laws_differ(x: Tensor, y: Tensor) -> list[str]:
    """How two samples of the same size differ, if they are not of one law: by mean, spread, shape or range.

    Moments agree within 6 standard errors, estimated from the values themselves: a wrong std of n elements is found
    from a deviation of 8.5/sqrt(2n) on, 4 % at 20,000. The distribution functions agree within what Smirnov's test
    exceeds once in 1e11. Of two equal samples of one law, k values lie beyond all of the other's with a probability of
    2^-k: more than 36 are another range.
    """
    found: list[str] = []
    mean, std = float(y.mean()), float(y.std())
    if x.numel() >= 128:
        for power, name in ((1, "mean"), (2, "variance"), (4, "fourth moment")):
            a, b = ((x - mean) / std) ** power, ((y - mean) / std) ** power
            error = math.sqrt(float(a.var()) / a.numel() + float(b.var()) / b.numel())
            deviation = abs(float(a.mean() - b.mean()))
            if deviation > 6 * error + 1e-6:
                found.append(f"{name} deviates by {deviation / max(error, 1e-30):.1f} standard errors")
    pooled = torch.cat([x, y]).sort().values
    parts = [torch.searchsorted(side.sort().values, pooled, right=True) / side.numel() for side in (x, y)]
    distance = float((parts[0] - parts[1]).abs().max()) * math.sqrt(x.numel() / 2)
    if distance > 3.6:
        found.append(f"the distribution functions are {distance:.1f} apart")
    for one, other, name in ((x, y, "ours"), (y, x, "theirs")):
        beyond = max(int((one < other.min()).sum()), int((one > other.max()).sum()))
        if beyond > 36:
            found.append(f"{beyond} of {name} lie beyond all others")
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
