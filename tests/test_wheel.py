"""What a wheel is called and says: with the kernels it is for a platform, without them for any, and then it tells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.versions import wheels

ROOT = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the sources, with a library that an earlier build left there."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("src", "csrc"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "src" / "zeta" / "kernels" / "libzeta_native.so").write_bytes(b"of an earlier build")
    return copy


def build(source: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--wheel-dir", source / "dist", source]
    environment = {**os.environ, "PIP_BUILD_CONSTRAINT": str(ROOT / "constraints.txt"), **settings}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_without_a_compiler_the_wheel_is_for_any_platform_and_says_what_is_missing(
    source: Path, tmp_path: Path
) -> None:
    done = build(source, CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "No C++ compiler was found: the kernels cannot be compiled." in said
    assert "zeta is built without its compiled kernels" in said

    (wheel,) = (source / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    names, about = wheels.contents(wheel)
    assert "zeta/kernels/native.py" in names
    assert [name for name in names if name.endswith(".so")] == []
    assert {"Root-Is-Purelib: true", "Tag: py3-none-any"} <= set(about.splitlines())

    found = wheels.first_use(wheels.install(wheel, tmp_path / "fresh"))
    assert Path(found["file"]).is_relative_to(tmp_path / "fresh")
    missing = "native: zeta is installed without its compiled kernels; to have them, install it again"
    assert found["backends"]["cpu"].startswith(f"reference; better ones cannot be used: {missing}")
    assert found["report"]["backend"] == "reference"
    assert found["report"]["backend_problems"][0].startswith(missing)
    (notice,) = found["notices"]
    assert missing in notice
    assert all(found["answers"].values())


@pytest.mark.slow
def test_a_build_that_must_have_kernels_fails_without_a_compiler(source: Path) -> None:
    done = build(source, CXX="/nowhere/c++", ZETA_REQUIRE_KERNELS="1")
    assert done.returncode != 0
    assert not (source / "dist").exists() or list((source / "dist").iterdir()) == []


@pytest.mark.slow
def test_a_compiler_that_is_installed_later_is_found(source: Path) -> None:
    """In the same folder: what CMake remembers of the first build is not in the way."""
    assert build(source, CXX="/nowhere/c++").returncode == 0
    done = build(source, ZETA_REQUIRE_KERNELS="1")
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*linux*.whl")
    names, about = wheels.contents(wheel)
    assert [name for name in names if name.endswith(".so")] == ["zeta/kernels/libzeta_native.so"]
    assert "Root-Is-Purelib: false" in about


@pytest.mark.slow
def test_what_is_distributed_as_source_has_no_library(source: Path) -> None:
    code = (
        "import sys, tarfile, scikit_build_core.build as backend\n"
        "print(*tarfile.open('dist/' + backend.build_sdist('dist')).getnames(), sep='\\n')"
    )
    place = source / "backend"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", place, "scikit-build-core"]
    subprocess.run([*command, "-c", ROOT / "constraints.txt"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.returncode == 0, done.stderr
    names = {name.partition("/")[2] for name in done.stdout.split()}
    assert {"CMakeLists.txt", "pyproject.toml", "csrc/zeta.h", "src/zeta/py.typed", "LICENSE"} <= names
    assert not {name for name in names if name.endswith(".so")}
