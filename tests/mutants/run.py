"""Change one operator of a core module at a time, and see whether a test of the module fails. Run by ``make mutants``.

python -m tests.mutants.run --count 300 --seed 0 --module fans --module check/judge/full

The mutations are cosmic-ray's: another comparison, ``-`` for ``+``, ``*`` for ``/``, a sign, ``and`` for ``or``, no
``not``. They are made in a copy of the tree, build/mutants/tree, and tested in an environment of its own,
build/mutants/venv, whose ``zeta`` is the copy. A mutant is killed if a test fails or does not end; the others are
printed. alive.toml has those that are known to change nothing, with the reason; they are left out.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from zeta.compute.stream import kernels
from zeta.compute.stream.kernels.native import library_path

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("alive.toml")
WORK = ROOT / "build" / "mutants"
TREE, VENV = WORK / "tree", WORK / "venv"
#: a mutant has 20 s and this many times as long as the unmutated code; this fraction must die
PATIENCE, ENOUGH, BEGIN = 4, 0.9, time.monotonic()

#: for each module its test files, the fastest first
MODULES = {
    "fans": "fans usage",
    "gains": "gains utils_values",
    "initializers/elementwise": "initializers distributions",
    "initializers/matrix": "initializers matrices",
    "initializers/scaling": "initializers fans",
    "initializers/blocks": "blocks rulefile",
    "initializers/checking": "operations programs",
    "compute/sampling": "extremes programs flushing vectors blocks apply",
    "compute/sums": "sums",
    "compute/matrices": "matrices flushing",
    "compute/programs": "programs operations",
    "compute/stream/regions": "regions extremes",
    "compute/stream/random": "random gaussian",
    "write/shards": "shards",
    "write/targets": "shards guards apply",
    "report/measuring": "distributions report blocks",
    "report/scores": "report",
    "report/expected": "report rounding",
    "report/digests": "digests",
    "resolve/fitting": "utils_names apply materialize",
    "resolve/planning": "names planning",
    "resolve/resolver": "names planning override",
    "resolve/roles/finding": "roles roles_transformers",
    "resolve/slots": "names planning",
    "resolve/casting": "casting",
    "resolve/scaling/alignment": "inference",
    "resolve/scaling/classes": "inference ends schemes umup",
    "resolve/scaling/groups": "groups",
    "resolve/scaling/heads": "groups",
    "resolve/scaling/laws": "schemes inference",
    "resolve/scaling/multipliers": "multipliers umup",
    "resolve/scaling/queries": "attention multipliers",
    "resolve/scaling/schemes": "schemes umup groups",
    "resolve/scaling/solve": "schemes umup inference",
    "resolve/scaling/sources": "attention ends",
    "resolve/scaling/table": "groups schemes inference",
    "resolve/scaling/trials": "inference",
    "check/measure/sizes/slopes": "check_rules",
    "check/measure/sizes/sweeps": "family coordinates",
    **dict.fromkeys((f"check/judge/{name}" for name in ("base", "full", "forward", "backward", "head")), "check_rules"),
}

_BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_FloorDiv Pow_Mul"
_BITS = "BitOr_BitAnd BitAnd_BitOr BitXor_BitOr RShift_LShift LShift_RShift"
_EQUAL = "Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
_LESS = "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt"
OPERATORS = (
    *(f"core/ReplaceBinaryOperator_{name}" for name in f"{_BINARY} {_BITS}".split()),
    *(f"core/ReplaceComparisonOperator_{name}" for name in f"{_EQUAL} {_LESS}".split()),
    *("core/ReplaceUnaryOperator_USub_UAdd", "core/ReplaceUnaryOperator_Delete_Not"),
    *("core/ReplaceAndWithOr", "core/ReplaceOrWithAnd"),
)

# Runs pytest in a fork for each line "SECONDS ARGUMENTS", and answers with its exit code. zeta is not imported before.
SERVER = """
import os, signal, sys, time
import numpy, pytest, scipy.stats, torch
for line in sys.stdin:
    seconds, *arguments = line.split()
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os._exit(pytest.main(arguments))
    end = time.monotonic() + float(seconds)
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.02)
    if not done[0]:
        os.killpg(child, signal.SIGKILL)
        done = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(done[1]), flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A module with one operator changed."""

    module: str
    before: str  #: the lines that differ, without indentation
    after: str
    code: str
    diff: str


def places(module: str) -> list[tuple[str, str, int]]:
    """Where a module can be changed: the module, the operator's name, and the number of the place."""
    nodes = list(ast_nodes(get_ast((TREE / f"src/zeta/{module}.py").read_text())))
    found = []
    for name in OPERATORS:
        positions = get_operator(name)().mutation_positions
        found += [(module, name, number) for number in range(sum(len(list(positions(node))) for node in nodes))]
    return found


def mutant_at(module: str, name: str, number: int) -> Mutant | None:
    """The mutant at a place; ``None`` if it is not Python or differs in annotations only."""
    path = f"src/zeta/{module}.py"
    code = (TREE / path).read_text()
    changed = mutate_code(code, get_operator(name)(), number)
    if changed is None or _without_annotations(changed) in (None, _without_annotations(code)):
        return None
    lines = list(difflib.unified_diff(code.splitlines(), changed.splitlines(), path, path, "", "", 1, ""))
    before, after = (" ".join(one[1:].strip() for one in lines[3:] if one[0] == sign) for sign in "-+")
    return Mutant(module=module, before=before, after=after, code=changed, diff="\n".join(lines[2:]))


