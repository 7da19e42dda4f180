"""Checkpoints that are broken: what opens, and every tensor of it must be readable then."""

from __future__ import annotations

import io
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from tests.fuzz import mutate
from zeta.base.sources import open_source

STATE = {
    "a": torch.arange(12.0).reshape(3, 4),
    "parameter": nn.Parameter(torch.ones(2)),
    "transposed": torch.arange(6, dtype=torch.int16).reshape(2, 3).T,
    "eight": torch.ones(3).to(torch.float8_e5m2),
    "scalar": torch.tensor(2.5, dtype=torch.complex64),
    "empty": torch.empty(0, 3),
}


def read(path: Path) -> object:
    """Open a source and read everything: whole, and a corner."""
    with open_source(path) as source:
        for name, info in source.tensors.items():
            whole = source.read(name)
            assert (tuple(whole.shape), whole.dtype) == (info.shape, info.dtype)
            corner = source.read(name, tuple(slice(size // 2, size) for size in info.shape))
            assert corner.numel() <= whole.numel()
        return repr(source), list(source.settings)


def archive() -> bytes:
    """A file of ``torch.save``."""
    made = io.BytesIO()
    torch.save(STATE, made)
    return made.getvalue()


def mutated_archive(whole: bytes, rng: random.Random) -> bytes:
    """Bytes of the archive changed, or of its pickle, packed again."""
    if rng.random() < 0.3:
        return mutate.text(whole, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutated_pickle(content, rng) if name.endswith("data.pkl") else content)
    return made.getvalue()


def mutated_pickle(whole: bytes, rng: random.Random) -> bytes:
    """Bytes changed, or operations and texts for others."""
    if rng.random() < 0.5:
        return mutate.text(whole, rng)
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content))
        content[at : at + rng.choice((0, 1, 1, 1, 3))] = rng.choice(OPERATIONS)
    return bytes(content)


#: what exists of operations, and what a wrong one may cost
OPERATIONS = (
    *(bytes([code]) for name in dir(pickle) if isinstance(value := getattr(pickle, name), bytes) for code in value[:1]),
    *(b"cos\nsystem\n", b"cbuiltins\nexec\n", b"ctorch\nSize\n", b"ctorch\nfloat32\n", b"(", b"Nr\xff\xff\xff\xff"),
    *(b"\x8a\xff" + b"\xff" * 255, b"K\xff", b"J\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"h\x00" * 3, b"\x86" * 40),
)


def distributed(where: Path) -> bytes:
    """Write a folder of ``torch.distributed.checkpoint``, and return its metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": STATE, "step": 3}, checkpoint_id=where, no_dist=True)
    return (where / ".metadata").read_bytes()
