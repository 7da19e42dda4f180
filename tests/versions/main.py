"""``tests/versions/run``: the tests on each pair of Python and torch that can be had, and the table of what came out.

By default each release of torch with the oldest Python, and each Python with the newest and the oldest torch. Each pair
gets a separate environment, with everything that torch depends on (some 5 GB with CUDA's libraries), which is removed
afterwards. Results stay in ``build/versions/results.json``, so that an interrupted run goes on; ``--again`` forgets
them. Only the standard library and pip are needed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.versions import environments, table
from tests.versions.environments import KERNELS, LIBRARY, ROOT, STREAM, say

FOLDER = ROOT / "build" / "versions"
RESULTS = FOLDER / "results.json"
TABLE = ROOT / "docs" / "compatibility.md"


def pairs(pythons: list[str], torches: list[str], *, every: bool) -> Iterator[tuple[str, str]]:
    """Pairs of Python and torch, the most telling ones first; both lists have the oldest first."""
    chosen = [(pythons[0], torch) for torch in reversed(torches)]
    chosen += [(python, torch) for torch in (torches[-1], torches[0]) for python in reversed(pythons)]
    if every:
        chosen += [(python, torch) for python in pythons for torch in torches]
    yield from dict.fromkeys(chosen)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/versions/run", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--all", action="store_true", help="every Python with every torch")
    parser.add_argument("--stream", action="store_true", help="only the tests of the kernels and the stream: minutes")
    parser.add_argument("--python", action="append", metavar="3.N", help="only this Python; may be repeated")
    parser.add_argument("--torch", action="append", metavar="X.Y.Z", help="only this torch; may be repeated")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the environments are made")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.again:
        RESULTS.unlink(missing_ok=True)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    uv = environments.Uv(asked.folder)
    pythons, missing = uv.pythons(project["requires-python"])
    torches = environments.torch_releases(project["dependencies"])
    files = (*KERNELS, *STREAM, *(() if asked.stream else LIBRARY))
    wheel = environments.build_wheel(asked.folder / "wheel")
    for python, torch in pairs(list(pythons), torches, every=asked.all):
        wanted = python in (asked.python or pythons) and torch in (asked.torch or torches)
        known = results.get(f"{python} {torch}")
        if not wanted or (known and (asked.stream or "library" in known.get("tests", {}))):
            continue
        say(f"Python {python}, torch {torch}")
        place = asked.folder / f"py{python}-torch{torch}"
        try:
            result = environments.tried(uv, pythons[python], torch, wheel, place, files=files)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        results[f"{python} {torch}"] = {**result, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        say(json.dumps(result))
        RESULTS.write_text(json.dumps(results, indent=1), encoding="utf-8")
        table.write(TABLE, results, pythons, torches, missing)
    table.write(TABLE, results, pythons, torches, missing)


if __name__ == "__main__":
    main()
