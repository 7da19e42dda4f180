"""The programs of ``tests/native``: the kernels without Python, on this processor or in an emulator of another one."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from zeta.compute.stream.kernels import Law, Task, native
from zeta.compute.stream.regions import Region

ROOT: Final = Path(__file__).parents[2]
_CALL: Final = struct.Struct("=16sqqqq")
_POINTER: Final = struct.Struct("=Q")
_ALIGNMENT: Final = 64


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Where they were built, and what runs them."""

    folder: Path
    runner: tuple[str, ...] = ()

    def command(self, name: str) -> list[str]:
        """How to run one."""
        program = self.folder / "tests" / "native" / name
        if not program.exists():
            pytest.fail(f"{program} does not exist; make test-slow and make test-arm build what they need")
        return [*self.runner, str(program)]

    def isas(self) -> list[str]:
        """The instruction sets that they can run."""
        done = subprocess.run(self.command("zeta_remote"), input=b"", capture_output=True, check=True)
        return done.stdout.decode().strip().split(",")

    @contextmanager
    def quantiles(self, isa: str, law: Law) -> Iterator[Words]:
        """What words in a row become under a law of fp32."""
        with subprocess.Popen(
            self.command(f"zeta_words_{isa}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            yield Words(process, law)


HERE: Final = Programs(folder=ROOT / "build" / "programs")
ARM: Final = Programs(folder=ROOT / "build" / "arm", runner=(shutil.which("qemu-aarch64") or "qemu-aarch64",))


@dataclass(frozen=True)
class Words:
    """``words(start, count)``: the values of ``count`` words, a multiple of 512, from ``start`` on."""

    process: subprocess.Popen[bytes]
    law: Law

    def __call__(self, start: int, count: int) -> NDArray[np.float32]:
        """Ask the program."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        region = Region(shape=(2**40,), offsets=(start,), sizes=(count,))
        job = native._jobs([Task(law=self.law, keys=(0,), draw=0, region=region, outs=(torch.empty(count),))])
        self.process.stdin.write(job)
        self.process.stdin.flush()
        values = self.process.stdout.read(4 * count)
        assert len(values) == 4 * count
        return np.frombuffer(values, np.float32)


@dataclass(frozen=True)
class Remote:
    """The kernels of one instruction set, called in another process."""

    programs: Programs
    isa: str

    def fill(self, tasks: Sequence[Task]) -> None:
        """As ``Library.fill``, one task after the other."""
        for task in tasks:
            memory = torch.empty(0, dtype=torch.uint8).set_(task.outs[0].untyped_storage())
            jobs = [_moved(job, memory) for job in _each(native._jobs(task), native._JOB_SIZE)]
            written = self._call(jobs, memory, measures=False)
            memory.copy_(torch.frombuffer(bytearray(written), dtype=torch.uint8) if written else memory)

    def measure(self, tensors: Sequence[Tensor], centres: Sequence[float]) -> list[native.RawSums]:
        """As ``Library.measure``, of tensors that are one view each."""
        found: list[native.RawSums] = []
        for tensor, centre in zip(tensors, centres, strict=True):
            memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            views = [_moved(view, memory) for view in _each(native._views(tensor, centre), native._VIEW_SIZE)]
            assert len(views) == 1
            found += native._SUMS.iter_unpack(self._call(views, memory, measures=True))
        return found

    def _call(self, items: Iterable[bytes], memory: Tensor, *, measures: bool) -> bytes:
        given = list(items)
        call = _CALL.pack(self.isa.encode(), measures, 2, len(given), memory.numel())
        everything = b"".join((call, *given, memory.numpy().tobytes()))
        done = subprocess.run(self.programs.command("zeta_remote"), input=everything, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout


def _each(items: bytes, size: int) -> list[bytes]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def _moved(item: bytes, memory: Tensor) -> bytes:
    """A job or view with the offset inside its memory instead of the address."""
    place = _POINTER.unpack_from(item)[0]
    return _POINTER.pack(place - memory.data_ptr() if place else 0) + item[_POINTER.size :]
