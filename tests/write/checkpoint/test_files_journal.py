"""A run that is killed at any moment: nothing is lost, and the same call ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import UNIFORM, contents, save
from zeta.errors import CheckpointError
from zeta.write.checkpoint.journal import Journal
from zeta.write.checkpoint.open_folder import Directory

PARTIAL = ".zeta-partial"
#: whatever changes a folder or lets the disk have it
CALLS = ("link", "unlink", "rename", "mkdir", "rmdir", "fsync", "ftruncate")
NUMBERS = range(100)


def write(folder: Path, **options: Any) -> zeta.Report:
    """Three files, their index and the manifest."""
    layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(3))
    return save(layers, folder, UNIFORM, max_shard_size=500, **options)


class Killed(BaseException):
    """Stands for the end of the process: from then on no call of the system does anything."""


class Death:
    """Lets a process die before or after its n-th call, counted from 0."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, *, after: bool, calls: tuple[str, ...] = CALLS) -> None:
        self.count = 0
        for name in calls:
            patch.setattr(os, name, self._mortal(getattr(os, name), number, after=after))

    def _mortal(self, original: Callable[..., Any], number: int, *, after: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            mine, self.count = self.count, self.count + 1
            if mine > number or (mine == number and not after):
                raise Killed
            result = original(*arguments, **options)
            if mine == number:
                raise Killed
            return result

        return call


def killed(number: int, run: Callable[[], object], *, after: bool = False) -> bool:
    """Let ``run`` die at the call; return whether there was one."""
    with pytest.MonkeyPatch.context() as patch:
        death = Death(patch, number, after=after)
        try:
            run()
        except Killed:
            return True
        return death.count > number


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Files are complete one after the other, so that every run makes the same calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without interruption writes."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    return contents(folder)


EARLIER: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "another": {"seed": 5},
    "the same": {},
}


def prepared(folder: Path, earlier: dict[str, Any] | None) -> dict[str, bytes]:
    if earlier is not None:
        write(folder, **earlier)
    (folder / "README.md").parent.mkdir(exist_ok=True)
    (folder / "README.md").write_text("mine")
    return contents(folder)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("earlier", ["nothing", "another", "the same"])
def test_the_same_call_goes_on(earlier: str, after: bool, whole: dict[str, bytes], tmp_path: Path) -> None:
    force = earlier != "nothing"
    for number in NUMBERS:
        folder = tmp_path / str(number)
        before = prepared(folder, EARLIER[earlier])
        if not killed(number, partial(write, folder, force=force), after=after):
            break
        left = contents(folder)
        assert set(before.values()) <= set(left.values()) or set(whole.values()) <= set(left.values()), (
            "nothing is lost"
        )
        if set(left) == {*whole, "README.md"} and not force:
            # all was done but to remove an empty folder; nobody can tell whether the files are somebody's by now
            with pytest.raises(CheckpointError, match="already has"):
                write(folder)
        else:
            write(folder, force=force)
        assert contents(folder) == {**whole, "README.md": b"mine"}, number
        assert not (folder / PARTIAL).exists()
    else:
        raise AssertionError("there are more moments")
    assert number > 25, number


