"""What ``zeta doctor`` prints, and that a wrong answer is noticed."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform

import pytest
import torch
from typer.testing import CliRunner

import zeta
from zeta.command import doctor
from zeta.command.cli import app
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import answers, native

# published with the generator (Random123's kat_vectors, the C++26 draft [rand.predef]); not to be computed here
PUBLISHED = {
    "Philox, counter 0, key 0 (Random123)": "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "Philox, digits of pi (Random123)": "d16cfe09 94fdcceb 5001e420 24126ea1",
    "Philox, 10000th value (C++26)": "1955073260",
}


ANSWERS = [*doctor.KNOWN_ANSWERS, *(f"values of the {name} backend" for name in kernels.candidates())]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.stderr == ""
    return result.exit_code, result.stdout


def test_published_answers_are_among_the_known_ones() -> None:
    assert PUBLISHED.items() <= {name: expected for name, (expected, _) in doctor.KNOWN_ANSWERS.items()}.items()
    assert len(doctor.KNOWN_ANSWERS) == 5


@pytest.mark.keeps_rng
def test_a_healthy_machine() -> None:
    code, text = run()
    lines = text.splitlines()
    assert code == 0
    assert dict(line.split(maxsplit=1) for line in lines[:5]) == {
        "zeta": zeta.__version__,
        "stream": "1",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": doctor.versions()["triton"],
    }
    assert lines[5].startswith("machine ")
    assert lines[5].endswith(f", {torch.get_num_threads()} threads")
    assert lines[6].split(maxsplit=2) == ["backend", "cpu", kernels.backend().name]
    assert lines[7:] == [f"ok    {name}" for name in ANSWERS]


def test_json_says_the_same() -> None:
    code, text = run("--json")
    assert code == 0
    assert json.loads(text) == {
        "versions": doctor.versions(),
        "backends": doctor.backends(),
        "known_answers": dict.fromkeys(ANSWERS, True),
    }


@pytest.mark.parametrize("wrong", doctor.KNOWN_ANSWERS)
def test_one_wrong_answer_is_named_and_exits_with_1(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, compute = doctor.KNOWN_ANSWERS[wrong]
    last = "0" if expected[-1] != "0" else "1"
    monkeypatch.setitem(doctor.KNOWN_ANSWERS, wrong, (expected[:-1] + last, compute))
    code, text = run()
    assert code == 1
    assert [line for line in text.splitlines() if line.startswith("WRONG")] == [f"WRONG {wrong}"]
    assert text.count("ok    ") == len(ANSWERS) - 1
    code, text = run("--json")
    assert code == 1
    assert json.loads(text)["known_answers"] == {name: name != wrong for name in ANSWERS}


@pytest.mark.parametrize(
    ("part", "replacement", "caught"),
    [
        ("philox", lambda original: lambda counter, key: [word ^ 1 for word in original(counter, key)], 2),
        ("words_of_run", lambda original: lambda key, start, count: original(key, start + 1, count), 2),
        ("parameter_key", lambda original: lambda seed, name: original(seed + 1, name), 1),
        (
            "normal32",
            lambda original: lambda words, interval: original(words, interval).nextafter(torch.tensor(9.0)),
            1,
        ),
    ],
)
def test_a_part_that_computes_something_else_is_noticed(
    part: str, replacement: object, caught: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit, an index, a seed, a last place."""
    monkeypatch.setattr(doctor, part, replacement(getattr(doctor, part)))  # type: ignore[operator]
    assert list(doctor.known_answers().values()).count(False) == caught


def test_a_backend_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.proved.cache_clear()
    monkeypatch.setitem(answers.ANSWERS, "tail float16", "0")
    try:
        wrong = [name for name, right in doctor.known_answers().items() if not right]
    finally:
        kernels.proved.cache_clear()
    assert wrong == [name for name in ANSWERS if name.startswith("values of")]


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/x.so")
    caches = kernels._load, kernels._choice, kernels._warn
    for cache in caches:
        cache.cache_clear()
    try:
        code, text = run()
        assert code == 0
        assert "backend cpu        reference; better ones cannot be used: native: /nowhere/x.so: cannot open" in text
    finally:
        for cache in caches:
            cache.cache_clear()


def test_the_version_of_triton_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        assert package == "triton"
        raise importlib.metadata.PackageNotFoundError(package)

    try:
        assert doctor.versions()["triton"] == importlib.import_module("triton").__version__
    except ImportError:
        assert doctor.versions()["triton"] == "not installed"
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert doctor.versions()["triton"] == "not installed"


def test_a_backend_that_does_not_exist_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "sse9")
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert " ".join(result.stderr.split()).startswith("zeta: ZETA_KERNEL must be one of avx512_bf16, ")
