"""Which pairs of Python and torch are tried, the page about them, and that the package accepts what was tried."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.versions import environments, main, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"


def rows(text: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def test_each_torch_and_each_python_is_in_a_pair() -> None:
    pythons, torches = ["3.11", "3.12", "3.13"], ["2.11.0", "2.12.1", "2.15.0"]
    chosen = list(main.pairs(pythons, torches, every=False))
    assert chosen == [
        *(("3.11", torch) for torch in ("2.15.0", "2.12.1", "2.11.0")),
        *(("3.13", "2.15.0"), ("3.12", "2.15.0"), ("3.13", "2.11.0"), ("3.12", "2.11.0")),
    ]
    every = list(main.pairs(pythons, torches, every=True))
    assert every[: len(chosen)] == chosen
    assert sorted(every) == [(python, torch) for python in pythons for torch in torches]


@pytest.mark.parametrize(
    ("module", "name", "part"),
    [
        ("tests.compute.test_triton", "test_compiled_stores_are_wide[80]", "sm_80"),
        ("tests.compute.test_triton", "test_compiled_arithmetic_is_what_the_source_says[100]", "sm_100"),
        ("tests.compute.test_triton", "test_every_law_has_the_references_bits[12]", "interpreter"),
        ("tests.compute.test_vectors", "test_anything[80]", "stream"),
        ("tests.write.test_apply", "test_compiled_something[80]", "library"),
    ],
)
def test_tests_are_counted_in_their_column(module: str, name: str, part: str) -> None:
    assert environments.part_of(module, name) == part


def test_the_files_that_are_tried_exist() -> None:
    files = (*environments.KERNELS, *environments.STREAM, *environments.LIBRARY)
    assert [name for name in files if not (ROOT / "tests" / f"{name}.py").exists()] == []


def test_the_page_says_what_passed_and_what_was_not_run(tmp_path: Path) -> None:
    counts = {"interpreter": {"passed": 136}, "sm_80": {"passed": 3}, "sm_90": {"passed": 2, "failed": 1}}
    versions = {"python": "3.11.7", "torch": "2.9.0+cu130", "triton": "3.5.1", "gpu": False}
    results = {
        "3.11 2.9.0": {**versions, "tests": {**counts, "library": {"passed": 5, "skipped": 2}}, "date": "2026-01-02"},
        "3.12 2.10.0": {"not run": "no wheel", "date": "2026-01-03"},
    }
    page = tmp_path / "page.md"
    table.write(page, results, ["3.11", "3.12"], ["2.9.0", "2.10.0"], {"3.14": "no network"})
    text = page.read_text(encoding="utf-8")
    newest, oldest = rows(text)
    assert (newest["torch"], newest["interpreter"], newest["library"]) == ("2.10.0", "not run", "not run")
    assert oldest == {
        "Python": "3.11.7",
        "torch": "2.9.0+cu130",
        "triton": "3.5.1",
        "date": "2026-01-02",
        "interpreter": "136 passed",
        "sm_80": "3 passed",
        "sm_90": "1 failed, 2 passed",
        "sm_100": "not run",
        "stream": "not run",
        "library": "5 passed, 2 skipped",
    }
    not_run = text.split("What was not run:")[1]
    assert "Python 3.14: not on the machine" in not_run
    assert "3.12 2.10.0: no wheel" in not_run
    assert "3.12 with 2.9.0, 3.11 with 2.10.0." in not_run
    assert "`tests/gpu`" in not_run


def test_the_package_accepts_what_was_run_and_passed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run = [row for row in rows(PAGE.read_text(encoding="utf-8")) if row["interpreter"] != "not run"]
    assert not [row for row in run if "failed" in " ".join(row.values())]
    torches, pythons = {minor(row["torch"]) for row in run}, {minor(row["Python"]) for row in run}
    lowest, (major, newest) = min(torches), max(torches)
    (torch,) = (text for text in project["dependencies"] if text.startswith("torch"))
    assert torch == f"torch>={lowest[0]}.{lowest[1]},<{major}.{newest + 1}"
    assert project["requires-python"] == ">={}.{}".format(*min(pythons))
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    assert {minor(version) for version in classified} == pythons
