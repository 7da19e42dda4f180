"""Report what is installed, which backends are used, and whether they give the known answers."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from typing import Final

import torch

from zeta._version import __version__
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels.answers import wrong_answers
from zeta.compute.stream.random import STREAM_VERSION, interval, normal32, parameter_key, philox, words_of_run


def versions() -> dict[str, str]:
    """Versions of zeta, its stream, Python, torch, triton and the machine."""
    return {
        "zeta": __version__,
        "stream": str(STREAM_VERSION),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # it is a subclass of str
        "triton": _triton(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def _triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def backends() -> dict[str, str]:
    """For each available type of device, its backend, and why faster ones cannot be used."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {device: _backend(device) for device in devices}


def _backend(device: str) -> str:
    chosen, problems = kernels.choice(device)
    return f"{chosen.name}; better ones cannot be used: {'; '.join(problems)}" if problems else chosen.name


def _words(counter: tuple[int, ...], key: tuple[int, int]) -> str:
    block = philox([torch.tensor([word], device="cpu") for word in counter], key)
    return " ".join(f"{int(word):08x}" for word in block)


_PI_COUNTER: Final = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)

#: the expected text of each known answer, and the function that computes it
KNOWN_ANSWERS: Final[dict[str, tuple[str, Callable[[], str]]]] = {
    "Philox, counter 0, key 0 (Random123)": (
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        lambda: _words((0, 0, 0, 0), (0, 0)),
    ),
    "Philox, digits of pi (Random123)": (
        "d16cfe09 94fdcceb 5001e420 24126ea1",
        lambda: _words(_PI_COUNTER, (0xA4093822, 0x299F31D0)),
    ),
    "Philox, 10000th value (C++26)": (
        "1955073260",
        lambda: str(int(words_of_run(20111115, 9999, 1))),
    ),
    "key of seed 0 and 'weight'": (
        "0x4169469f2c2587c6",
        lambda: hex(parameter_key(0, "weight")),
    ),
    "normal values of the first four words": (
        "-0x1.05f49e0000000p-2 0x1.2d769e0000000p+0 0x1.42a76e0000000p-1 0x1.11fbd60000000p-2",
        lambda: " ".join(float(z).hex() for z in normal32(words_of_run(0, 0, 4), interval())),
    ),
}


def known_answers() -> dict[str, bool]:
    """Whether each known answer is reproduced."""
    answers = {name: compute() == expected for name, (expected, compute) in KNOWN_ANSWERS.items()}
    return answers | {f"values of the {name} backend": _is_right(name) for name in kernels.candidates()}


def _is_right(backend: str) -> bool:
    try:
        return not wrong_answers(kernels.proved(backend).fill, kernels.proved(backend).dtypes)
    except OSError:
        return False
