"""Find Pythons and releases of torch, make the environment of a pair, and run the tests in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
NEWEST_PYTHON = 14
ARCHITECTURES = ("80", "90", "100")

#: what the tests need in addition to zeta and its dependencies
TOOLS = ("pytest", "hypothesis", "jsonschema", "numpy", "scipy", "safetensors")

#: the kernels and the stream; and what depends most on torch's own code
KERNELS = ("compute/test_triton",)
STREAM = ("compute/test_random", "compute/test_vectors", "describe/test_initializers")
LIBRARY = (
    "write/test_apply",
    "write/test_materialize",
    "resolve/test_recording",
    "write/test_sharded_models",
    "write/checkpoint/test_checkpoint",
    "check/test_check",
)

# Settings of this machine's pip, such as wheels on its disk, would decide which build of torch is tried.
SETTINGS = {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "PIP_FIND_LINKS")}
SETTINGS |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}


class NotPossibleError(Exception):
    """An environment cannot be made; the text says why."""


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _run(command: list[Any], **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**SETTINGS, **settings}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


def _must(command: list[Any], **settings: str) -> str:
    done = _run(command, **settings)
    if done.returncode:
        raise NotPossibleError(" ".join(done.stderr.split())[-300:] or f"{command[0]} failed without a reason")
    return done.stdout


class Uv:
    """The installer: it unpacks each package once, and links the environments' files to that copy."""

    def __init__(self, folder: Path) -> None:
        tools = folder / "tools"
        self.command = tools / "bin" / "uv"
        # where the copies lie: on the disk of the environments, or they could not be linked
        self.settings = {"UV_CACHE_DIR": str(folder / "cache"), "UV_LINK_MODE": "hardlink", "UV_NO_CONFIG": "1"}
        if not self.command.exists():
            _must([sys.executable, "-m", "venv", tools])
            _must([tools / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"])

    def __call__(self, *arguments: Any) -> str:
        return _must([self.command, *arguments], **self.settings)

    def pythons(self, requires: str) -> tuple[dict[str, Path], dict[str, str]]:
        """The Pythons that are here or can be installed, oldest first; and the versions that cannot, and why."""
        oldest = int(re.fullmatch(r">=3\.(\d+)", requires)[1])  # type: ignore[index]
        found, missing = {}, {}
        for version in (f"3.{minor}" for minor in range(oldest, NEWEST_PYTHON + 1)):
            places = [shutil.which(f"python{version}"), *sorted(_pyenv().glob(f"{version}.*/bin/python"))]
            here = next((Path(place) for place in places if place and _answers(place, version)), None)
            try:
                found[version] = here or Path(self._installed(version))
            except NotPossibleError as reason:
                missing[version] = str(reason)
        if not found:
            raise SystemExit(f"no Python that zeta accepts was found: {missing}")
        return found, missing

    def _installed(self, version: str) -> str:
        self("python", "install", version)
        return self("python", "find", version).strip()


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"


def _answers(python: str | Path, version: str) -> bool:
    """Whether the command is the Python that its name says: it may be a script that chooses one."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return _run([python, "-c", code]).stdout.strip() == version


def torch_releases(dependencies: list[str]) -> list[str]:
    """The newest release of each minor version of torch, from the oldest that zeta accepts on."""
    (requirement,) = (text for text in dependencies if re.match(r"torch\b", text))
    oldest = tuple(int(part) for part in re.search(r">=(\d+)\.(\d+)", requirement).groups())  # type: ignore[union-attr]
    listed = _must([sys.executable, "-m", "pip", "index", "versions", "torch"])
    newest: dict[tuple[int, ...], tuple[int, ...]] = {}
    for version in sorted(tuple(map(int, parts)) for parts in re.findall(r"\b(\d+)\.(\d+)\.(\d+)\b", listed)):
        if version[:2] >= oldest:
            newest[version[:2]] = version
    return [".".join(map(str, version)) for version in newest.values()]


def build_wheel(folder: Path) -> Path:
    """The wheel that every environment installs."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    _must(command, ZETA_REQUIRE_KERNELS="1")
    (wheel,) = folder.glob("*.whl")
    return wheel


VERSIONS = """
import json, platform, torch, triton
versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
print(json.dumps({**versions, "gpu": torch.cuda.is_available()}))
"""


def tried(uv: Uv, python: Path, torch: str, wheel: Path, place: Path, *, files: Iterable[str]) -> dict[str, Any]:
    """What came out of one pair: its exact versions and the counts of tests, or why it was not run."""
    inside = place / "bin" / "python"
    constraints = place / "constraints.txt"
    # torch says itself which triton, setuptools and numpy it works with
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [pin for pin in pins if not re.match(r"(torch|triton|setuptools|numpy)==", pin)]
    try:
        uv("venv", "--clear", "--python", python, place)
        constraints.write_text("\n".join(kept), encoding="utf-8")
        install = ("pip", "install", "--python", inside, "--constraint", constraints)
        uv(*install, f"torch=={torch}", *TOOLS, wheel)
        versions = json.loads(_must([inside, "-W", "ignore", "-c", VERSIONS]))
    except NotPossibleError as reason:
        return {"not run": str(reason)}
    return {**versions, "tests": _tests(inside, place / "tests.xml", files)}


def _tests(python: Path, found: Path, files: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many tests of each part passed, failed and were skipped; what failed is printed."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={found}"]
    done = _run([*command, *(f"tests/{name}.py" for name in files)])
    if not found.exists():
        raise SystemExit(f"the tests could not be run:\n{done.stdout}{done.stderr}")
    counts: dict[str, dict[str, int]] = {}
    for case in ElementTree.parse(found).iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        of_part = counts.setdefault(part_of(case.get("classname", ""), case.get("name", "")), {})
        of_part[outcome] = of_part.get(outcome, 0) + 1
    say("\n".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))))
    return counts


def part_of(module: str, name: str) -> str:
    """The column of the table that a test belongs to."""
    file = "/".join(module.split(".")[1:])  # without "tests"
    if file not in KERNELS:
        return "stream" if file in STREAM else "library"
    compiled = re.match(r"test_compiled_\w+\[(\d+)\]", name)
    return f"sm_{compiled[1]}" if compiled else "interpreter"
