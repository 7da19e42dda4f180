"""PiSSA's decomposition side by side: zeta's, torch's two, on a matrix whose largest triples are known.

    python -m benchmarks.adapters [--page docs/guide/pissa.md] [--size 4096]

Times are those of the processor: medians of runs that take turns, and of the full decomposition one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from torch import Tensor

from benchmarks.timing import processor
from zeta.compute.low_rank import pissa

RANK: Final = 16
_ROUNDS: Final = 5
_MARKS: Final = ("<!-- benchmarks.adapters -->", "<!-- end -->")


def known(size: int) -> tuple[Tensor, Tensor]:
    """A matrix with the singular values k^(-1/2), and its best approximation of rank ``RANK``."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for _ in range(2))
    values = torch.arange(1, size + 1) ** -0.5
    return u * values @ v, u[:, :RANK] * values[:RANK] @ v[:RANK]


def low_rank(matrix: Tensor, iterations: int) -> Tensor:
    """What peft's ``pissa_niter_N`` computes."""
    torch.manual_seed(0)
    u, s, v = torch.svd_lowrank(matrix, RANK, niter=iterations)
    return u * s @ v.T


def full(matrix: Tensor) -> Tensor:
    """What peft's ``pissa`` computes."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :RANK] * s[:RANK] @ v[:RANK]


def zetas(matrix: Tensor, iterations: int) -> Tensor:
    """zeta's, in fp64."""
    b, a = pissa(matrix, RANK, 1.0, iterations=iterations)
    return b @ a


def main(page: Annotated[Path | None, typer.Option()] = None, size: Annotated[int, typer.Option()] = 4096) -> None:
    """Measure, and print or write the table."""
    matrix, truth = known(size)
    ways: dict[str, Callable[[], Tensor]] = {
        "`iterations=4`": lambda: zetas(matrix, 4),
        "`iterations=8`": lambda: zetas(matrix, 8),
        "peft's `pissa_niter_4`": lambda: low_rank(matrix, 4),
        "peft's `pissa_niter_16`": lambda: low_rank(matrix, 16),
        "peft's `pissa`": lambda: full(matrix),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, float] = {}
    for number in range(_ROUNDS):
        for name, way in ways.items():
            if number == 0 or not name.endswith("`pissa`"):
                begin = time.process_time()
                found = way()
                seconds[name].append(time.process_time() - begin)
                errors[name] = float((found - truth).norm() / truth.norm())
    rows = [f"| {name} | {statistics.median(seconds[name]):.2g} s | {errors[name]:.0e} |" for name in ways]
    lines = [
        f"{size} x {size}, fp32, singular values k^(-1/2), r = {RANK}, {torch.get_num_threads()} threads of "
        f"{processor()}:",
        "",
        "| | processor time | relative error of s B A |",
        "|---|---|---|",
        *rows,
    ]
    text = "\n".join(lines)
    if page is None:
        print(text)
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(_MARKS[0])
    page.write_text(f"{before}{_MARKS[0]}\n{text}\n{_MARKS[1]}{rest.partition(_MARKS[1])[2]}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
