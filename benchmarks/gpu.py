"""How fast values are computed on an NVIDIA GPU, beside torch on the same memory.

``python -m benchmarks.gpu`` writes ``build/bench/gpu.json``. Where there is no GPU, it says so and ends.
"""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import zeta
from benchmarks.timing import Figures, machine
from zeta.compute.sampling import Request, fill_
from zeta.compute.stream import kernels
from zeta.compute.stream.regions import Region
from zeta.initializers import Initializer, Normal, Orthogonal, TruncatedNormal, Uniform

ELEMENTS: Final = 2**28  # 1 GiB of fp32: far more than caches hold, and long beside a launch
SMALL: Final = 2**12
ROUNDS: Final = 21

STD: Final = 0.02
LAWS: Final[dict[str, Initializer]] = {
    "uniform": Uniform(-0.05, 0.05),
    "normal": Normal(STD),
    "truncated normal, 2 sigma": TruncatedNormal(STD),
}
TORCH: Final[dict[str, Callable[[Tensor], object]]] = {
    "uniform": lambda out: nn.init.uniform_(out, -0.05, 0.05),
    "normal": lambda out: nn.init.normal_(out, 0.0, STD),
    "truncated normal, 2 sigma": lambda out: nn.init.trunc_normal_(out, 0.0, STD, -2 * STD, 2 * STD),
}


def accelerator() -> dict[str, Any]:
    """What the figures were taken on, beside the machine."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "memory GiB": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "triton": importlib.import_module("triton").__version__,
        "gpu backend": kernels.backend("cuda").name,
    }


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Run all in turns, ``rounds`` times after two that do not count; median seconds of each between CUDA events."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-2, rounds):
        for name, run in contestants.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            if number >= 0:
                seconds[name].append(begin.elapsed_time(end) / 1e3)
    return {name: statistics.median(times) for name, times in seconds.items()}


def fill(initializer: Initializer, out: Tensor, region: Region | None = None) -> None:
    """Write an initializer's values to a tensor: those of a region, by default of a tensor of its shape."""
    fill_([Request(initializer=initializer, keys=(1,), region=region or Region.whole(out.shape), outs=(out,))])


def laws(figures: Figures) -> None:
    """Each dtype against torch.nn.init, and against ``fill_``, which only writes: the bandwidth of the memory."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        out = torch.empty(ELEMENTS, dtype=dtype, device="cuda")
        for name, initializer in LAWS.items():
            seconds = medians(
                {
                    "zeta": lambda i=initializer, o=out: fill(i, o),  # type: ignore[misc]
                    "fill_": lambda o=out: o.fill_(1.0),  # type: ignore[misc]
                    "torch": lambda name=name, o=out: TORCH[name](o),  # type: ignore[misc]
                }
            )
            written = out.numel() * out.element_size() / seconds["zeta"] / 1e9
            ratios = {other: seconds[other] / seconds["zeta"] for other in ("torch", "fill_")}
            figures.add(f"{name}, {str(dtype).removeprefix('torch.')}, {written:.0f} GB/s", seconds, ratios)


def regions(figures: Figures) -> None:
    """Column shards, an unaligned run and a transposed weight, against a run of as many elements."""
    law, side = LAWS["normal"], 16384
    run = torch.empty(side * side // 8, device="cuda")
    shard, turned = torch.empty(side, side // 8, device="cuda"), torch.empty(side // 8, side, device="cuda").t()
    columns = Region(shape=(side, side), offsets=(0, side // 8), sizes=(side, side // 8))
    odd = Region(shape=(2**40,), offsets=(3,), sizes=(run.numel(),))
    seconds = medians(
        {
            "run": lambda: fill(law, run),
            "one of 8 column shards": lambda: fill(law, shard, columns),
            "unaligned run": lambda: fill(law, run, odd),
            "transposed": lambda: fill(law, turned),
        }
    )
    ratios = {name: seconds["run"] / taken for name, taken in seconds.items() if name != "run"}
    figures.add("normal, speed of a run's", seconds, ratios)


def small(figures: Figures) -> None:
    """What a launch costs."""
    out = torch.empty(SMALL, device="cuda")
    seconds = medians({"zeta": lambda: fill(LAWS["normal"], out), "torch": lambda: TORCH["normal"](out)}, 200)
    figures.add(f"normal, {SMALL} elements", seconds, {"torch": seconds["torch"] / seconds["zeta"]})


def orthogonal(figures: Figures) -> None:
    """A 2048 x 2048 orthogonal matrix, which zeta computes on the CPU."""
    out = torch.empty(2048, 2048, device="cuda")
    axes = zeta.Axes(fan_in=(1,), fan_out=(0,))
    request = Request(initializer=Orthogonal(), keys=(1,), region=Region.whole(out.shape), outs=(out,), axes=axes)
    seconds = medians({"zeta": lambda: fill_([request]), "torch": lambda: nn.init.orthogonal_(out)}, 5)
    figures.add("orthogonal, 2048 x 2048", seconds, {"torch": seconds["torch"] / seconds["zeta"]})


PARTS: Final = {part.__name__: part for part in (laws, regions, small, orthogonal)}


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"some of: {', '.join(PARTS)}; all by default")] = None,
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("build/bench/gpu.json"),
) -> None:
    """Measure, print a table, write JSON."""
    if not torch.cuda.is_available():
        typer.echo("There is no GPU here that torch can use: nothing to measure.")
        return
    figures = Figures()
    for name in parts or PARTS:
        PARTS[name](figures)
    table = figures.table()
    table.title = f"zeta on {torch.cuda.get_device_name()}, {kernels.backend('cuda').name}"
    Console().print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    described = {"machine": machine() | accelerator(), "rows": figures.rows}
    out.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
