"""How fast values are computed on the CPU, beside torch, NumPy and JAX on the same memory.

``make bench`` runs everything and writes ``build/bench/cpu.json``; ``python -m benchmarks.cpu uniform normal`` some.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from torch import Tensor, nn

import zeta
from benchmarks.timing import Figures, medians
from examples.gpt import gpt2
from zeta import Rule, Rules
from zeta.compute.sampling import Request, fill_
from zeta.compute.stream.regions import Region
from zeta.initializers import Initializer, Normal, Orthogonal, TruncatedNormal, Uniform, Zeros
from zeta.utils import init_kaiming_normal_, init_zero_

MEBI: Final = 2**20
ELEMENTS: Final = 32 * MEBI
ROUNDS: Final = 15

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
# at least so many times torch's speed, and so much of fill_'s
TARGETS: Final = {"uniform": (8, 0.7), "normal": (6, 0.3), "truncated normal, 2 sigma": (90, 0.3)}


def fill(initializer: Initializer, out: Tensor) -> None:
    """Write an initializer's values to a tensor, all of it."""
    fill_([Request(initializer=initializer, keys=(1,), region=Region.whole(out.shape), outs=(out,))])


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch, and so zeta, use ``number`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def laws(figures: Figures) -> None:
    """fp32, 32 Mi elements, against torch.nn.init, and against ``fill_``, which only writes: one rival at a time."""
    out = torch.empty(ELEMENTS)
    for name, initializer in LAWS.items():
        rivals: dict[str, Callable[[], object]] = {
            "torch": lambda name=name: TORCH[name](out),  # type: ignore[misc]
            "fill_": lambda: out.fill_(1.0),
        }
        seconds, ratios = {}, {}
        for rival, run in rivals.items():
            found = medians({"zeta": lambda i=initializer: fill(i, out), rival: run}, ROUNDS)  # type: ignore[misc]
            seconds |= {f"zeta beside {rival}": found["zeta"], rival: found[rival]}
            ratios[rival] = found[rival] / found["zeta"]
        figures.add(f"{name}, fp32", seconds, ratios, dict(zip(rivals, TARGETS[name], strict=True)))


def dtypes(figures: Figures) -> None:
    """Other dtypes against fp32: half the bytes must not take longer."""
    for name, initializer in LAWS.items():
        outs = {dtype: torch.empty(ELEMENTS, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
        seconds = medians(
            {str(dtype)[6:]: lambda i=initializer, o=out: fill(i, o) for dtype, out in outs.items()}, ROUNDS
        )
        ratios = {dtype: seconds["float32"] / seconds[dtype] for dtype in ("bfloat16", "float16")}
        figures.add(f"{name}, fp32 time over that of", seconds, ratios, {"bfloat16": 1.0})


def scaling(figures: Figures) -> None:
    """Two threads against one."""
    out = torch.empty(ELEMENTS)

    def on(number: int, initializer: Initializer) -> None:
        with threads(number):
            fill(initializer, out)

    for name, initializer in LAWS.items():
        runs = {f"{number} thread(s)": lambda n=number, i=initializer: on(n, i) for number in (1, 2)}
        seconds = medians(runs, ROUNDS)
        figures.add(
            f"{name}, scaling",
            seconds,
            {"on 2 threads": seconds["1 thread(s)"] / seconds["2 thread(s)"]},
            {"on 2 threads": 1.8},
        )


def regions(figures: Figures) -> None:
    """Column shards of a row-major weight, as in tensor parallelism, against a run of as many elements."""
    shape, parts = (8192, 4096), 8
    width = shape[1] // parts
    shard, run = torch.empty(shape[0], width), torch.empty(shape[0] * width)
    columns = Region(shape=shape, offsets=(0, width), sizes=(shape[0], width))
    law = LAWS["normal"]
    seconds = medians(
        {
            "columns": lambda: fill_([Request(initializer=law, keys=(1,), region=columns, outs=(shard,))]),
            "run": lambda: fill(law, run),
        },
        ROUNDS,
    )
    figures.add("normal, one of 8 column shards", seconds, {"run": seconds["run"] / seconds["columns"]}, {"run": 0.5})


_RANK: Final = """
import time, torch, zeta
from benchmarks.timing import peak
from zeta.initializers import Normal
from zeta.compute.stream.regions import Region
from zeta.compute.sampling import sample
torch.set_num_threads(1)
shape, parts, dim, rank = {shape}, {parts}, {dim}, 3
sizes = tuple(size // (parts if number == dim else 1) for number, size in enumerate(shape))
offsets = tuple(rank * size if number == dim else 0 for number, size in enumerate(sizes))
region = Region(shape=shape, offsets=offsets, sizes=sizes)
def by_region():
    return sample(Normal(0.02), key=1, region=region)
def by_slicing():
    return sample(Normal(0.02), key=1, region=Region.whole(shape))[region.slices].clone()
def by_torch():
    return torch.nn.init.normal_(torch.empty(shape), 0.0, 0.02)[region.slices].clone()
sample(Normal(0.02), key=1, region=Region.whole((64,)))
before = peak()
begin = time.perf_counter()
shard = {how}()
seconds = time.perf_counter() - begin
print(seconds, peak() - before)
"""


def ranks(figures: Figures) -> None:
    """One of 8 ranks on one thread: its part of a weight of 1 GiB by region, or the whole and then a slice."""
    for name, dim in (("rows", 0), ("columns", 1)):
        seconds, mebibytes = {}, {}
        for how in ("by_region", "by_slicing", "by_torch"):
            runs = []
            for _ in range(3):
                code = _RANK.format(shape=(16384, 16384), parts=8, dim=dim, how=how)
                done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
                runs.append(tuple(map(float, done.stdout.split())))
            seconds[how], mebibytes[how] = (statistics.median(values) for values in zip(*runs, strict=True))
        others = ("by_slicing", "by_torch")
        ratios = {how: seconds[how] / seconds["by_region"] for how in others}
        ratios |= {f"memory, {how}": mebibytes[how] / mebibytes["by_region"] for how in others}
        figures.add(f"{name} of one of 8 ranks, 128 MiB of 1 GiB", seconds, ratios, {"by_slicing": 4.0})


def orthogonal(figures: Figures) -> None:
    """A 2048 x 2048 orthogonal matrix."""
    out = torch.empty(2048, 2048)
    axes = zeta.Axes(fan_in=(1,), fan_out=(0,))
    request = Request(initializer=Orthogonal(), keys=(1,), region=Region.whole(out.shape), outs=(out,), axes=axes)
    seconds = medians({"zeta": lambda: fill_([request]), "torch": lambda: nn.init.orthogonal_(out)}, ROUNDS)
    figures.add("orthogonal, 2048 x 2048", seconds, {"torch": seconds["torch"] / seconds["zeta"]}, {"torch": 2.0})


def peers(figures: Figures) -> None:
    """NumPy's and JAX's counter-based generators, where they are installed."""
    out = torch.empty(ELEMENTS)
    contestants: dict[str, dict[str, Callable[[], object]]] = {name: {} for name in LAWS}
    if importlib.util.find_spec("numpy"):
        import numpy

        array, generator = out.numpy(), numpy.random.Generator(numpy.random.Philox(1))
        contestants["uniform"]["numpy"] = lambda: generator.random(dtype=numpy.float32, out=array)
        contestants["normal"]["numpy"] = lambda: generator.standard_normal(dtype=numpy.float32, out=array)
    if importlib.util.find_spec("jax"):
        import jax

        shape, key = (ELEMENTS,), jax.random.key(1)
        draws = {
            "uniform": jax.jit(lambda key: jax.random.uniform(key, shape)),
            "normal": jax.jit(lambda key: jax.random.normal(key, shape)),
            "truncated normal, 2 sigma": jax.jit(lambda key: jax.random.truncated_normal(key, -2.0, 2.0, shape)),
        }
        for name, draw in draws.items():
            contestants[name]["jax"] = lambda draw=draw: draw(key).block_until_ready()  # type: ignore[misc]
    for name, initializer in LAWS.items():
        for peer, run in contestants[name].items():
            seconds = medians({"zeta": lambda i=initializer: fill(i, out), peer: run}, 5)  # type: ignore[misc]
            figures.add(f"{name}, fp32", seconds, {peer: seconds[peer] / seconds["zeta"]})


def model(figures: Figures) -> None:
    """GPT-2 of 1.5 billion parameters: the recipe with its report, against the same std by torch.nn.init."""
    with torch.device("meta"):
        network = gpt2(n_layer=48, n_embd=1600, n_head=25)
    network = network.to_empty(device="cpu")
    network.lm_head.weight = network.wte.weight
    plan = zeta.plan(network, "gpt2")
    stds = {entry.name: entry.std or 0.0 for entry in plan}
    means = {entry.name: entry.mean or 0.0 for entry in plan}

    def by_torch() -> None:
        for name, parameter in network.named_parameters():
            if stds[name]:
                nn.init.normal_(parameter, means[name], stds[name])
            else:
                nn.init.constant_(parameter, means[name])

    seconds = medians({"zeta": lambda: zeta.init_(network, "gpt2", seed=0), "torch": by_torch}, 3)
    count = sum(parameter.numel() for parameter in network.parameters())
    figures.add(f"GPT-2, {count / 1e9:.2f} billion", seconds, {"torch": seconds["torch"] / seconds["zeta"]})


def tiny(figures: Figures) -> None:
    """What each parameter costs, however small it is."""
    layers = 5000
    network = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
    rules = Rules([Rule("*.weight", Normal(STD)), Rule("*.bias", Zeros())])
    plan = zeta.plan(network, rules)
    law = LAWS["normal"]
    weights = [layer.weight.detach() for layer in network]

    def by_torch() -> None:
        for layer in network:
            nn.init.normal_(layer.weight, 0.0, STD)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    seconds = medians(
        {
            "zeta.init_": lambda: zeta.init_(network, rules, seed=0),
            "zeta.apply_": lambda: zeta.apply_(network, plan, seed=0),
            "kernels": lambda: fill_(
                [Request(initializer=law, keys=[1] * layers, region=Region.whole(weights[0].shape), outs=weights)]
            ),
            "torch": by_torch,
        },
        ROUNDS,
    )
    ratios = {name: seconds[name] / seconds["torch"] for name in ("zeta.init_", "zeta.apply_")}
    ratios["kernels"] = 2 * seconds["kernels"] / seconds["torch"]  # half as many parameters
    figures.add("10,000 parameters, time over torch's", seconds, ratios, {"zeta.apply_": -3.0, "zeta.init_": -5.0})


def calls(figures: Figures) -> None:
    """One small layer, many times: what a call costs beside its values."""
    layer = nn.Linear(10, 5)

    def repeated(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(500):
                call()

        return run

    def zeros() -> None:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)

    def kaiming() -> None:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)

    for name, ours, theirs in (
        ("init_zero_", lambda: init_zero_(layer), zeros),
        ("init_kaiming_normal_", lambda: init_kaiming_normal_(layer), kaiming),
    ):
        with threads(1):
            seconds = medians({"zeta": repeated(ours), "torch": repeated(theirs)}, ROUNDS)
        figures.add(
            f"{name} of one Linear(10, 5), time over torch's",
            seconds,
            {"torch": seconds["zeta"] / seconds["torch"]},
            {"torch": -9.0},
            amounts={"us zeta": seconds["zeta"] / 500 * 1e6},
        )


_IMPORT: Final = """
import time, torch, torch.nn.utils.parametrizations
begin = time.perf_counter()
{statement}
print(time.perf_counter() - begin)
"""


def imports(figures: Figures) -> None:
    """What an import of zeta adds to that of torch, and what the command line's help takes, in milliseconds."""
    # an installed package has its bytecode, which this variable would keep from being written
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def imported(statement: str) -> float:
        program = [sys.executable, "-c", _IMPORT.format(statement=statement)]
        done = subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
        return float(done.stdout) * 1e3

    def helped() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "zeta", "--help"], check=True, capture_output=True, env=environment)
        return (time.perf_counter() - begin) * 1e3

    for name, measure, goal in (
        ("import zeta, after torch", lambda: imported("import zeta"), 60.0),
        ("from zeta.utils import init_zero_, after torch", lambda: imported("from zeta.utils import init_zero_"), 30.0),
        ("zeta --help", helped, 400.0),
    ):
        measure()  # writes the bytecode
        taken = statistics.median(measure() for _ in range(ROUNDS))
        figures.add(name, {}, {}, {"ms": -goal}, amounts={"ms": taken})


_PEAK: Final = """
import torch, zeta
from benchmarks.timing import peak
from zeta import Rule, Rules
from zeta.initializers import Normal
model = torch.nn.ParameterDict({{"w": torch.nn.Parameter(torch.empty({elements}))}})
with torch.no_grad():
    model["w"].fill_(1.0)
zeta.init_(torch.nn.Linear(64, 64), Rules([Rule("*", Normal(0.02))]))
before = peak()
zeta.init_(model, Rules([Rule("*", Normal(0.02))]))
print(peak() - before)
"""


def memory(figures: Figures) -> None:
    """How far the peak of resident memory rises above the model's own, in MiB."""
    code = _PEAK.format(elements=8 * ELEMENTS)
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    amounts = {"MiB": float(run.stdout)}
    figures.add("resident memory above a model of 1 GiB", {}, {}, {"MiB": -64}, amounts=amounts)


def health(figures: Figures) -> None:
    """What the fast health check costs, over one forward and backward pass of the same model and batch."""
    network = gpt2(n_layer=6, n_embd=512, n_head=8, vocab_size=16384)
    zeta.init_(network, "gpt2", seed=0)
    tokens = torch.arange(4 * 256).reshape(4, 256) * 7919 % 16384

    def both() -> None:
        logits = network(tokens)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        network.zero_grad()

    seconds = medians({"zeta.check": lambda: zeta.check(network, tokens), "forward and backward": both}, 5)
    count = sum(parameter.numel() for parameter in network.parameters())
    figures.add(
        f"fast check of {count / 1e6:.0f} million parameters, time over a forward and backward pass",
        seconds,
        {"forward and backward": seconds["zeta.check"] / seconds["forward and backward"]},
        {"forward and backward": -2.5},
    )


PARTS: Final = {
    part.__name__: part
    for part in (laws, dtypes, scaling, regions, ranks, orthogonal, peers, model, tiny, calls, imports, memory, health)
}


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"some of: {', '.join(PARTS)}; all by default")] = None,
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("build/bench/cpu.json"),
) -> None:
    """Measure, print a table, write JSON."""
    figures = Figures()
    for name in parts or PARTS:
        PARTS[name](figures)
    figures.write(out)
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
