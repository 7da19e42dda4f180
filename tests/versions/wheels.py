"""Look into a wheel, and install it into a fresh environment: for ``make wheel`` and for ``tests/test_wheel.py``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Any


def contents(wheel: Path) -> tuple[list[str], str]:
    """The names of the files in it, and the text of ``WHEEL``."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        return names, archive.read(about).decode()


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone into a new environment in ``folder``, beside this one's packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    target = Path(_output(python, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run(command, check=True)
    # a path that a .pth file adds is searched after the environment's own, and its .pth files are not read:
    # an editable zeta there is not found
    (target / "shared.pth").write_text("\n".join([sysconfig.get_path("purelib"), *_added_paths()]), encoding="utf-8")
    return python


def _added_paths() -> list[str]:
    """What this environment itself adds by .pth files, such as the packages of another one."""
    own = Path(sysconfig.get_path("purelib"))
    lines = [line.strip() for file in own.glob("*.pth") for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.endswith("site-packages")]


def _output(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, cwd=python.parent)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


FIRST_USE = """
import json, warnings
import torch
warnings.filterwarnings("always")
with warnings.catch_warnings(record=True) as caught:
    import zeta
    report = zeta.init_(torch.nn.Linear(3, 2), "torch", seed=0)
from zeta import doctor
print(json.dumps({
    "file": zeta.__file__, "version": zeta.__version__, "report": report.as_dict(),
    "backends": doctor.backends(), "answers": doctor.known_answers(),
    "notices": [str(one.message) for one in caught if one.category is zeta.ZetaNotice],
}))
"""


def first_use(python: Path) -> dict[str, Any]:
    """What zeta says when it is used for the first time in an environment."""
    found: dict[str, Any] = json.loads(_output(python, FIRST_USE))
    return found


def main() -> None:
    """Check a wheel for Linux: it is manylinux, has the kernels, and gives the known answers where it is installed."""
    wheel = Path(sys.argv[1])
    names, about = contents(wheel)
    assert re.fullmatch(r"zeta_init-[\w.]+-py3-none-(manylinux_\d+_\d+_\w+\.?)+\.whl", wheel.name), wheel.name
    assert [name for name in names if name.endswith(".so")] == ["zeta/compute/stream/kernels/libzeta_native.so"], names
    assert "Tag: py3-none-manylinux_" in about, about
    with tempfile.TemporaryDirectory() as folder:
        found = first_use(install(wheel, Path(folder)))
        assert found["file"].startswith(folder), found["file"]
    assert found["backends"]["cpu"].startswith("native "), found["backends"]
    assert all(found["answers"].values()), found["answers"]
    assert not found["notices"], found["notices"]
    sys.stdout.write(f"{wheel}: {found['version']}, {found['backends']['cpu']}, all known answers\n")


if __name__ == "__main__":
    main()
