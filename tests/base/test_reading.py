"""The one reader: what is opened, how large and how deep it may be, what types come out, what an error shows."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from torch import nn
from typer.testing import CliRunner

import zeta
from zeta.base import reading
from zeta.base.reading import decode, json_text, opened, parse, parse_json, parse_toml, read_bytes, shallow, shown
from zeta.command.cli import app
from zeta.errors import FormatError, SpecError, ZetaError
from zeta.rules import glob, regex

# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        os.chdir(here)
        names = ("pipe", "folder", "link", "socket")
        yield {**{name: tmp_path / name for name in names}, "device": Path("/dev/zero"), "terminal": Path("/dev/tty")}


@pytest.mark.parametrize("name", ["pipe", "folder", "link", "socket", "device", "terminal"])
def test_what_is_no_regular_file_is_refused_at_once(name: str, special: dict[str, Path]) -> None:
    refused: list[BaseException] = []

    def read() -> None:
        try:
            read_bytes(special[name], 10)
        except BaseException as error:
            refused.append(error)

    reading_on = threading.Thread(target=read, daemon=True)
    reading_on.start()
    reading_on.join(timeout=60)
    assert not reading_on.is_alive(), "it waits"
    assert isinstance(refused[0], OSError)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with opened(tmp_path / "link") as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 256, "none", "x/" * 5000])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no file can have this name|File name too long|No such file"):
        read_bytes(tmp_path / name, 10)
    assert not reading.is_file(tmp_path / name)
    assert not reading.is_folder(tmp_path / name)


def test_a_file_has_at_most_the_bytes_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 11)
    assert len(read_bytes(tmp_path / "file", 11)) == 11
    with pytest.raises(FormatError, match="more than 10 bytes"):
        read_bytes(tmp_path / "file", 10)


class Odd:
    def __fspath__(self) -> bytes:
        return b"x"


# -- depth -------------------------------------------------------------------------------------------------------------


def depth(text: str) -> int:
    """How many brackets are open at once, counted one character after the other."""
    most = now = 0
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            now += 1
            most = max(most, now)
        elif character in "]}":
            now -= 1
    return most


def nested(rng: random.Random, levels: int) -> Any:
    text = "".join(rng.choice('[]{}"\\,:x') for _ in range(rng.randrange(9)))
    if levels <= 0 or rng.random() < 0.05:
        return text
    below = [nested(rng, levels - 1 if number == 0 else rng.randrange(3)) for number in range(rng.randrange(1, 4))]
    return below if rng.random() < 0.5 else {f"{text}{number}": item for number, item in enumerate(below)}


@pytest.mark.parametrize("seed", range(200))
def test_the_depth_is_found_whatever_the_texts_hold(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DEEPEST", 6)
    rng = random.Random(seed)
    text = json.dumps(nested(rng, rng.randrange(12)), indent=rng.choice((None, 1)))
    if depth(text) <= 6:
        assert shallow(text) == text.encode()
    elif depth(text) > 12:
        with pytest.raises(FormatError, match="nested more than 6 levels"):
            shallow(text)


@pytest.mark.parametrize("limit", [1000, 10**6])
@pytest.mark.parametrize("bracket", ["[", '{"a":', '{"entries":[', '"x":['])
@pytest.mark.parametrize("read", [parse_json, lambda text: parse(text, dict[str, Any]), lambda text: parse(text, int)])
def test_two_hundred_thousand_brackets(read: Any, bracket: str, limit: int) -> None:
    """Also where the interpreter would let a parser go on, until the stack ends."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        closed = bracket * 200_000 + "]" * 200_000
        for text in (bracket * 200_000, closed):
            with pytest.raises(FormatError, match="nested more than 100 levels deep"):
                read(text)
    finally:
        sys.setrecursionlimit(before)


# -- JSON and TOML -----------------------------------------------------------------------------------------------------


class Row(msgspec.Struct):
    name: reading.Text
    shape: reading.Shape


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", '{"name": 3, "shape": []}', '{"name": "x"}', '{"name": "x", "shape": [-1]}',
        '{"name": "x", "shape": [1.5]}', '{"name": "x", "shape": [true]}', '{"name": "x", "shape": [1e400]}',
        '{"name": "x", "shape": [NaN]}', '{"name": "x", "shape": [9223372036854775808]}',
        '{"name": "\\ud800", "shape": []}',
        f'{{"name": "x", "shape": [{"9" * 5000}]}}', f'{{"name": "{"x" * (reading.LONGEST_TEXT + 1)}", "shape": []}}',
        f'{{"name": "x", "shape": {[1] * (reading.MOST_DIMENSIONS + 1)}}}', "\ud800", b"\xff", None, 3,
    ],
)  # fmt: skip
def test_what_has_another_form_is_a_format_error(text: Any) -> None:
    with pytest.raises(FormatError):
        parse(text, Row)


