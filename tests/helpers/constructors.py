"""Constructors at random: chains of creations, draws, views, copies and writes, told as lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Instruction = tuple[int, int, int, int]
SHAPES: tuple[tuple[int, ...], ...] = ((6,), (4, 6), (2, 3, 4), (3, 1, 5), (), (8, 2), (2, 2, 3, 2))
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)

# each takes the tensors made so far and three numbers, and returns another tensor
CREATE: Sequence[Callable[[int, int, int], Tensor]] = (
    lambda a, b, c: torch.rand(SHAPES[a % len(SHAPES)], dtype=DTYPES[b % 4]),
    lambda a, b, c: torch.randn(SHAPES[a % len(SHAPES)], dtype=DTYPES[b % 4]),
    lambda a, b, c: torch.full(SHAPES[a % len(SHAPES)], (b - 3) / 2, dtype=DTYPES[c % 4]),
    lambda a, b, c: torch.arange(b % 7, b % 7 + 1 + a % 9).float() * 0.5,
    lambda a, b, c: torch.empty(SHAPES[a % len(SHAPES)], dtype=DTYPES[b % 4]).uniform_(-(c % 3) - 1.0, c % 5),
    lambda a, b, c: torch.empty(SHAPES[a % len(SHAPES)], dtype=DTYPES[b % 4]).normal_(c % 3, 0.5),
    lambda a, b, c: nn.init.trunc_normal_(torch.empty(SHAPES[a % len(SHAPES)]), 0.0, 1.0, -1.0, 2.0),
    lambda a, b, c: torch.linspace(-1, 1, 1 + a % 9),
    lambda a, b, c: torch.zeros(SHAPES[a % len(SHAPES)], dtype=DTYPES[b % 4]),
    lambda a, b, c: torch.eye(1 + a % 4, 1 + b % 4),
    lambda a, b, c: torch.randint(0, 1 + b, SHAPES[a % len(SHAPES)]).float(),
)


def _factor(n: int, a: int) -> int:
    divisors = [d for d in range(1, n + 1) if n % d == 0] or [1]
    return divisors[a % len(divisors)]


def _sliced(x: Tensor, a: int, b: int, c: int) -> Tensor:
    if not x.ndim:
        return x
    dim, index = a % x.ndim, [slice(None)] * x.ndim
    start = b % (x.shape[dim] + 1)
    index[dim] = slice(start, x.shape[dim] - c % 2, 1 + c % 3)
    return x[tuple(index)]


def _split(x: Tensor, a: int, b: int, c: int) -> Tensor:
    return x.unflatten(a % x.ndim, (_factor(x.shape[a % x.ndim], b), -1)) if x.ndim and x.numel() else x


def _flat(x: Tensor, a: int, b: int, c: int) -> Tensor:
    return x.view(-1) if x.is_contiguous() else x.reshape(-1)


VIEW: Sequence[Callable[[Tensor, int, int, int], Tensor]] = (
    lambda x, a, b, c: x.transpose(a % x.ndim, b % x.ndim) if x.ndim else x,
    lambda x, a, b, c: x.permute([(d + a) % x.ndim for d in range(x.ndim)]) if x.ndim else x,
    _sliced,
    _split,
    _flat,
    lambda x, a, b, c: x.unsqueeze(a % (x.ndim + 1)),
    lambda x, a, b, c: x.squeeze(),
    lambda x, a, b, c: x.expand(2, *x.shape),
    lambda x, a, b, c: x.select(a % x.ndim, b % x.shape[a % x.ndim]) if x.ndim and x.numel() else x,
    lambda x, a, b, c: x.chunk(1 + a % 3, b % x.ndim)[0] if x.ndim and x.numel() else x,
    lambda x, a, b, c: x.diagonal(a % 2) if x.ndim >= 2 else x,
    lambda x, a, b, c: x.unfold(a % x.ndim, 1 + b % x.shape[a % x.ndim], 1 + c % 2) if x.ndim and x.numel() else x,
    lambda x, a, b, c: x.movedim(0, -1) if x.ndim else x,
    lambda x, a, b, c: x.detach(),
)

COMPUTE: Sequence[Callable[[Tensor, Tensor, int, int, int], Tensor]] = (
    lambda x, y, a, b, c: x.clone(),
    lambda x, y, a, b, c: x.contiguous(),
    lambda x, y, a, b, c: x * ((a - 4) / 2),
    lambda x, y, a, b, c: (a % 5) - x,
    lambda x, y, a, b, c: x + (a - 4),
    lambda x, y, a, b, c: -x,
    lambda x, y, a, b, c: x / (1 + a),
    lambda x, y, a, b, c: torch.cat([x, -x], a % x.ndim) if x.ndim else x,
    lambda x, y, a, b, c: torch.stack([x, x * 0.5], a % (x.ndim + 1)),
    lambda x, y, a, b, c: x + y if x.shape == y.shape else x,
    lambda x, y, a, b, c: torch.where(x > 0, x, torch.zeros((), dtype=x.dtype)),
    lambda x, y, a, b, c: x.flip(a % x.ndim) if x.ndim else x,
    lambda x, y, a, b, c: x.roll(1 + a, b % x.ndim) if x.ndim else x,
    lambda x, y, a, b, c: x.to(DTYPES[a % 4]),
    lambda x, y, a, b, c: x.abs().add(1).log(),
    lambda x, y, a, b, c: x.clamp(-0.5, 0.75),
    lambda x, y, a, b, c: x.repeat(1 + a % 2, *[1] * x.ndim),
    lambda x, y, a, b, c: x.repeat_interleave(2, a % x.ndim) if x.ndim else x,
    lambda x, y, a, b, c: x.sum(a % x.ndim, keepdim=True) if x.ndim else x,
    lambda x, y, a, b, c: x.cumsum(a % x.ndim) if x.ndim else x,
    lambda x, y, a, b, c: x.tril() if x.ndim >= 2 else x,
    lambda x, y, a, b, c: x.exp() if a % 2 else x.sin(),
    lambda x, y, a, b, c: x.sort(-1).values if x.ndim else x,
    lambda x, y, a, b, c: torch.meshgrid(x, x, indexing="ij")[a % 2].flatten() if x.ndim == 1 else x,
    lambda x, y, a, b, c: x.pow(2),
    lambda x, y, a, b, c: x.as_strided(x.shape, x.stride(), x.storage_offset()).clone(),
)

WRITE: Sequence[Callable[[Tensor, Tensor, int, int, int], object]] = (
    lambda x, y, a, b, c: x.mul_((a - 4) / 2),
    lambda x, y, a, b, c: x.add_(a - 4),
    lambda x, y, a, b, c: x.neg_(),
    lambda x, y, a, b, c: x.zero_(),
    lambda x, y, a, b, c: x.fill_((a - 4) / 2),
    lambda x, y, a, b, c: x.normal_(0.0, 0.25 + a),
    lambda x, y, a, b, c: x.uniform_(-1.0 - a, 1.0 + b),
    lambda x, y, a, b, c: x.copy_(y) if x.shape == y.shape else x.copy_(torch.ones(x.shape) * a),
    lambda x, y, a, b, c: x.clamp_(-1.0, 1.0),
    lambda x, y, a, b, c: nn.init.trunc_normal_(x, 0.0, 0.5) if x.is_floating_point() else x,
    lambda x, y, a, b, c: x.exponential_(1.0 + a),
)


def overlaps(x: Tensor) -> bool:
    """Whether two elements share memory, by counting the places."""
    if not x.numel():
        return False
    places = torch.zeros(x.shape, dtype=torch.int64, device="cpu")
    for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
        places += (torch.arange(size, device="cpu") * stride).view(size, *[1] * (x.ndim - 1 - dim))
    return places.unique().numel() < x.numel()


class Random(nn.Module):
    """What some instructions make, as parameters, buffers and ties."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        super().__init__()
        pool = [torch.randn(4, 6)]
        with torch.no_grad():
            for code, a, b, c in instructions:
                x, y = pool[a % len(pool)], pool[b % len(pool)]
                kind, number = code % 8, code // 8
                if kind <= 1:
                    pool.append(CREATE[number % len(CREATE)](a, b, c))
                elif kind <= 3:
                    pool.append(VIEW[number % len(VIEW)](x, b, c, a // 3))
                elif kind <= 5:
                    made = COMPUTE[number % len(COMPUTE)](x, y, b, c, a // 3)
                    pool.append(made if made.numel() <= 2048 and made.ndim <= 6 else x)
                elif not overlaps(x):
                    WRITE[number % len(WRITE)](x, y, b, c, a // 3)
        for number, tensor in enumerate(pool):
            own = tensor.clone() if overlaps(tensor) or math.prod(tensor.shape) == 0 else tensor
            if own.is_floating_point() and number % 3 != 2:
                self.register_parameter(
                    f"p{number}", nn.Parameter(own.clone() if number % 2 else own.contiguous().clone())
                )
            else:
                self.register_buffer(f"b{number}", own.clone())
        if len(pool) > 4:
            self.p3_again = getattr(self, "p3", None)
