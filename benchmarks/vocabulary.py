"""Grow a vocabulary, beside transformers' ``resize_token_embeddings``: are new rows distinct, what becomes of the loss.

A small GPT-2 is trained on the help texts that Python ships, with a byte-level vocabulary of 2,000 tokens that the
package tokenizers makes of them. Then it gets 256 more tokens, and the loss on texts that it was not trained on is
measured again. Time and memory are those of a tied table of 32,000 x 4,096 in fp32 that gets 304 rows; each way in a
process of its own.
"""

from __future__ import annotations

import contextlib
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from torch import Tensor, nn

import zeta
from benchmarks.timing import Figures, peak
from zeta import Mean, Rows
from zeta.initializers import Zeros

VOCABULARY, NEW, LENGTH, BATCH = 2000, 256, 64, 16
LARGE: Final = (32_000, 4096, 304)


def text() -> str:
    """The help texts that Python ships."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def tokens(steps: int) -> tuple[Tensor, Tensor]:
    """Batches for training, and others."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text()], vocab_size=VOCABULARY, show_progress=False)
    ids = torch.tensor(tokenizer.encode(text()).ids)
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    held = rows[order[: len(rows) // 10]]
    train = rows[order[len(rows) // 10 :]]
    picks = torch.randint(0, len(train), (steps, BATCH), generator=torch.Generator().manual_seed(1))
    return train[picks], held


def config(vocabulary: int) -> Any:
    """A GPT-2 of four layers."""
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=4, n_embd=128, n_head=4, vocab_size=vocabulary, n_positions=LENGTH, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip


def trained(batches: Tensor) -> Any:
    """The model after a step for each batch."""
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(config(VOCABULARY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in batches:
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def loss_of(model: Any, held: Tensor) -> float:
    """The mean loss on texts that were held back."""
    losses = [float(model(input_ids=batch, labels=batch).loss) for batch in held.split(32)]
    return statistics.fmean(losses)


def resized(model: Any, **options: Any) -> Any:
    """A copy that transformers has resized."""
    new = copy.deepcopy(model)
    new.resize_token_embeddings(VOCABULARY + NEW, **options)
    return new


def adapted(model: Any, rows: Rows) -> Any:
    """A larger model that got the values of the small one."""
    from transformers import GPT2LMHeadModel

    new, plan = zeta.record(GPT2LMHeadModel, config(VOCABULARY + NEW))
    zeta.adapt_(new, model, plan, seed=0, grow={"*wte.weight": rows})
    return new.eval()


WAYS: Final[dict[str, Callable[[Any], Any]]] = {
    "resize_token_embeddings()": resized,
    "resize_token_embeddings(mean_resizing=False)": lambda model: resized(model, mean_resizing=False),
    "Rows()": lambda model: adapted(model, Rows()),
    "Rows(Mean())": lambda model: adapted(model, Rows(Mean())),
    "Rows(Mean(noise=0.1))": lambda model: adapted(model, Rows(Mean(noise=0.1))),
    "Rows(Zeros())": lambda model: adapted(model, Rows(Zeros())),
}

#: of which time and memory are measured
LARGE_WAYS: Final = (
    "resize_token_embeddings()",
    "resize_token_embeddings(mean_resizing=False)",
    "Rows()",
    "Rows(Mean())",
)


def distinctness(model: Any) -> float:
    """The median distance of two new rows, relative to that of two old ones."""
    table = model.get_input_embeddings().weight.detach().double()
    old, new = table[:VOCABULARY], table[VOCABULARY:]
    return float(torch.pdist(new).median() / torch.pdist(old[:1000]).median())


# -- time and memory, each way in a process of its own ---------------------------------------------------------------


class Large(nn.Module):
    """One table of tokens."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(rows, LARGE[1])


def large(way: str) -> dict[str, float]:
    """Seconds and MiB of one way."""
    rows, width, more = LARGE
    table = torch.empty(rows, width).normal_(std=0.02)
    if way.startswith("resize"):
        from transformers import GPT2Config, GPT2Model

        model = GPT2Model(GPT2Config(n_layer=0, n_embd=width, n_head=1, vocab_size=rows, n_positions=8))
        model.wte.weight = nn.Parameter(table)
        with measuring() as found:
            model.resize_token_embeddings(rows + more, mean_resizing="False" not in way)
        return found
    rule = {"Rows(Mean())": Rows(Mean()), "Rows()": Rows(zeta.initializers.Normal(0.02))}[way]
    with torch.device("meta"):
        new = Large(rows + more)
    with measuring() as found:
        zeta.adapt_(new, {"wte.weight": table}, seed=0, grow={"wte.weight": rule})
    return found


@contextlib.contextmanager
def measuring() -> Iterator[dict[str, float]]:
    """Seconds, and how many MiB the peak of resident memory is above what is there before."""
    found: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
    before, begin = peak(), time.perf_counter()
    yield found
    found |= {"seconds": time.perf_counter() - begin, "MiB": peak() - before}


def measured(way: str) -> dict[str, float]:
    """``large`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.vocabulary", "--one", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main(
    steps: Annotated[int, typer.Option(help="for which the small GPT-2 is trained")] = 300,
    rounds: Annotated[int, typer.Option(help="how often time and memory are measured")] = 3,
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("build/bench/vocabulary.json"),
    one: Annotated[str | None, typer.Option(help="measure only this way's time and memory, and print JSON")] = None,
) -> None:
    """Measure all ways, print, write JSON."""
    if one is not None:
        typer.echo(json.dumps(large(one)))
        return
    batches, held = tokens(steps)
    model = trained(batches)
    runs = [{way: measured(way) for way in LARGE_WAYS} for _ in range(rounds)]  # in turns
    figures = Figures()
    figures.add("before", {}, {}, amounts={"nats": loss_of(model, held)})
    for way, grow in WAYS.items():
        new = grow(model)
        amounts = {"nats": loss_of(new, held), "distance": distinctness(new)}
        seconds = {}
        if way in LARGE_WAYS:
            seconds["32,000 x 4,096"] = statistics.median(run[way]["seconds"] for run in runs)
            amounts["MiB"] = statistics.median(run[way]["MiB"] for run in runs)
        figures.add(way, seconds, {}, amounts=amounts)
    figures.write(out)
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
