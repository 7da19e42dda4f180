"""One process of two that would be aborted at its end, and of which the second may raise."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

from tests.helpers.processes import join


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    atexit.register(os.abort)  # as Gloo's threads do now and then
    sys.stdout.write(f"hello from {rank}\n")
    if rank and folder.name == "raises":
        raise ValueError("not today")
