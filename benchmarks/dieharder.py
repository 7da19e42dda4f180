"""Put the stream's words through dieharder: ``python benchmarks/dieharder.py plain seeds --minutes 30``.

Needs the program ``dieharder`` (Debian and Ubuntu: ``apt install dieharder``). It reads the words from a pipe, as many
as its tests ask for. Good random numbers give a WEAK verdict, a p-value outside [0.005, 0.995], in one of a hundred
tests, if dieharder's own p-values are right: compare with ``control``. ``--resolve`` lets a test go on with more
samples until it passes or fails (dieharder's ``-Y 1``).
"""

from __future__ import annotations

import importlib.util
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from zeta.compute.stream.random import parameter_key, words_of_run
from zeta.compute.stream.regions import Region

Words = NDArray[np.uint32]

CHUNK = 2**20  # words written at once
LANES = 64  # streams that take turns
TILE = 2**16


def words(key: int, start: int, count: int, draw: int = 0) -> Words:
    """Words ``start`` to ``start + count`` of a key, from the fastest backend that there is."""
    out = torch.empty(count, dtype=torch.uint32)
    if importlib.util.find_spec("zeta.compute.stream.kernels"):
        kernels: Any = importlib.import_module("zeta.compute.stream.kernels")
        region = Region(shape=(start + count,), offsets=(start,), sizes=(count,))
        kernels.fill([kernels.Task(law=kernels.WORDS, keys=(key,), draw=draw, region=region, outs=(out,))])
    else:
        for at in range(0, count, TILE):
            size = min(TILE, count - at)
            out[at : at + size] = words_of_run(key, start + at, size, draw=draw)
    result: Words = out.numpy()
    return result


def halves(shift: int) -> Iterator[Words]:
    """16 bits of each word, two words in one."""
    key = parameter_key(0, "weight")
    for start in range(0, 2**62, 2 * CHUNK):
        pairs = words(key, start, 2 * CHUNK).reshape(-1, 2)
        part = (pairs >> np.uint32(shift)) & np.uint32(0xFFFF)
        yield part[:, 0] | part[:, 1] << np.uint32(16)


def taking_turns(origins: list[tuple[int, int]]) -> Iterator[Words]:
    """Element 0 of every (key, draw), then element 1 of every one, and so on."""
    size = CHUNK // len(origins)
    for start in range(0, 2**62, size):
        lanes = [words(key, start, size, draw) for key, draw in origins]
        yield np.ascontiguousarray(np.stack(lanes, axis=1)).reshape(-1)


def control() -> Iterator[Words]:
    """Another generator of good repute, to see what dieharder says of one."""
    generator = np.random.Generator(np.random.PCG64DXSM(1))
    while True:
        yield generator.integers(0, 2**32, CHUNK, dtype=np.uint32)


STREAMS: dict[str, Callable[[], Iterator[Words]]] = {
    "plain": lambda: taking_turns([(parameter_key(0, "weight"), 0)]),
    "low": lambda: halves(0),
    "high": lambda: halves(16),
    "seeds": lambda: taking_turns([(parameter_key(seed, "weight"), 0) for seed in range(LANES)]),
    "names": lambda: taking_turns([(parameter_key(0, f"h.{i}.mlp.weight"), 0) for i in range(LANES)]),
    "draws": lambda: taking_turns([(parameter_key(0, "weight"), draw) for draw in range(LANES)]),
    "control": control,
}


def feed(pipe: BinaryIO, chunks: Iterator[Words], sent: list[int]) -> None:
    """Write chunks until the reader has gone; count the bytes."""
    try:
        for chunk in chunks:
            pipe.write(chunk.astype("<u4", copy=False).data)
            sent[0] += chunk.nbytes
    except (BrokenPipeError, ValueError):  # it has ended, or the pipe was closed here
        return


def run(stream: str, arguments: list[str], minutes: float, on_line: Callable[[str], None]) -> int:
    """Run dieharder on a stream, at the lowest priority; return how many bytes it was sent."""
    command = ["nice", "-n", "19", "stdbuf", "-oL", "dieharder", "-g", "200", "-S", "1", *arguments]
    sent = [0]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        feeder = threading.Thread(target=feed, args=(process.stdin, STREAMS[stream](), sent), daemon=True)
        alarm = threading.Timer(60 * minutes, process.kill)
        feeder.start()
        alarm.start()
        for line in process.stdout:
            on_line(line.decode())
        alarm.cancel()
        process.wait()
        feeder.join()
    return sent[0]


def result_of(line: str) -> list[str] | None:
    """The fields of a line with a verdict: test, ntuple, tsamples, psamples, p-value, verdict."""
    fields = [field.strip() for field in line.split("|")]
    return fields if len(fields) == 6 and fields[-1] in {"PASSED", "WEAK", "FAILED"} else None


def main(
    streams: Annotated[list[str], typer.Argument(help=f"Which of: {', '.join(STREAMS)}.")],
    minutes: Annotated[float, typer.Option(help="Stop each stream after so long; what has ended by then counts.")] = 30,
    test: Annotated[list[str] | None, typer.Option(help="Only this test (dieharder's -d); the default is all.")] = None,
    resolve: Annotated[bool, typer.Option(help="Go on with each test until it is not WEAK.")] = False,
    out: Annotated[Path, typer.Option(help="The table of results is written here, for each stream.")] = Path("build"),
) -> None:
    """Test streams one after the other, print and write a table for each."""
    out.mkdir(parents=True, exist_ok=True)
    for stream in streams:
        begun, verdicts, volume = time.monotonic(), Counter[str](), 0
        with (out / f"dieharder-{stream}{'-resolved' if resolve else ''}.txt").open("w", encoding="utf-8") as file:

            def note(line: str, file: Any = file, verdicts: Counter[str] = verdicts) -> None:
                if result := result_of(line):
                    verdicts[result[-1]] += 1
                print(line, end="", file=file, flush=True)
                print(line, end="", flush=True)

            for which in test or ["-a"]:
                arguments = ["-a"] if which == "-a" else ["-d", which]
                left = minutes - (time.monotonic() - begun) / 60
                volume += run(stream, arguments + ["-Y", "1"] * resolve, left, note)
            counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("PASSED", "WEAK", "FAILED"))
            spent = (time.monotonic() - begun) / 60
            note(f"# {stream}: {counts}; {volume / 4:.3g} words in {spent:.0f} minutes\n")


if __name__ == "__main__":
    typer.run(main)