@pytest.mark.parametrize("earlier", ["nothing", "another"])
def test_another_call_finds_one_checkpoint_or_the_other(earlier: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Without force, it brings the folder in order and replaces nothing."""
    for number in NUMBERS:
        folder = tmp_path / str(number)
        before = prepared(folder, EARLIER[earlier])
        if not killed(number, partial(write, folder, force=earlier != "nothing")):
            break
        try:
            write(folder, seed=9)
        except CheckpointError as error:
            reason = str(error)
            after = {name: data for name, data in contents(folder).items() if not name.startswith(PARTIAL)}
            assert re.search("already has|of an interrupted run", reason)
            assert after in (before, {**whole, "README.md": b"mine"})
        else:
            assert (earlier, zeta.verify(folder).seed) == ("nothing", 9), "nothing worth keeping was there"
    else:
        raise AssertionError("there are more moments")


@pytest.mark.parametrize("second", [0, 2, 4, 6, 8, 10, 12, 14, 17])
def test_killed_again_while_it_brings_the_folder_in_order(second: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    for number in range(10, 60, 3):
        folder = tmp_path / str(number)
        prepared(folder, EARLIER["another"])
        if not killed(number, partial(write, folder, force=True)):
            break
        killed(second, partial(write, folder, force=True), after=bool(number % 2))
        if "zeta.json" not in os.listdir(folder) or (folder / PARTIAL).exists():  # noqa: PTH208
            write(folder, force=True)
        assert contents(folder) == {**whole, "README.md": b"mine"}, number


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from tests.write.checkpoint.test_files_journal import write

torch.set_num_threads(1)
original, calls = os.link, 0

def link(*arguments, **options):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments, **options)

os.link = link
write(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [2, 4, 6])
def test_a_process_that_is_killed_between_two_files(number: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), str(number)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(set(contents(tmp_path / "out")) & set(whole)) == number - 2
    assert write(tmp_path / "out").resumed
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "zeta journal 2"}'])
def test_a_damaged_journal(text: str, tmp_path: Path) -> None:
    killed(20, partial(write, tmp_path))
    (tmp_path / PARTIAL / "journal.json").write_text(text)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"journal\.json is damaged, .* and remove"):
        write(tmp_path, force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["../README.md", "README.md", "request.json", "model.safetensors/.."])
def test_a_journal_that_names_other_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "out" / PARTIAL).mkdir(parents=True)
    inode = (tmp_path / "README.md").stat().st_ino
    states = f'{{"{name}": [1, 1], "zeta.json": [1, 1]}}'
    files = f'{{"{name}": {inode}, "zeta.json": 1}}'
    text = f'{{"format": "zeta journal 2", "files": {files}, "earlier": [], "states": {states}}}'
    (tmp_path / "out" / PARTIAL / "journal.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"journal\.json is damaged"):
        write(tmp_path / "out", force=True)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_new_file_that_somebody_else_wrote_is_not_taken_for_ours(tmp_path: Path) -> None:
    """By its inode."""
    killed(18, partial(write, tmp_path))
    mine = sorted(tmp_path.glob("*.safetensors"))
    assert mine
    (tmp_path / "copy").write_text("precious")
    (tmp_path / "copy").rename(mine[0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="is damaged, or not of these files"):
        write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_link_in_the_place_of_an_unfinished_file_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    journal_of = Journal.of

    def replaced(place: Directory, parts: dict[str, str], earlier: Sequence[str]) -> Journal:
        first = place.path / min(parts.values())
        first.unlink()
        first.symlink_to(other)
        return journal_of(place, parts, earlier)

    monkeypatch.setattr(Journal, "of", replaced)
    with pytest.raises(CheckpointError, match="is a link, expected a file that zeta made"):
        write(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert other.read_bytes() == b"other"


def test_files_that_were_trained_on_in_place_are_not_taken_back(tmp_path: Path) -> None:
    """What a run leaves that is killed in its last moment is an empty folder; the files are the user's from then on."""
    write(tmp_path)
    (tmp_path / ".zeta-partial").mkdir()
    mine = min(tmp_path.glob("*.safetensors"))
    with mine.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    trained = mine.read_bytes()
    with pytest.raises(CheckpointError, match="already has"):
        write(tmp_path)
    assert mine.read_bytes() == trained


def test_files_that_were_trained_on_between_the_renamings_are_not_taken_back(tmp_path: Path) -> None:
    killed(18, partial(write, tmp_path))
    mine = min(tmp_path.glob("*.safetensors"))
    with mine.open("r+b") as file:
        file.write(b"\1\2\3\4")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="is damaged, or not of these files"):
        write(tmp_path)
    assert contents(tmp_path) == before


def test_a_file_that_was_copied_over_after_the_kill_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cp`` keeps the inode, and ``cp -p`` sets an earlier time."""
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "forget_earlier", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            write(folder)
    assert zeta.verify(folder).ok, "the checkpoint is complete, and the journal is still there"
    path = folder / "model-00001-of-00003.safetensors"
    inode, mine = path.stat().st_ino, b"mine".ljust(path.stat().st_size)
    with path.open("r+b") as file:
        file.write(mine)
    os.utime(path, (1.7e9, 1.7e9))
    assert path.stat().st_ino == inode
    with pytest.raises(CheckpointError, match="damaged, or not of these files"):
        write(folder)
    assert path.read_bytes() == mine
