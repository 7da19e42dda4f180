"""Nothing but a checkpoint's own files is touched: not through links, not by force, whoever put them there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import UNIFORM, contents, save
from tests.write.checkpoint.test_checkpoint_resume import part, stop_at, write
from zeta.errors import CheckpointError

PARTIAL = ".zeta-partial"


def layer(folder: Path, **options: Any) -> zeta.Report:
    return save(nn.Linear(3, 3), folder, UNIFORM, **options)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else, with a file that no run may touch."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").write_bytes(b"precious" * 10)
    (folder / "deep" / "file").write_bytes(b"deep")
    return folder


@pytest.fixture
def interrupted(out: Path) -> Path:
    """What a run left that was interrupted in the fourth of six files."""
    with pytest.raises(KeyboardInterrupt):
        write(out, progress=stop_at(3, KeyboardInterrupt()))
    return out


@pytest.mark.parametrize("force", [False, True])
def test_a_link_in_the_place_of_the_folder_for_unfinished_work(force: bool, out: Path, outside: Path) -> None:
    (out / PARTIAL).symlink_to(outside)
    before = contents(outside)
    with pytest.raises(CheckpointError, match=r"\.zeta-partial is a link, expected a folder that zeta made"):
        layer(out, force=force)
    assert contents(outside) == before
    assert os.listdir(out) == [PARTIAL]  # noqa: PTH208


def test_a_link_that_takes_the_place_of_that_folder_meanwhile(out: Path, outside: Path) -> None:
    """The folder stays the one that was opened."""
    before = contents(outside)

    def progress(*_: object) -> None:
        if not (out / PARTIAL).is_symlink():
            (out / PARTIAL).rename(out / "moved")
            (out / PARTIAL).symlink_to(outside)

    layer(out, progress=progress)
    assert contents(outside) == before
    assert zeta.verify(out).ok


NAMES = ("model.safetensors.part", "zeta.json.part", "request.json", "journal.json", "journal.json.part")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("how", ["link", "dangling", "hard", "file", "folder", "fifo"])
@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_planted(name: str, how: str, force: bool, out: Path, outside: Path) -> None:
    planted = out / PARTIAL / name
    planted.parent.mkdir()
    if how == "link":
        planted.symlink_to(outside / "file")
    elif how == "dangling":
        planted.symlink_to(outside / "new")
    elif how == "hard":
        planted.hardlink_to(outside / "file")
    elif how == "file":
        planted.write_text("precious")
    elif how == "folder":
        planted.mkdir()
    else:
        os.mkfifo(planted)
    before, found = contents(outside), planted.lstat()
    with pytest.raises(CheckpointError, match=rf"{name} is |{name} cannot be read|{name} is damaged"):
        layer(out, force=force)
    assert contents(outside) == before
    assert os.path.samestat(planted.lstat(), found)
    assert [path.name for path in out.rglob("*")] == [PARTIAL, name]


def test_a_note_that_is_a_fifo_beside_other_files(interrupted: Path) -> None:
    (interrupted / PARTIAL / "request.json").unlink()
    os.mkfifo(interrupted / PARTIAL / "request.json")
    with pytest.raises(CheckpointError, match=r"request\.json is a FIFO, expected a file that zeta made"):
        write(interrupted)


@pytest.mark.parametrize("how", [Path.symlink_to, Path.hardlink_to])
def test_a_link_among_the_files_of_an_interrupted_run(
    how: Callable[[Path, Path], None], interrupted: Path, outside: Path
) -> None:
    shutil.copy(part(interrupted, 2), outside / "tensors")
    with (outside / "tensors").open("r+b") as file:
        file.write(b"another")
    part(interrupted, 2).unlink()
    how(part(interrupted, 2), outside / "tensors")
    before = contents(outside)
    with pytest.raises(CheckpointError, match=r"00002-of-00006\.safetensors\.part is a (link|file with 2 names), exp"):
        write(interrupted)
    assert contents(outside) == before
    write(interrupted, force=True, seed=3)  # forgets the run: removes the link, not what it links to
    assert contents(outside) == before
    assert zeta.verify(interrupted).seed == 3


@pytest.mark.parametrize("force", [False, True])
def test_what_else_is_in_the_folder_for_unfinished_work_stays(force: bool, interrupted: Path) -> None:
    (interrupted / PARTIAL / "mine" / "deep").mkdir(parents=True)
    (interrupted / PARTIAL / "mine" / "deep" / "file").write_text("precious")
    (interrupted / PARTIAL / "other.safetensors.part").write_text("precious")
    write(interrupted, seed=3 if force else 0, force=force)
    assert {path.relative_to(interrupted / PARTIAL).as_posix() for path in (interrupted / PARTIAL).rglob("*")} == {
        *("mine", "mine/deep", "mine/deep/file", "other.safetensors.part")
    }
    assert zeta.verify(interrupted).ok


def test_other_things_that_were_there_before_stay(out: Path) -> None:
    (out / PARTIAL / "mine").mkdir(parents=True)
    (out / PARTIAL / "mine" / "file").write_text("precious")
    layer(out)
    assert contents(out)[f"{PARTIAL}/mine/file"] == b"precious"
    assert set(contents(out)) == {"model.safetensors", "zeta.json", f"{PARTIAL}/mine/file"}


STRANGERS = {
    "no manifest": (["model.safetensors"], "there is no zeta.json"),
    "no manifest that can be read": (["zeta.json"], "zeta.json cannot be read"),
    "both": (["model.safetensors", "zeta.json"], "zeta.json cannot be read"),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_force_replaces_nothing_without_a_manifest(what: str, out: Path) -> None:
    names, reason = STRANGERS[what]
    for name in names:
        (out / name).write_text("precious")
    before = contents(out)
    with pytest.raises(CheckpointError, match=rf"\(.*{reason}.*\)\. Even force leaves them") as caught:
        layer(out, force=True)
    assert str(caught.value).endswith("".join(f"\n  - {name}" for name in names))
    assert contents(out) == before


def test_force_replaces_what_the_manifest_names_and_nothing_else(out: Path) -> None:
    layer(out)
    layer(out, seed=1, force=True)
    assert zeta.verify(out).seed == 1
    (out / "model-00001-of-00009.safetensors").write_text("precious")
    before = contents(out)
    with pytest.raises(CheckpointError, match=r"does not name them.*\n  - model-00001-of-00009\.safetensors$"):
        layer(out, seed=2, force=True)
    assert contents(out) == before


def test_a_link_that_is_replaced_by_force_leaves_what_it_links_to(out: Path, outside: Path) -> None:
    """Caches of models keep files elsewhere and link to them."""
    layer(out)
    (out / "model.safetensors").rename(outside / "blob")
    (out / "model.safetensors").symlink_to(outside / "blob")
    before = contents(outside)
    layer(out, seed=1, force=True)
    assert contents(outside) == before
    assert not (out / "model.safetensors").is_symlink()
    assert zeta.verify(out).seed == 1


def test_a_file_that_is_named_like_one_set_aside(out: Path) -> None:
    layer(out)
    (out / ".zeta-earlier.model.safetensors").write_text("precious")
    (out / ".zeta-earlier.notes").write_text("precious")
    before = contents(out)
    with pytest.raises(CheckpointError, match=r"\.zeta-earlier\.model\.safetensors is an existing file, expected n"):
        layer(out, seed=1, force=True)
    assert contents(out) == before
    (out / ".zeta-earlier.model.safetensors").unlink()
    layer(out, seed=1, force=True)
    assert contents(out)[".zeta-earlier.notes"] == b"precious"


@pytest.mark.parametrize("name", ["model.safetensors", "zeta.json"])
def test_what_appears_at_the_last_moment_is_not_replaced(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last look, when the first file gets its name."""
    original = os.link

    def link(source: str, target: str, **places: Any) -> None:
        if source == f"{name}.part":
            (out / name).write_text("precious")
        original(source, target, **places)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(CheckpointError, match=rf"{name} is an existing file, expected nothing"):
        layer(out)
    assert contents(out) == {name: b"precious"}


def test_a_file_system_without_second_names(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    layer(out)
    layer(out, seed=1, force=True)
    assert zeta.verify(out).seed == 1
    assert set(contents(out)) == {"model.safetensors", "zeta.json"}


def test_a_link_to_the_output_folder_is_followed(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    layer(tmp_path / "link")
    assert zeta.verify(out).ok


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_under_a_final_name(kind: str, out: Path) -> None:
    (os.mkfifo if kind == "fifo" else os.mkdir)(out / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a (FIFO|folder), expected a file"):
        layer(out, force=True)
