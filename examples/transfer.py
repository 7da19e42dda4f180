"""Does the best learning rate of a small model stay the best one when the model grows?

Sweeps the learning rate of Adam over widths and depths of a residual MLP and a small GPT, under the standard
parametrization (``sp``), muP and CompleteP, each relative to the smallest size, and draws loss against learning rate::

    python examples/transfer.py --out build/transfer                 # everything: about two hours on two cores
    python examples/transfer.py --out build/transfer --quick         # two sizes, one seed: a minute

A run that stops goes on where it was. The MLP learns classes that a fixed random network gives to random inputs; the
GPT learns which symbol follows which in a random Markov chain. The pictures need matplotlib.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.scaling import family

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.gpt import GPT, GPTConfig

BASE: Final = {"width": 64, "depth": 2}
WIDTHS: Final = (64, 128, 256, 512, 1024)
DEPTHS: Final = (2, 4, 8, 16, 32)
#: over depth alone, muP is the standard parametrization
SCHEMES: Final = {"width": ("sp", "mup", "completep"), "depth": ("sp", "completep")}
SEEDS: Final = 3
#: widths of the GPT from which a run takes most of a minute
EXPENSIVE: Final = 512
#: how many symbols the GPT knows
SYMBOLS: Final = 32
#: the last steps, whose mean loss is the result
LAST: Final = 10


class ResidualMlp(nn.Module):
    """Residual blocks of two layers, each behind a norm: (B, 32) to (B, 10)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.input = nn.Linear(32, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Score the classes."""
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def small_gpt(width: int, depth: int) -> GPT:
    """The GPT-2 of ``examples/gpt.py`` for the symbols of the chain, with heads of 32."""
    return GPT(GPTConfig(vocab_size=SYMBOLS, n_positions=32, n_embd=width, n_layer=depth, n_head=width // 32))


def classes(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 128 random inputs, with the classes that a fixed random network of one hidden layer gives them."""
    fixed, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    first, second = torch.randn(32, 64, generator=fixed) / 32**0.5, torch.randn(64, 10, generator=fixed) / 8
    while True:
        x = torch.randn(128, 32, generator=generator)
        yield x, (torch.relu(x @ first) @ second).argmax(-1)


def chains(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 4 paths of a Markov chain with fixed random transitions: 32 symbols, and the next of each."""
    fixed, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    transitions = torch.softmax(2.5 * torch.randn(SYMBOLS, SYMBOLS, generator=fixed), -1)
    while True:
        path = [torch.randint(SYMBOLS, (4,), generator=generator)]
        for _ in range(32):
            path.append(torch.multinomial(transitions[path[-1]], 1, generator=generator)[:, 0])
        symbols = torch.stack(path, 1)
        yield symbols[:, :-1], symbols[:, 1:]


@dataclass(frozen=True, kw_only=True)
class Net:
    """A kind of network: how it is built and initialized, its data, and the learning rates that are tried."""

    build: Callable[..., nn.Module]
    init: str | None
    data: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    rates: tuple[float, ...]
    steps: int


NETS: Final = {
    "mlp": Net(build=ResidualMlp, init=None, data=classes, rates=tuple(2.0**n for n in range(-13, -4)), steps=100),
    "gpt": Net(build=small_gpt, init="gpt2", data=chains, rates=tuple(2.0**n for n in range(-13, -5)), steps=50),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: what was trained, and how."""

    net: str
    axis: str
    scheme: str
    size: int
    seed: int
    rate: float


def trained(run: Run) -> float:
    """The mean loss of the last steps; infinite if it is not finite, or ends above where it began."""
    net, losses = NETS[run.net], list[float]()
    sizes = family(net.build, BASE, run.axis, run.scheme, lr=run.rate, seed=run.seed, init=net.init)
    model, groups = sizes(run.size)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True)
    for x, y in itertools.islice(net.data(run.seed), net.steps):
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        losses.append(loss.item())
        if not math.isfinite(losses[-1]) or losses[-1] > 3 * losses[0]:
            return math.inf
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    last = statistics.fmean(losses[-LAST:])
    return last if last < losses[0] else math.inf


def runs(nets: list[str], axes: list[str], sizes: Callable[[str], tuple[int, ...]], seeds: int) -> list[Run]:
    """All runs, seed by seed; the most expensive ones come last."""
    found = [
        Run(net=net, axis=axis, scheme=scheme, size=size, seed=seed, rate=rate)
        for seed, net, axis in itertools.product(range(seeds), nets, axes)
        for size in sizes(axis)
        for scheme, rate in itertools.product(SCHEMES[axis], NETS[net].rates)
    ]
    return sorted(found, key=lambda run: run.net == "gpt" and run.axis == "width" and run.size >= EXPENSIVE)


def same_at_base(run: Run) -> Run:
    """At the base, all schemes and axes are one run."""
    if run.size != BASE[run.axis]:
        return run
    return Run(net=run.net, axis="width", scheme="sp", size=BASE["width"], seed=run.seed, rate=run.rate)


Losses = dict[str, dict[str, dict[str, float | None]]]


def group(run: Run) -> str:
    """The name of the runs that differ in rate and seed alone."""
    return f"{run.net} {run.axis} {run.scheme} {run.size}"


def sweep(wanted: list[Run], file: Path, *, train: bool = True) -> dict[Run, float]:
    """The loss of each run; those that the file does not have yet are trained, and it is written after each."""
    done: Losses = json.loads(file.read_text()) if file.exists() else {}
    found: dict[Run, float] = {}
    for run in dict.fromkeys(map(same_at_base, wanted)):
        seeds = done.setdefault(group(run), {}).setdefault(f"{math.log2(run.rate):g}", {})
        if str(run.seed) not in seeds:
            if not train:
                continue
            loss = trained(run)
            seeds[str(run.seed)] = round(loss, 4) if math.isfinite(loss) else None
            part = file.with_suffix(".part")
            part.write_text(as_lines(done), encoding="utf-8")
            part.replace(file)
            print(f"{run} {loss:.4f}", flush=True)
        loss_or_none = seeds[str(run.seed)]
        found[run] = math.inf if loss_or_none is None else loss_or_none
    return found


def as_lines(done: Losses) -> str:
    """JSON with a line for each group."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(rates)}" for name, rates in done.items())
    return f"{{\n{lines}\n}}\n"


@dataclass(frozen=True)
class Curve:
    """Loss over learning rate: the mean over the seeds that all rates have."""

    losses: dict[float, float]
    seeds: int

    @property
    def best(self) -> float:
        """The rate of the least loss."""
        return min(self.losses, key=self.losses.__getitem__)


Curves = dict[tuple[str, str, str], dict[int, Curve]]


def curves(wanted: list[Run], done: dict[Run, float]) -> Curves:
    """By net, axis and scheme, and by size, of the sizes with a loss for each rate."""
    losses: dict[tuple[str, str, str], dict[int, dict[float, list[float]]]] = {}
    for run in wanted:
        if (trained_as := same_at_base(run)) in done:
            by_size = losses.setdefault((run.net, run.axis, run.scheme), {})
            by_size.setdefault(run.size, {}).setdefault(run.rate, []).append(done[trained_as])
    rates_of = {net: {run.rate for run in wanted if run.net == net} for net in NETS}
    found: Curves = {}
    for name, by_size in losses.items():
        for size, rates in by_size.items():
            if rates.keys() == rates_of[name[0]]:
                seeds = min(map(len, rates.values()))
                means = {rate: statistics.fmean(each[:seeds]) for rate, each in sorted(rates.items())}
                found.setdefault(name, {})[size] = Curve(means, seeds)
    return found


def edge_of(curve: Curve) -> str:
    """Where the grid ends at the best rate: the words before it."""
    return {min(curve.losses): "at most ", max(curve.losses): "at least "}.get(curve.best, "")


def best_of(curve: Curve | None) -> str:
    """The best rate and its loss; with a word where the grid ends there."""
    if curve is None:
        return ""
    return f"{edge_of(curve)}2^{math.log2(curve.best):.0f} ({curve.losses[curve.best]:.3f})"


def table(found: Curves) -> str:
    """In Markdown: for each size, the best learning rate and its loss; and how far the best one moves."""
    lines: list[str] = []
    for net, axis in sorted(
        {name[:2] for name in found}, key=lambda name: ([*NETS].index(name[0]), name[1] != "width")
    ):
        schemes = [scheme for scheme in SCHEMES[axis] if (net, axis, scheme) in found]
        if not schemes:
            continue
        sizes = sorted({size for scheme in schemes for size in found[net, axis, scheme]})
        counts = {curve.seeds for scheme in schemes for curve in found[net, axis, scheme].values()}
        seeds = (
            f"{min(counts)} to {max(counts)} seeds"
            if len(counts) > 1
            else f"{min(counts)} seed{'s' * (min(counts) > 1)}"
        )
        lines += [
            f"| {net}, {axis}: {seeds} | " + " | ".join(map(str, sizes)) + " | moves |",
            "|---|" + "---|" * (len(sizes) + 1),
        ]
        for scheme in schemes:
            of_size = found[net, axis, scheme]
            best = [math.log2(curve.best) for curve in of_size.values()]
            cells = " | ".join(best_of(of_size.get(size)) for size in sizes)
            more = "at least " if any(map(edge_of, of_size.values())) else ""
            lines.append(f"| {scheme} | {cells} | {more}{max(best) - min(best):.0f} |")
        lines.append("")
    return "\n".join(lines)


PAGE: Final = """# The best learning rate, over width and depth

Written by `make transfer`, from [examples/transfer.py](../examples/transfer.py): Adam, {steps}, all
relative to width {width} and depth {depth}. Each cell has the best rate on a grid of factors of 2, as a power of 2,
and the mean loss of the last {last} steps there; the last column says by how many steps of the grid the best rate
moves. "At most" and "at least" say that the best rate is at the end of the grid. What a scheme does is in
[scaling.md](scaling.md).

{table}
![Loss over learning rate, a line for each size](images/transfer.svg)
"""


def page(found: Curves) -> str:
    """The page of the documentation."""
    return PAGE.format(
        steps=", ".join(f"{net.steps} steps of {name}" for name, net in NETS.items()),
        **BASE,
        last=LAST,
        table=table(found),
    )


def draw(found: Curves, file: Path) -> None:
    """A panel for each net, axis and scheme: loss over learning rate, a line for each size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "zeta", "svg.fonttype": "none"}  # the same file every time
    rows = sorted({name[:2] for name in found}, reverse=True)
    columns = list(SCHEMES["width"])
    size = (11, 2.9 * len(rows))
    figure, axes = pyplot.subplots(len(rows), len(columns), figsize=size, squeeze=False, sharey="row")
    for (net, axis), line in zip(rows, axes, strict=True):
        for scheme, panel in zip(columns, line, strict=True):
            sizes = found.get((net, axis, scheme), {})
            if not sizes:
                panel.set_axis_off()
                continue
            for number, (size_of, curve) in enumerate(sorted(sizes.items())):
                colour = pyplot.get_cmap("viridis")(number / max(len(sizes) - 1, 1) * 0.9)
                finite = {rate: loss for rate, loss in curve.losses.items() if math.isfinite(loss)}
                panel.plot(list(finite), list(finite.values()), color=colour, marker=".", label=f"{axis} {size_of}")
                panel.plot([curve.best], [curve.losses[curve.best]], color=colour, marker="o", markersize=7)
            panel.set(title=f"{net}, {axis}: {scheme}", xlabel="learning rate at the base", ylabel="loss")
            panel.set_xscale("log", base=2)
            panel.grid(alpha=0.25)
            panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    """Run the sweep, and write the results, the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/transfer"), help="the folder of the results")
    parser.add_argument("--net", choices=NETS, nargs="+", default=list(NETS))
    parser.add_argument("--axis", choices=SCHEMES, nargs="+", default=list(SCHEMES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--largest", type=int, default=max(WIDTHS), help="the largest width")
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes and one seed")
    parser.add_argument("--report", action="store_true", help="train nothing, and show what there is")
    asked = parser.parse_args()

    def sizes(axis: str) -> tuple[int, ...]:
        all_of = WIDTHS if axis == "width" else DEPTHS
        return all_of[:2] if asked.quick else tuple(size for size in all_of if size <= asked.largest)

    seeds = 1 if asked.quick else asked.seeds
    wanted = runs(asked.net, asked.axis, sizes, seeds)
    asked.out.mkdir(parents=True, exist_ok=True)
    found = curves(wanted, sweep(wanted, asked.out / "transfer.json", train=not asked.report))
    (asked.out / "transfer.md").write_text(page(found), encoding="utf-8")
    print(table(found))
    try:
        draw(found, asked.out / "transfer.svg")
    except ModuleNotFoundError as error:
        print(f"no picture: {error}; pip install matplotlib")


if __name__ == "__main__":
    main()
