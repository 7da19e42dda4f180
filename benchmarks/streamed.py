"""What the check of a model that is larger than memory costs: seconds, resident memory, and the least that they can be.

``python -m benchmarks.streamed llama-8b`` records the model from its transformers configuration and checks it with
``streamed=True``, in a fresh process. The seconds are compared with those of the arithmetic alone: the matrix products
of one forward and backward pass, and drawing each parameter that they use twice, at the speeds that this machine has
before and after the check. Rows go to ``build/bench/streamed.json``, one for each model; others in there are kept.

Memory comes in huge pages (``THP_MEM_ALLOC_ENABLE=1``, a setting of torch): a first write to each page of 4 KiB takes
longer here than computing its values.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.timing import Figures

_LLAMA: Final = {"vocab_size": 128256, "num_key_value_heads": 8}
#: by name: the class of the configuration, what differs from its defaults, and the tokens: samples and length
MODELS: Final[dict[str, tuple[str, dict[str, Any], tuple[int, int]]]] = {
    "llama-small": (
        "LlamaConfig",
        {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8},
        (2, 8),
    ),
    "llama-8b": (
        "LlamaConfig",
        {**_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        (2, 16),
    ),
    "llama-70b": (
        "LlamaConfig",
        {**_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
        (1, 8),
    ),
    # the defaults are the published geometry; its experts run one by one, as grouped products need all of them
    "deepseek-v3": ("DeepseekV3Config", {"experts_implementation": "eager"}, (1, 2)),
}

_CHECK: Final = """
import json, os, sys, time
import torch, transformers, zeta
from benchmarks.timing import peak
from zeta.compute.values import values_of

kind, options, samples, length, layers = json.loads(sys.argv[1])
if layers:
    options["num_hidden_layers"] = layers
experts = options.pop("experts_implementation", None)
config = getattr(transformers, kind)(**options)
if experts:
    config._experts_implementation = experts
model, plan = zeta.record(transformers.AutoModelForCausalLM.from_config, config)
tokens = torch.arange(samples * length).reshape(samples, length) * 7919 % config.vocab_size
parameters = sum(parameter.numel() for parameter in model.parameters())

def speeds():
    # elements drawn and multiplications per second
    entry = max((one for one in plan if one.numel <= 2**26), key=lambda one: one.numel)
    matrix, rounds = torch.ones(1024, 1024), max(1, 2**26 // entry.numel)
    for times in (1, rounds):
        begin = time.perf_counter()
        for _ in range(times):
            for _ in values_of(entry, 0):
                pass
    drawn = time.perf_counter()
    for _ in range(50):
        matrix @ matrix
    return rounds * entry.numel / (drawn - begin), 50 * 1024**3 / (time.perf_counter() - drawn)

steps = []
def told(what, done, total):
    steps.append(done)
    if len(steps) % 50 == 0:
        took = f"{time.perf_counter() - begin:.0f} s, {peak():.0f} MiB"
        print(f"{done / total:.0%} {what} {took}", file=sys.stderr, flush=True)

first = speeds()
before, idle, begin = peak(), os.times(), time.perf_counter()
report = zeta.check(
    model, {"input_ids": tokens, "labels": tokens}, plan=plan, streamed=True, seed=0, progress=told
)
seconds, busy, after = time.perf_counter() - begin, os.times(), peak()
last = speeds()
used = sum(one.values.count for one in report.parameters if one.trainable)
print(json.dumps({
    "parameters": parameters, "used": used, "tokens": tokens.numel(), "seconds": seconds, "before": before,
    "peak": after, "processor": busy.user + busy.system - idle.user - idle.system,
    "drawn": [first[0], last[0]], "multiplied": [first[1], last[1]],
    "findings": [f"{one.rule.id} {one.severity.value} {one.parameter or one.layer or ''}" for one in report.findings],
    "loss": report.loss.value,
}))
"""


def checked(name: str, layers: int | None, tokens: tuple[int, int] | None) -> dict[str, Any]:
    """Record and check one model in a fresh process."""
    kind, options, usual = MODELS[name]
    given = json.dumps([kind, options, *(tokens or usual), layers])
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, given],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def add(figures: Figures, what: str, one: dict[str, Any], limit: float | None) -> None:
    """The row of one model."""
    drawing = 2 * one["used"] / (sum(one["drawn"]) / 2)
    products = 3 * one["used"] * one["tokens"] / (sum(one["multiplied"]) / 2)
    bound = drawing + products
    figures.add(
        what,
        {"zeta.check": one["seconds"], "the arithmetic alone": bound, "drawing twice": drawing, "products": products},
        {"the arithmetic": one["seconds"] / bound},
        {} if limit is None else {"GiB above": -limit},
        amounts={
            "billion": one["parameters"] / 1e9,
            "billion used": one["used"] / 1e9,
            "tokens": one["tokens"],
            "GiB above": (one["peak"] - one["before"]) / 1024,
            "GiB at the peak": one["peak"] / 1024,
            "s of the processor": one["processor"],
        },
    )


def main(
    models: Annotated[list[str], typer.Argument(help=f"some of: {', '.join(MODELS)}")],
    layers: Annotated[int | None, typer.Option(help="fewer, for a trial; the row is not kept")] = None,
    tokens: Annotated[tuple[int, int] | None, typer.Option(help="samples and length")] = None,
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("build/bench/streamed.json"),
) -> None:
    """Check each model, print, add its row to the JSON."""
    figures = Figures()
    for name in models:
        one = checked(name, layers, tokens)
        typer.echo(f"loss {one['loss']:.4f}; findings: {', '.join(one['findings']) or 'none'}")
        add(figures, name, one, 3.0 if name == "llama-8b" else None)
    if layers is None:
        known = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
        figures.rows[:0] = [row for row in known if row["what"] not in models]
        figures.rows.sort(key=lambda row: list(MODELS).index(row["what"]))
        figures.write(out)
        typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
