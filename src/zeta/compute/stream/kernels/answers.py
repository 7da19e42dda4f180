"""The known answers, which a backend must reproduce before it is used: digests of a few thousand values of each law."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from zeta.compute.stream.kernels.tasks import WORDS, Law, Task
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region

_KEY: Final = 0x299F31D0A4093822
_DRAW: Final = 2**32 + 1
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# Two regions that cover each backend's code paths, aligned and not: a run that crosses the counter 2^32, is longer than
# one block and begins and ends inside a block; and a box of columns that is transposed in memory.
_RUN: Final = Region(shape=(2**40,), offsets=(2**34 - 1003,), sizes=(3001,))
_BOX: Final = Region(shape=(41, 67), offsets=(2, 5), sizes=(37, 23))

# The fp64 formula changes at q = 0.425, which is z = 1.43953147... Some releases of Triton round this limit to fp32.
# Nearly all values of this interval lie between the two limits, so that it shows such an error; other laws do not.
_BORDER: Final = (1.43953147, 1.43953156)


def laws() -> dict[str, Law]:
    """The law of each answer."""
    found = {"words": WORDS}
    for dtype in _DTYPES:
        bits = 53 if dtype is torch.float64 else 32
        cut = {"scale": 0.75, "shift": 1.0, "low": 0.25, "high": 3.0, "within": interval(-1.0, 8 / 3, bits=bits)}
        for name, law in {
            "uniform": Law(kind="uniform", dtype=dtype, scale=3.0, shift=-2.0),
            "normal": Law(kind="normal", dtype=dtype, scale=0.02, within=interval(bits=bits)),
            "truncated normal": Law(kind="normal", dtype=dtype, **cut),  # type: ignore[arg-type]
            "tail": Law(kind="normal", dtype=dtype, within=interval(4.0, math.inf, bits=bits)),
        }.items():
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = law
    found["border float64"] = Law(kind="normal", dtype=torch.float64, within=interval(*_BORDER, bits=53))
    return found


#: the first 16 hexadecimal digits of the SHA-256 of the values' bytes, for this version of the stream
ANSWERS: Final = {
    "words": "278e6d01452fe2cd",
    "uniform float32": "a41d0b3ed2427be1",
    "normal float32": "358592f17dbcef7a",
    "truncated normal float32": "e911e5067476880a",
    "tail float32": "c7d62eefaaa8436b",
    "uniform bfloat16": "731c712dc9dfa7f8",
    "normal bfloat16": "ef602de698619306",
    "truncated normal bfloat16": "4d822ef9b11be7b6",
    "tail bfloat16": "b062008bacc79a9b",
    "uniform float16": "bcaf5d584eed4208",
    "normal float16": "2408944268728dd2",
    "truncated normal float16": "a1eb9d56e1ea4d5e",
    "tail float16": "9f70927c934de706",
    "uniform float64": "3ac0eab7922c1534",
    "normal float64": "1c177c30c21afdde",
    "truncated normal float64": "b36e1c2d802893f8",
    "tail float64": "882348dbd9d06e91",
    "border float64": "568fd33308ef8fc3",
}


def digest(fill: Callable[[Sequence[Task]], None], law: Law, device: str = "cpu") -> str:
    """Digest of the law's values in both regions."""
    run = torch.zeros(_RUN.sizes, dtype=law.dtype, device=device)
    box = torch.zeros(tuple(reversed(_BOX.sizes)), dtype=law.dtype, device=device)
    places = ((_RUN, run), (_BOX, box.t()))
    fill([Task(law=law, keys=(_KEY,), draw=_DRAW, region=region, outs=(out,)) for region, out in places])
    found = hashlib.sha256()
    for values in (run, box):
        found.update(bytes(values.cpu().view(torch.uint8).flatten().tolist()))
    return found.hexdigest()[:16]


def wrong_answers(
    fill: Callable[[Sequence[Task]], None], dtypes: frozenset[torch.dtype], device: str = "cpu"
) -> list[str]:
    """The laws for which ``fill`` does not give the known answers."""
    return [name for name, law in laws().items() if law.dtype in dtypes and digest(fill, law, device) != ANSWERS[name]]


def wrong_sums(
    measure: Callable[[Sequence[Tensor], Sequence[float]], list[tuple[float, float, float, float]]],
) -> list[str]:
    """The dtypes for which ``measure`` gives wrong sums. Sums of whole numbers are exact, whatever the order."""
    numbers = torch.arange(-100, 156, device="cpu")
    wrong = []
    for dtype in _DTYPES:
        values = numbers.to(dtype)
        found = measure([values, values.view(16, 16).t()[1:]], [3.0, -2.0])
        if found != [(6272.0, 1551744.0, -100.0, 155.0), (7200.0, 1526080.0, -99.0, 155.0)]:
            wrong.append(f"sums of {str(dtype).removeprefix('torch.')}")
    return wrong
