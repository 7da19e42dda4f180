"""Names that no file can have are refused before anything is written, and reports follow no link."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import zeta
from tests.write.checkpoint.test_checkpoint import UNIFORM, contents, save
from zeta.command.cli import app
from zeta.errors import SpecError, UsageError
from zeta.write.checkpoint import output_path, write_text

LONG = "é" * 128
NAMES: dict[str, tuple[Any, str]] = {
    "long": (f"new/{LONG}", r"path: 'é+'\.\.\. has 256 bytes, expected at most 255; shorten the name"),
    "a folder of it": (f"new/{LONG}/out", "has 256 bytes"),
    "nul": ("new/a\0b", r"path 'new/a\\x00b' has a NUL character"),
    "bytes": (b"new", r"path must be a text or a pathlib\.Path, got b'new'; os\.fsdecode"),
    "number": (3, "path must be a text or a pathlib.Path, got 3"),
    "none": (None, "path must be a text or a pathlib.Path, got None"),
    "empty": ("", r"path is empty, expected the name of a folder; '\.' is the current one"),
    "surrogate": ("new/\ud800", "cannot be encoded, expected valid Unicode"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("what", NAMES)
def test_a_name_that_nothing_can_have(what: str, here: Path) -> None:
    path, message = NAMES[what]
    report = zeta.check(nn.Linear(2, 2), torch.ones(3, 2))
    for call in (
        lambda: save(nn.Linear(2, 2), path, UNIFORM),
        lambda: output_path(path),
        lambda: write_text(path, "text"),
        *([] if path is None else [lambda: report.to_json(path), lambda: report.to_sarif(path)]),
    ):
        with pytest.raises(SpecError, match=message):
            call()
    assert not list(here.iterdir())


def test_names_of_255_bytes_and_of_bytes_without_meaning(here: Path) -> None:
    for name in ("a" * 255, "é" * 127, os.fsdecode(b"\xff\x1b")):
        save(nn.Linear(2, 2), here / name, UNIFORM)
        write_text(here / name / ("b" * 255), "text")
        assert zeta.verify(here / name).ok


@pytest.mark.parametrize("name", [LONG, "\0"])
def test_the_command_line(name: str, here: Path) -> None:
    (here / "nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")
    before = contents(here)
    result = CliRunner().invoke(app, ["init", "nets.py:net", "--out", name])
    assert result.exit_code == 2, result.output
    assert "--out" in result.output
    for option in ("--html", "--sarif"):
        result = CliRunner().invoke(app, ["check", "nets.py:net", "--batch", "nets.py:missing", option, name])
        assert result.exit_code == 2, result.output
        assert option in result.output, "before the batch is looked for"
    assert contents(here) == before


@pytest.mark.parametrize("target", ["precious", "new"])
def test_a_report_is_not_written_through_a_link(target: str, here: Path) -> None:
    (here / "precious").write_text("precious")
    (here / "report").symlink_to(here / target)
    report = zeta.check(nn.Linear(2, 2), torch.ones(3, 2))
    for write in (report.to_html, report.to_json, report.to_sarif):
        with pytest.raises(UsageError, match="report is a link, expected a file or nothing"):
            write(here / "report")
    assert contents(here) == dict.fromkeys(contents(here), b"precious")
    assert sorted(path.name for path in here.iterdir()) == ["precious", "report"]


@pytest.mark.parametrize("kind", ["folder", "FIFO"])
def test_a_report_in_the_place_of_what_is_no_file(kind: str, here: Path) -> None:
    (os.mkdir if kind == "folder" else os.mkfifo)(here / "report")
    with pytest.raises(UsageError, match=f"report is a {kind}, expected a file or nothing"):
        write_text(here / "report", "text")


def test_a_file_with_two_names_keeps_the_other(here: Path) -> None:
    (here / "precious").write_text("precious")
    (here / "report").hardlink_to(here / "precious")
    write_text(here / "report", "text")
    assert contents(here) == {"precious": b"precious", "report": b"text"}


def test_a_file_is_written_as_a_whole_or_not_at_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(here / "report", "first\n")
    (here / f".zeta-part-{os.getpid()}-0").symlink_to(here / "planted")
    before = contents(here)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_text(here / "report", "second\n")
    assert contents(here) == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            write_text(here / "report", "second\n")
    assert contents(here) == before
    write_text(here / "report", "second\n")
    assert contents(here) == {"report": b"second\n"}
    assert oct((here / "report").stat().st_mode & 0o777 & ~0o022) == oct(0o644)
