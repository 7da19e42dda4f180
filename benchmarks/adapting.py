"""How fast a large checkpoint is adapted from folder to folder, and in how much memory, beside ``cp`` of the same one.

``make bench-adapt`` writes the starting values of a Llama of 7 billion parameters, 13.5 GB of bf16 in files of 5 GB,
and then grows its vocabulary with ``zeta adapt``, each time in a fresh process, in turns with a ``cp -r`` of the
folder. It needs 27 GB of room in ``--folder``, deletes what it writes, and writes ``build/bench/adapting.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from benchmarks.timing import Figures

_CONFIG: Final = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
_ZETA: Final = Path(sys.executable).with_name("zeta")


def run(command: Sequence[str | Path], reads: Path | None = None) -> dict[str, float]:
    """Run until the disk has what it writes: seconds, processor time, and MiB of resident memory at the peak.

    What it ``reads`` is read from the disk, and not from the cache of an earlier run.
    """
    os.sync()
    for path in () if reads is None else reads.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    process = os.posix_spawn(command[0], [*map(str, command)], os.environ, file_actions=_QUIET)
    _, status, used = os.wait4(process, 0)
    os.sync()
    seconds = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"{command} failed")
    return {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024}


_QUIET: Final = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


def size_of(folder: Path) -> int:
    """The bytes of the tensors."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main(
    layers: Annotated[int, typer.Option(help="of the Llama; 32 are 6.7 billion parameters")] = 32,
    vocab: Annotated[int, typer.Option(help="the new number of tokens")] = 32064,
    rounds: Annotated[int, typer.Option(help="how often each is measured")] = 3,
    folder: Annotated[Path, typer.Option(help="on the disk that is to be measured")] = Path("build/bench"),
    source: Annotated[Path | None, typer.Option(help="a folder that is there already, and stays")] = None,
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("build/bench/adapting.json"),
) -> None:
    """Measure in turns, print, write JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {"zeta adapt": [], "cp": [], "zeta verify": []}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        if source is None:
            source = place / "source"
            config = place / "config.json"
            config.write_text(json.dumps({**_CONFIG, "num_hidden_layers": layers}))
            run([_ZETA, "init", f"hf:{config}", "--no-check", "--max-shard-size", "5GB", "--out", source])
        adapted = [_ZETA, "adapt", source, "--grow-vocab", str(vocab), "--max-shard-size", "5GB", "--out", place / "a"]
        for number in range(rounds):
            found["zeta adapt"].append(run(adapted, source))
            if number == 0:
                found["zeta verify"].append(run([_ZETA, "verify", place / "a"], place / "a"))
            size = size_of(place / "a")
            shutil.rmtree(place / "a")
            found["cp"].append(run(["/bin/cp", "-r", source, place / "b"], source))
            copied = size_of(place / "b")
            shutil.rmtree(place / "b")
            typer.echo({name: runs[-1] for name, runs in found.items()})
    sizes = {"zeta adapt": size, "cp": copied, "zeta verify": size}

    def median(name: str, what: str = "seconds") -> float:
        return statistics.median(one[what] for one in found[name])

    speeds = {name: sizes[name] / 1e9 / median(name) for name in found}
    figures = Figures()
    figures.add(
        f"Llama of {layers} layers, {copied / 1e9:.1f} GB in bf16",
        {name: median(name) for name in found},
        {"cp": speeds["zeta adapt"] / speeds["cp"]},
        {"cp": 0.9},
        amounts={f"GB/s {name}": speed for name, speed in speeds.items()},
    )
    spent = {f"s {name}": median(name, "processor") for name in found}
    figures.add("processor time", {}, {}, amounts=spent)
    peak = {"MiB at the peak": max(one["peak"] for one in found["zeta adapt"])}
    figures.add("resident memory of zeta adapt", {}, {}, {"MiB at the peak": -2048}, amounts=peak)
    figures.rows[0]["rounds"] = {name: [one["seconds"] for one in runs] for name, runs in found.items()}
    figures.write(out)
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
