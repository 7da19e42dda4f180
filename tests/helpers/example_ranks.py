"""One process of several that run the example of a sharded model, as ``torchrun`` would start it."""

from __future__ import annotations

from pathlib import Path

from examples import fsdp_tp


def main(rank: int, ranks: int, folder: Path) -> None:
    fsdp_tp.main()
