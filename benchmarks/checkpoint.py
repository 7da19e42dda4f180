"""How fast a large model's checkpoint is written, and in how much memory, beside ``dd`` on the same disk.

``make bench-save`` records a Llama of 7 billion parameters from its transformers configuration, writes its 13.5 GB of
bf16 in files of 5 GB, each time in a fresh process, and in turns with a ``dd`` of as many bytes. It needs 14 GB of room
in ``--folder``, deletes what it writes, and writes ``build/bench/checkpoint.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.timing import Figures

# Importing and recording take memory, but not the save's time.
_SAVE: Final = """
import json, os, sys, time
import torch, transformers, zeta
from benchmarks.timing import peak
from zeta.compute.values import values_of
from zeta.compute.sums import sums_of

folder, layers = sys.argv[1], int(sys.argv[2])
sizes = dict(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=32000)
config = transformers.LlamaConfig(**sizes, num_hidden_layers=layers)
begin = time.perf_counter()
model, plan = zeta.record(transformers.AutoModelForCausalLM.from_config, config)
recorded, before, idle = time.perf_counter(), peak(), os.times()
report = zeta.save(model, plan, folder, dtype=torch.bfloat16, max_shard_size="5GB")
saved, after, busy = time.perf_counter(), peak(), os.times()
for entry in plan.with_dtype(torch.bfloat16):
    for _, tile in values_of(entry, 0) if entry.persistent else ():
        sums_of(tile, 0.0)
print(json.dumps({
    "record": recorded - begin, "zeta.save": saved - recorded, "values alone": time.perf_counter() - saved,
    "user": busy.user - idle.user, "system": busy.system - idle.system, "before": before, "peak": after,
    "bytes": report.nbytes, "values": sum(item.count for item in report),
}))
"""


def save(folder: Path, layers: int) -> dict[str, Any]:
    """Record and save in a fresh process."""
    arguments = [sys.executable, "-c", _SAVE, str(folder / "model"), str(layers)]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(folder / "model")
    return dict(json.loads(done.stdout))


def dd(folder: Path, size: int) -> float:
    """Seconds that ``dd`` takes for as many zeros, until the disk has them."""
    path = folder / "zeros"
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=8M", f"count={size}", "iflag=count_bytes", "conv=fsync"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    path.unlink()
    return seconds


def settled(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run once the disk has nothing left to do."""
    os.sync()
    return run(*arguments)


def main(
    layers: Annotated[int, typer.Option(help="of the Llama; 32 are 6.7 billion parameters")] = 32,
    rounds: Annotated[int, typer.Option(help="how often each is measured")] = 3,
    folder: Annotated[Path, typer.Option(help="on the disk that is to be measured")] = Path("build/bench"),
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("build/bench/checkpoint.json"),
) -> None:
    """Measure in turns, print, write JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    saves: list[dict[str, Any]] = []
    zeros: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for _ in range(rounds):
            saves.append(settled(save, Path(place), layers))
            zeros.append(settled(dd, Path(place), saves[-1]["bytes"]))
    size = saves[0]["bytes"]
    seconds = {name: statistics.median(one[name] for one in saves) for name in ("record", "zeta.save", "values alone")}
    seconds["dd"] = statistics.median(zeros)
    figures = Figures()
    figures.add(
        f"Llama of {saves[0]['values'] / 1e9:.2f} billion, {size / 1e9:.1f} GB in bf16",
        seconds,
        {"dd": seconds["dd"] / seconds["zeta.save"]},
        {"dd": 0.9},
        amounts={f"GB/s {name}": size / 1e9 / seconds[name] for name in ("zeta.save", "dd", "values alone")},
    )
    spent = {f"s {kind}": statistics.median(one[kind] for one in saves) for kind in ("user", "system")}
    figures.add("processor time of zeta.save", {}, {}, amounts=spent)
    peaks = {"MiB at the peak": max(one["peak"] for one in saves), "MiB before": max(one["before"] for one in saves)}
    figures.add("resident memory of that process", {}, {}, {"MiB at the peak": -2048}, amounts=peaks)
    figures.rows[0]["rounds"] = {"zeta.save": [one["zeta.save"] for one in saves], "dd": zeros}
    figures.write(out)
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
