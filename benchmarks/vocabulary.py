"""Grow a vocabulary, beside transformers' ``resize_token_embeddings``: are new rows distinct, what becomes of the loss.

    python -m benchmarks.vocabulary [--steps 300] [--repeats 3] [--json FILE]

A small GPT-2 is trained on the help texts that Python ships, with a byte-level vocabulary of 2,000 tokens that the
package tokenizers makes of them. Then it gets 256 more tokens, and the loss on texts that it was not trained on is
measured again. Time and memory are those of a tied table of 32,000 x 4,096 in fp32 that gets 304 rows; each way in a
process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import zeta
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
    """Seconds, and MiB above the peak before, of one way."""
    rows, width, more = LARGE
    table = torch.randn(rows, width) * 0.02
    if way.startswith("resize"):
        from transformers import GPT2Config, GPT2Model

        model = GPT2Model(GPT2Config(n_layer=0, n_embd=width, n_head=1, vocab_size=rows, n_positions=8))
        model.wte.weight = nn.Parameter(table)
        before, begin = _peak(), time.perf_counter()
        model.resize_token_embeddings(rows + more, mean_resizing="False" not in way)
        return {"seconds": time.perf_counter() - begin, "MiB": _peak() - before}
    rule = {"Rows(Mean())": Rows(Mean()), "Rows()": Rows(zeta.initializers.Normal(0.02))}[way]
    with torch.device("meta"):
        new = Large(rows + more)
    before, begin = _peak(), time.perf_counter()
    zeta.adapt_(new, {"wte.weight": table}, seed=0, grow={"wte.weight": rule})
    return {"seconds": time.perf_counter() - begin, "MiB": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(way: str) -> dict[str, float]:
    """``large`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.vocabulary", "--large", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--large")
    arguments = parser.parse_args()
    if arguments.large:
        print(json.dumps(large(arguments.large)))
        return
    batches, held = tokens(arguments.steps)
    model = trained(batches)
    result: dict[str, Any] = {"loss before": loss_of(model, held), "ways": {}}
    for way, grow in WAYS.items():
        new = grow(model)
        result["ways"][way] = {"loss": loss_of(new, held), "distance": distinctness(new)}
    names = [way for way in WAYS if way.startswith("resize")]
    names += ["Rows()", "Rows(Mean())"]
    rounds = [{way: measured(way) for way in names} for _ in range(arguments.repeats)]  # in turns
    for way in names:
        result["ways"][way] |= {key: statistics.median(one[way][key] for one in rounds) for key in ("seconds", "MiB")}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
