"""Mutated documents for each reader, and what came out of them. ``make fuzz`` runs this for as many as it is told.

python -m tests.fuzz.run --count 100000 --reader plan --seed 1
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from tests.fuzz.readers import Reader, readers
from zeta.errors import ZetaError

#: of processor time: a document that takes longer has found work without end
MOST_SECONDS = 10
#: on the clock: one that takes longer waits for something
LONGEST_WAIT = 300


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How many documents were taken and refused, the slowest one in seconds, and what got out raw."""

    taken: int
    refused: int
    slowest: float
    raw: list[str] = field(default_factory=list)


class _TooLongError(Exception):
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise _TooLongError(f"still at work after {MOST_SECONDS} s of processor time, or waiting after {LONGEST_WAIT} s")


def fuzz(reader: Reader, count: int, seed: int) -> Outcome:
    """Let ``reader`` have ``count`` documents, the same ones for the same seed."""
    taken, refused, slowest, raw = 0, 0, 0.0, []
    before = {number: signal.signal(number, _stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    try:
        for number in range(count):
            content = reader.mutated(random.Random(f"{seed} {number}"))
            begin = time.process_time()
            signal.alarm(LONGEST_WAIT)
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    reader.read(content)
                taken += 1
            except ZetaError as error:
                str(error).encode()  # what is shown can be printed
                refused += 1
            except Exception:
                raw.append(f"document {number}: {content[:2000]!r}\n{traceback.format_exc(limit=-4)}")
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - begin)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Outcome(taken=taken, refused=refused, slowest=slowest, raw=raw)


def outcomes(names: list[str], count: int, seed: int) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each reader, or of those that are named."""
    with tempfile.TemporaryDirectory() as folder:
        for name, reader in readers(Path(folder)).items():
            if not names or name in names:
                yield name, fuzz(reader, count, seed)


def main() -> int:
    """Print a table of outcomes, and everything that got out raw; 1 if anything did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)  # small tensors
    bad = 0
    sys.stdout.write("| reader | documents | taken | refused | raw exceptions | slowest, s |\n" + "|---" * 6 + "|\n")
    for name, found in outcomes(given.reader, given.count, given.seed):
        bad += len(found.raw)
        sys.stdout.write(
            f"| {name} | {given.count:,} | {found.taken:,} | {found.refused:,} | {len(found.raw):,} | "
            f"{found.slowest:.2f} |\n"
        )
        sys.stdout.flush()
        for text in found.raw[:20]:
            sys.stderr.write(f"{name}, {text}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