def test_what_has_the_form_is_read() -> None:
    row = parse('{"name": "x", "shape": [3, 0, 9223372036854775807], "more": [[]]}', Row)
    assert (row.name, row.shape) == ("x", (3, 0, 2**63 - 1))
    assert decode(b"[1]", list[int]) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, "digits"),
        ("1" + "0" * 400, "bits; at most 1,023"),
        (f'{{"{"x" * (reading.LONGEST_TEXT + 1)}": 1}}', "has a text of 1,048,577 characters"),
        ('["\\ud800"]', "not valid Unicode"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_json_of_people_has_limits(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_json(text)


def test_json_of_people_may_have_numbers_that_json_lacks() -> None:
    assert parse_json('{"limit": [0.0, Infinity], "name": "é"}') == {"limit": [0.0, float("inf")], "name": "é"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a = " + b"[" * 100_000, "too deeply"),
        (b"a = " + b"[" * 101 + b"]" * 101, "more than 100 levels"),
        (b"a" + b".a" * 201 + b" = 1", "line 1 has more than 200 dots"),
        (b"a" + b".a" * 150 + b" = 1", "more than 100 levels"),
        (b"a = " + b"9" * 5000, "digits"),
        (b"a = '\xff'", "decode"),
        (b"a = 1\na = 2", "Cannot overwrite"),
    ],
)
def test_toml_has_limits(text: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_toml(text)


def test_json_out_is_ascii_and_reads_back() -> None:
    value = {"name": "é\x9b\x1b\x7f \U0001f600", "number": [1e22, -0.0, 5e-324]}
    text = json_text(value)
    assert text.isascii()
    assert "\x1b" not in text
    assert repr(json.loads(text)) == repr(value)
    with pytest.raises(FormatError, match="not valid Unicode"):
        json_text(["\ud800"])


# -- errors ------------------------------------------------------------------------------------------------------------


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


def test_what_an_error_shows_is_short_and_printable() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("\x1b[2J" * 1000, deep, list(range(10**6)), Broken(), {"a": {"b": {"c": {"d": 1}}}}, b"\0" * 10**6):
        text = shown(value)
        assert len(text) < 1000
        assert text.isprintable()
    while deep:  # one after the other, for those who free it
        deep = deep[0]


# -- through the verbs and the command line ----------------------------------------------------------------------------


def zeta_command(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the command line."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done.exit_code, done.stderr


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(8, 8)\n")
    zeta.save(nn.Linear(8, 8), zeta.plan(nn.Linear(8, 8), "torch"), tmp_path / "out", max_shard_size=64, seed=0)
    return tmp_path / "out"


SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("out/zeta.json", ("verify", "out")),
        (f"out/{SHARD}", ("verify", "out")),
        ("out/model.safetensors.index.json", ("verify", "out")),
        ("out/zeta.json", ("diff", "out", "out")),
        ("plan.json", ("diff", "plan.json", "out")),
        ("rules.toml", ("plan", "nets.py:net", "--rules", "rules.toml")),
        ("rules.json", ("plan", "nets.py:net", "--fallback", "rules.json")),
        ("rules.py", ("plan", "nets.py:net", "--rules", "rules.py")),
        ("pipe.py", ("plan", "pipe.py:net")),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(
    name: str, arguments: tuple[str, ...], saved: Path, tmp_path: Path
) -> None:
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    signal.alarm(60)  # ends all if somebody waits
    try:
        code, errors = zeta_command(*arguments)
    finally:
        signal.alarm(0)
    assert code == 2
    assert "is a pipe (FIFO), expected a regular file" in errors or "no such" in errors or "has no" in errors


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "nets.py:net", "--rules", f"{LONG}.toml"),
        ("plan", "nets.py:net", "--rules", f"{LONG}.py"),
        ("plan", "nets.py:net", "--fallback", LONG),
        ("plan", f"{LONG}.py:net"),
        ("plan", f"hf:{LONG}"),
        ("plan", "nets.py:net", "--kwargs", "[" * 200_000),
        ("plan", "nets.py:net", "--kwargs", "9" * 5000),
        ("verify", LONG),
        ("diff", f"{LONG}.json", "out"),
        ("diff", LONG, "out"),
        ("init", "nets.py:net", "--out", LONG),
        ("init", "nets.py:net", "--out", "new", "--max-shard-size", "9" * 100_000 + "GB"),
        ("init", "nets.py:net", "--out", "new", "--seed", "9" * 5000),
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_arguments_that_are_too_long_or_too_deep(arguments: tuple[str, ...], saved: Path) -> None:
    code, errors = zeta_command(*arguments)
    assert code == 2
    assert errors.startswith("zeta: ")


def test_doctor_with_a_backend_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZETA_KERNEL", "bad")
    code, errors = zeta_command("doctor")
    assert code == 2
    assert errors.startswith("zeta: ZETA_KERNEL must be one of ")


@pytest.mark.parametrize("target", [b"out", "a\0b", 3, Odd(), Path("\ud800")], ids=lambda target: type(target).__name__)
def test_folders_that_none_can_be(target: Any, saved: Path) -> None:
    with pytest.raises(ZetaError):
        zeta.verify(target)
    with pytest.raises(ZetaError):
        zeta.save(nn.Linear(2, 2), zeta.plan(nn.Linear(2, 2), "torch"), target, seed=0)


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..65536}", "{0..40000,0..40000}"])
def test_globs_that_stand_for_very_many_names(pattern: str) -> None:
    begin = time.process_time()
    assert glob(pattern).label == pattern
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 5000 + ")" * 5000, "(", ["a"], None])
def test_what_is_no_regular_expression(pattern: Any) -> None:
    with pytest.raises(SpecError, match="not a regular expression"):
        regex(pattern)
