"""Saving that was interrupted and goes on: the same files as without interruption, and nothing taken on trust."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import UNIFORM, contents, save
from tests.write.checkpoint.test_files_writing import no_thread_stays, uncounted
from zeta import Rule, Rules
from zeta.errors import CheckpointError
from zeta.initializers import Keep, Normal, Zeros

PARTIAL = ".zeta-partial"
MOST = 4 * 110 * 100
KEEPING = Rules([Rule("3.bias", Keep()), Rule("2.*", Zeros()), Rule("*", Normal(0.5, 0.25))])


def layers(kept: float = 1.0) -> nn.Module:
    """Six layers, each of them a file; the fourth has a bias that is kept."""
    model = nn.ModuleList(nn.Linear(100, 100) for _ in range(6))
    with torch.no_grad():
        model[3].bias.fill_(kept)
    return model


def write(folder: Path, **options: Any) -> zeta.Report:
    return save(layers(options.pop("kept", 1.0)), folder, KEEPING, max_shard_size=MOST, **options)


def stop_at(layer: int, error: BaseException) -> Callable[[str, int, int], None]:
    def progress(name: str, done: int, total: int) -> None:
        if name.startswith(f"{layer}."):
            raise error

    return progress


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """An interruption is noticed a few tiles later: one for each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """What a run without interruption writes."""
    write(tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.fixture
def folder(tmp_path: Path, whole: dict[str, bytes]) -> Path:
    """What a run leaves that was interrupted in the fourth file."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt) as caught:
        write(out, progress=stop_at(3, KeyboardInterrupt()))
    assert caught.value.__notes__ == [f"what is written stays in {out / PARTIAL}, and the same call goes on from there"]
    assert [path.name for path in out.iterdir()] == [PARTIAL]
    return out


def part(folder: Path, number: int) -> Path:
    return folder / PARTIAL / f"model-0000{number}-of-00006.safetensors.part"


KILLED = """
import os, signal, sys, torch
from pathlib import Path
import tests.write.checkpoint.test_checkpoint_resume as resume

def progress(name, done, total):
    if done >= float(sys.argv[2]) * total:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(2)
resume.write(Path(sys.argv[1]), progress=progress)
"""


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_killed_run_is_taken_up(share: float, whole: dict[str, bytes], tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), str(share)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = contents(tmp_path / "out")
    assert all(name.startswith(PARTIAL) for name in left), "nothing unfinished has a final name"
    with pytest.raises(CheckpointError, match=r"zeta\.json does not exist"):
        zeta.verify(tmp_path / "out")
    report = write(tmp_path / "out")
    assert share * 0.8 < report.resumed / report.nbytes < 0.9
    assert "of it found from an interrupted run" in str(report)
    assert contents(tmp_path / "out") == whole
    assert zeta.verify(tmp_path / "out").ok


def test_files_that_are_right_are_not_written_again(
    folder: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, written = os.pwrite, []

    def pwrite(file: int, content: memoryview, offset: int) -> int:
        written.append(len(content))
        return original(file, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    report = write(folder)
    size = sum(len(data) for name, data in whole.items() if name.endswith(".safetensors"))
    assert report.resumed + sum(written) == size
    assert report.resumed >= 3 * 40_400
    assert contents(folder) == whole


@pytest.mark.parametrize("place", [0, 5, 300, -1])
def test_what_is_wrong_in_a_file_is_mended(place: int, folder: Path, whole: dict[str, bytes]) -> None:
    data = bytearray(part(folder, 2).read_bytes())
    data[place] ^= 4
    part(folder, 2).write_bytes(data)
    write(folder)
    assert contents(folder) == whole


@pytest.mark.parametrize("size", [0, 3, 20_000, 50_000])
def test_a_file_of_another_size_is_mended(size: int, folder: Path, whole: dict[str, bytes]) -> None:
    with part(folder, 1).open("r+b") as file:
        file.truncate(size)
    write(folder)
    assert contents(folder) == whole


def test_interrupted_again_and_again(folder: Path, whole: dict[str, bytes]) -> None:
    for layer in (0, 4):
        with pytest.raises(ZeroDivisionError):
            write(folder, progress=stop_at(layer, ZeroDivisionError()))
        assert set(contents(folder)) >= {f"{PARTIAL}/{part(folder, number).name}" for number in (1, 2, 3)}
    write(folder)
    assert contents(folder) == whole


def test_kept_values_that_changed_meanwhile(folder: Path) -> None:
    write(folder, kept=2.0)
    assert load_file(folder / "model-00004-of-00006.safetensors")["3.bias"].tolist() == [2.0] * 100
    assert zeta.verify(folder).ok


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, "  - seed was 0, and is 1 now"),
    "size": ({"max_shard_size": MOST + 1}, f"  - max_shard_size was {MOST}, and is {MOST + 1} now"),
    "dtype": ({"dtype": torch.bfloat16}, r"  - 0\.weight: was Normal.*, float32 .*, and is Normal.*, bfloat16 "),
    "rules": ({"rules": UNIFORM}, r"  - 0\.weight: was Normal.*, and is Uniform"),
    "ties": ({"drop_ties": True}, "  - drop_ties was False, and is True now"),
    "model": ({"model": nn.Linear(3, 3), "rules": UNIFORM}, r"  - 0\.weight: is not in this plan"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_request_is_refused_unless_forced(what: str, folder: Path) -> None:
    change, message = OTHERS[what]
    options: dict[str, Any] = {"model": layers(), "rules": KEEPING, "max_shard_size": MOST, **change}
    arguments = options.pop("model"), folder, options.pop("rules")
    before = contents(folder)
    with pytest.raises(CheckpointError, match=rf"asked for something else; .*force.*:\n(.*\n)*{message}"):
        save(*arguments, **options)
    assert contents(folder) == before
    report = save(*arguments, **options, force=True)
    assert report.resumed == 0
    assert not (folder / PARTIAL).exists()
    assert zeta.verify(folder).ok


def test_the_name_of_the_model_and_the_rules_may_differ(folder: Path, whole: dict[str, bytes]) -> None:
    """What changes no byte of the tensors is no other request."""
    report = write(folder, model_name="another")
    assert report.resumed
    assert {name: data for name, data in contents(folder).items() if name != "zeta.json"} == {
        name: data for name, data in whole.items() if name != "zeta.json"
    }


@pytest.mark.parametrize("force", [False, True])
def test_a_note_that_cannot_be_read(force: bool, folder: Path) -> None:
    """It names the files that may be removed; without it there are none."""
    (folder / PARTIAL / "request.json").write_text("{")
    before = contents(folder)
    with pytest.raises(CheckpointError, match=r"cannot be taken up: .*request\.json cannot be read.* and remove it"):
        write(folder, force=force)
    assert contents(folder) == before


def test_the_earlier_files_stay_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    write(tmp_path, seed=1)
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, seed=2, force=True, progress=stop_at(4, ZeroDivisionError()))
    after = contents(tmp_path)
    assert {name: data for name, data in after.items() if not name.startswith(PARTIAL)} == before
    assert zeta.verify(tmp_path).seed == 1
    assert write(tmp_path, seed=2, force=True).resumed
    assert (zeta.verify(tmp_path).seed, set(contents(tmp_path))) == (2, set(before))


def test_room_that_the_files_have_already_is_not_asked_for_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 * MOST))
    with pytest.raises(CheckpointError, match=r"has room for .* bytes, and .* are needed"):
        save(layers(), folder.parent / "new", KEEPING, max_shard_size=MOST)
    assert write(folder).ok


def test_an_interrupted_run_of_one_small_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        save(nn.Linear(9, 9), tmp_path / "out", UNIFORM, progress=stop_at_once)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("zeta.write.checkpoint.unfinished._WORTH_KEEPING", 100)
    with pytest.raises(ZeroDivisionError):
        save(nn.Linear(9, 9), tmp_path / "out", UNIFORM, progress=stop_at_once)
    assert save(nn.Linear(9, 9), tmp_path / "out", UNIFORM).resumed > 9 * 9 * 4


def stop_at_once(*_: object) -> None:
    raise ZeroDivisionError


def test_no_thread_goes_on_after_an_error(tmp_path: Path) -> None:
    others = uncounted()
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, progress=stop_at(1, ZeroDivisionError()))
    assert no_thread_stays(others)


def test_the_number_of_threads_changes_nothing(whole: dict[str, bytes], tmp_path: Path) -> None:
    for threads in (1, 7):
        torch.set_num_threads(threads)
        write(tmp_path / str(threads))
        assert contents(tmp_path / str(threads)) == whole