def _without_annotations(code: str) -> str | None:
    """The code as the syntax tree has it, without annotations, which are never evaluated; ``None`` if it is no code."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(0)
        elif isinstance(node, ast.arguments):  # by position or by name is the caller's matter
            node.args, node.posonlyargs, node.kwonlyargs = node.posonlyargs + node.args + node.kwonlyargs, [], []
            node.defaults, node.kw_defaults = node.defaults + [one for one in node.kw_defaults if one], []
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def copy_tree() -> None:
    """Copy the files that git knows, and the compiled kernels, and make an environment whose zeta is the copy."""
    shutil.rmtree(WORK, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)
    shutil.copy2(library_path(kernels.__path__), TREE / "src/zeta/compute/stream/kernels")
    venv.create(VENV, with_pip=False)
    (site,) = VENV.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "mutants.pth").write_text("\n".join((str(TREE / "src"), *installed)) + "\n")


class Runner:
    """The process that runs tests on the copy."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        where = [VENV / "bin" / "python", "-c", "import zeta; print(zeta.__file__)"]
        said = subprocess.run(where, cwd=WORK, check=True, capture_output=True, text=True, env=environment).stdout
        if not Path(said.strip()).is_relative_to(TREE):
            raise SystemExit(f"the tests would use {said.strip()}, and not the copy in {TREE}")
        command, pipe = [VENV / "bin" / "python", "-c", SERVER], subprocess.PIPE
        self._server = subprocess.Popen(command, cwd=TREE, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._times = numbers(1)
        self._lengths: dict[str, float] = {}

    def passes(self, tests: str, seconds: float) -> bool:
        """Whether the tests pass, in time."""
        found = (next((ROOT / "tests").rglob(f"test_{name}.py")) for name in tests.split())
        files = " ".join(str(path.relative_to(ROOT)) for path in found)
        print(seconds, "-x -q -p no:cacheprovider", files, file=self._server.stdin, flush=True)
        return next(self._server.stdout or iter(())) == "0\n"

    def length(self, tests: str) -> float:
        """The seconds that the tests take on the code as it is."""
        if tests not in self._lengths:
            begin = time.monotonic()
            if not self.passes(tests, 1800):
                raise SystemExit(f"the tests {tests} fail without any mutation")
            self._lengths[tests] = time.monotonic() - begin
        return self._lengths[tests]

    def killed(self, mutant: Mutant) -> bool:
        """Whether a test of the module fails on the mutant, or does not end."""
        tests = MODULES[mutant.module]
        seconds = 20 + PATIENCE * self.length(tests)
        path = TREE / "src" / "zeta" / f"{mutant.module}.py"
        code = path.read_text()
        try:
            self._write(path, mutant.code)
            return not self.passes(tests, seconds)
        finally:
            self._write(path, code)

    def _write(self, path: Path, code: str) -> None:
        """Each version gets a time of its own: Python recognizes compiled code by the time and size of its source."""
        path.write_text(code)
        at = 1_000_000_000 + next(self._times)
        os.utime(path, (at, at))


def main() -> int:
    """Print each mutant that lives, and a table; 1 if fewer than 90 % die."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="mutants in all, drawn at random (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", choices=MODULES, help="only this one; may be repeated")
    given = parser.parse_args()
    copy_tree()
    known = {(one["module"], one["before"], one["after"]) for one in tomllib.loads(KNOWN.read_text())["alive"]}
    drawn: list[Mutant] = []
    everything = [place for module in given.module or MODULES for place in places(module)]
    random.Random(given.seed).shuffle(everything)
    while everything and len(drawn) < given.count:
        mutant = mutant_at(*everything.pop())
        if mutant is not None and (mutant.module, mutant.before, mutant.after) not in known:
            drawn.append(mutant)
    sys.stdout.write(f"{len(drawn)} mutants, seed {given.seed}\n")
    runner, killed, alive = Runner(), dict.fromkeys(MODULES, 0), dict.fromkeys(MODULES, 0)
    try:
        for mutant in sorted(drawn, key=lambda one: list(MODULES).index(one.module)):
            if runner.killed(mutant):
                killed[mutant.module] += 1
            else:
                alive[mutant.module] += 1
                sys.stdout.write(f"alive: src/zeta/{mutant.module}.py\n{mutant.diff}\n\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write("stopped: the table has those that were tried\n")
    rows = [(module, killed[module], alive[module]) for module in MODULES if killed[module] + alive[module]]
    rows.append(("all", sum(killed.values()), sum(alive.values())))
    sys.stdout.write("| module | mutants | killed | alive |\n" + "|---" * 4 + "|\n")
    sys.stdout.writelines(f"| {name} | {dead + left} | {dead} | {left} |\n" for name, dead, left in rows)
    sys.stdout.write(f"{time.monotonic() - BEGIN:.0f} s\n")
    return 1 if sum(killed.values()) < ENOUGH * sum((*killed.values(), *alive.values())) else 0


if __name__ == "__main__":
    sys.exit(main())
