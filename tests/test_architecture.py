"""The shape of the package: who may import whom, what an import brings along, what is public."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import zeta

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "zeta"
LONGEST_FILE = 420

# The stages, in order: each imports from itself and from those before it.
BASE = ("base", "errors", "_version")
DESCRIBE = ("initializers", "fans", "gains", "rules", "recipes", "growing")
STAGES = {
    **dict.fromkeys(BASE, "base"),
    **dict.fromkeys(DESCRIBE, "describe"),
    **{folder: folder for folder in ("resolve", "compute", "write", "report")},
}
ORDER = ["base", "describe", "resolve", "compute", "write", "report", "beside"]
# what a check is made of, in order
CHECK = ["facts", "watch", "measure", "judge", "show"]

# (importing module, imported module): why it may reach into a later stage
EXCEPTIONS: dict[tuple[str, str], str] = {}

# where a global generator is used, and why that is meant
GLOBAL_RNG = {
    "zeta.compute.stream.random.draw_seed: torch.randint": "seed=None asks for it",
    "zeta.base.generators.private._shared: torch.default_generator": "to copy its state, and to lend it",
    "zeta.base.generators.private.Private._dropout: torch.empty_like(x, dtype=torch.bool).bernoulli_": "its own",
    "zeta.base.generators.functions._function: torch.random": "to exchange functions for one thread",
    "zeta.check.measure.jacobians._normal: torch.randn_like": "probes, from a private generator",
    "zeta.check.measure.jacobians._normal: torch.randn": "a generator of its own, the same on each rank",
    "zeta.command.samples._tokens: torch.randint": "a generator of its own, for a batch",
    "zeta.command.samples._pixels: torch.randint": "likewise",
    "zeta.command.samples._pixels: torch.randn": "likewise",
    "zeta.resolve.recording.tracing.recorder.Recorder.place: torch.default_generator._cdata": "to leave it alone",
    "zeta.resolve.recording.tracing.randomness._torch_draw: empty.uniform_": "frozen values, likewise",
    "zeta.resolve.recording.tracing.randomness._torch_draw: empty.normal_": "frozen values, likewise",
    "zeta.resolve.recording.tracing.randomness._torch_draw: torch.nn.init.trunc_normal_": "likewise",
}


def name_of(path: Path) -> str:
    parts = ("zeta", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def stage_of(module: str) -> str:
    """By the folder that it is in; what is beside the stages may use all of them."""
    return "beside" if module == "zeta" else STAGES.get(module.split(".")[1], "beside")


def imports(node: ast.AST) -> Iterator[str]:
    """Everything that is imported anywhere below ``node``, in functions too; zeta's own names as modules."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, "imports are absolute"
            assert part.module is not None
            for alias in part.names:
                inner = f"{part.module}.{alias.name}"
                yield inner if inner in MODULES else part.module


def test_what_is_beside_the_stages_is_known() -> None:
    assert len(MODULES) > 150
    beside = {module.split(".")[1] for module in MODULES if module != "zeta" and stage_of(module) == "beside"}
    verbs = {"adapters", "adapting", "scaling", "tensors", "utils", "verbs"}
    assert beside == {*verbs, "__main__", "callbacks", "testing", "check", "command"}
    assert {module.split(".")[1] for module in MODULES if module != "zeta"} - beside == set(STAGES)


def test_no_folder_is_crowded() -> None:
    folders: dict[Path, int] = {}
    for path in MODULES.values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {folder.name: n for folder, n in folders.items() if n > 14} == {}


def test_the_parts_of_a_check_are_in_order() -> None:
    later = [
        f"{module} imports {imported}"
        for module in MODULES
        if module.startswith("zeta.check.") and (part := module.split(".")[2]) in CHECK
        for imported in imports(tree(module))
        if imported.startswith("zeta.check.") and imported.split(".")[2] not in CHECK[: CHECK.index(part) + 1]
    ]
    assert later == []


def test_imports_come_from_the_same_stage_or_an_earlier_one() -> None:
    wrong = []
    for module in MODULES:
        for imported in imports(tree(module)) if module != "zeta" else ():
            if imported.split(".")[0] == "zeta" and (module, imported) not in EXCEPTIONS:
                if imported not in MODULES:
                    wrong.append(f"{module} imports {imported}, which is not a module")
                elif ORDER.index(stage_of(imported)) > ORDER.index(stage_of(module)):
                    wrong.append(f"{module}, in {stage_of(module)}, imports {imported}")
    assert wrong == []


def test_no_exception_is_out_of_date() -> None:
    assert [pair for pair in EXCEPTIONS if pair[1] not in set(imports(tree(pair[0])))] == []


def test_imports_make_no_circle() -> None:
    graph = {
        module: {i for i in imports(tree(module)) if i in MODULES and i not in ("zeta", module)}
        for module in MODULES
        if module != "zeta"
    }
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_the_readme_shows_the_same_stages() -> None:
    _, section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## How it is built\n")
    rows = re.findall(r"^\| (\w+) \|[^|]*\|([^|]*)\|$", section.split("\n## ")[0], re.MULTILINE)
    shown = {stage: set(re.findall(r"`(\w+)(?:/|\.py)`", modules)) for stage, modules in rows if stage != "stage"}
    assert shown == {"describe": set(DESCRIBE), **{stage: {stage} for stage in ORDER[2:-1]}}


def at_top_level(module: str) -> Iterator[str]:
    for node in tree(module).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name.split(".")[0] for name in imports(node))


def test_what_is_imported_at_the_top_is_declared_and_nothing_else_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    used = {name for module in MODULES for name in at_top_level(module)} - {"zeta"} - set(sys.stdlib_module_names)
    # what zeta writes is read with safetensors; zeta itself needs only the format
    assert used - {"triton"} == declared - {"safetensors"}


def test_optional_packages_are_imported_where_they_are_needed_alone() -> None:
    known = {"zeta", "torch", "rich", "typer", "msgspec"} | set(sys.stdlib_module_names)
    used = {(module, name.split(".")[0]) for module in MODULES for name in imports(tree(module))}
    optional = {(module, name) for module, name in used if name not in known}
    assert optional == {
        ("zeta.adapting.missing", "transformers"),
        ("zeta.adapting.old", "transformers"),
        ("zeta.base.sources.tokens", "tokenizers"),
        ("zeta.resolve.adapting.converted", "transformers"),
        ("zeta.callbacks", "lightning"),
        ("zeta.callbacks", "transformers"),
        ("zeta.command.loading", "transformers"),
        ("zeta.adapting.configuration", "huggingface_hub"),
        ("zeta.compute.stream.kernels.triton", "triton"),
        ("zeta.check.show.html", "plotly"),
        ("zeta.base.progress", "tqdm"),
    }


IMPORT = """
import sys, warnings
import torch, torch.distributed.tensor, torch.nn.utils.parametrizations
before, state = set(sys.modules), torch.get_rng_state()
settings = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), torch.is_grad_enabled()
warnings.simplefilter("error")
import zeta, zeta.utils, zeta.verbs, zeta.check
assert torch.equal(torch.get_rng_state(), state), "torch's random numbers moved"
assert settings == (
    torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), torch.is_grad_enabled()
)
print("\\n".join(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
print("\\n".join(sorted(name for name in sys.modules if name.startswith("zeta."))))
"""


def test_importing_zeta_is_light_and_changes_nothing() -> None:
    """Rich comes when something is shown; typer belongs to the command line alone."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    brought = set(done.stdout.split())
    assert "zeta" in brought
    unwanted = {
        "rich",
        "tqdm",
        "triton",
        "transformers",
        "plotly",
        "scipy",
        "numpy",
        "matplotlib",
        "safetensors",
        "typer",
        "click",
    }
    assert brought & unwanted == set()
    assert [name for name in brought if name.startswith(("zeta.command.", "zeta.rules.file"))] == []


def test_the_small_calls_do_not_import_what_they_do_not_use() -> None:
    program = 'import sys\nfrom zeta.utils import init_zero_\nprint("\\n".join(sys.modules))'
    brought = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    unused = ["recording.tracing", "recording.recognition", "recording.record", "scaling", "roles."]
    parts = (*(f"zeta.resolve.{part}" for part in unused), "zeta.report", "zeta.write.checkpoint", "zeta.check")
    assert [name for name in brought if name.startswith(parts)] == []


HELP = """
import sys
from zeta.command.cli import main
sys.argv = ["zeta", *{arguments!r}]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


COMMANDS = ("init", "scale", "check", "plan", "verify", "diff", "recipes", "doctor")


BARE = """
import sys, typer
app = typer.Typer()
@app.command()
def one(): pass
@app.command()
def two(): pass
sys.argv = ["bare", "one", "--help"]
app()
"""


def finished(program: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """What a program wrote, and the processor time that it took."""
    before = os.times()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    after = os.times()
    return done, after.children_user + after.children_system - before.children_user - before.children_system


@functools.cache
def limit() -> float:
    """0.4 s; on a machine where typer alone takes longer than half of that, twice of what typer takes."""
    return max(0.4, 2 * min(finished(BARE)[1] for _ in range(3)))


@pytest.mark.parametrize("line", ["--help", "--version", "recipes", *(f"{command} --help" for command in COMMANDS)])
def test_help_needs_no_torch_and_comes_at_once(line: str) -> None:
    program = HELP.format(arguments=line.split())
    done, seconds = finished(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Llama: weights" in done.stdout or "Usage" in done.stdout or zeta.__version__ in done.stdout
    assert seconds <= 0.4 or min(seconds, finished(program)[1], finished(program)[1]) <= limit()


def test_files_stay_small() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > LONGEST_FILE} == {}


PUBLIC = [
    (module, name)
    for module in ("zeta", "zeta.adapters", "zeta.utils", "zeta.initializers", "zeta.recipes")
    for name in sorted(importlib.import_module(module).__all__)
    if name != "__version__"
]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_names_exist_and_are_documented(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    if inspect.ismodule(found) or inspect.isfunction(found) or inspect.isclass(found):
        text = found.__doc__ or ""  # and not getdoc: a docstring of its own, not a base's
        assert text.strip().split("\n\n")[0].rstrip().endswith((".", ":")), "a first sentence"
        assert not text.startswith(f"{name}("), "a dataclass without a docstring shows its signature"


def test_the_public_names_are_listed_once_and_not_forgotten() -> None:
    assert len(set(zeta.__all__)) == len(zeta.__all__)
    typed = {
        alias.asname or alias.name: f"zeta.{alias.name}" if node.module == "zeta" else node.module
        for node in ast.walk(tree("zeta"))
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing")
        for alias in node.names
    }
    homes = {name: home for home, names in zeta._HOMES.items() for name in names}
    assert {**homes, "__version__": "zeta._version"} == {
        name: "zeta.fans" if name == "fans" else "zeta.check" if name == "check" else home
        for name, home in typed.items()
    }
    assert sorted(typed) == sorted(zeta.__all__) == dir(zeta)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert zeta.__version__ == project["version"]


def test_what_stages_hand_over_is_frozen() -> None:
    changeable = []
    for module in MODULES:
        for node in (node for node in ast.walk(tree(module)) if isinstance(node, ast.ClassDef)):
            records = [text for text in map(ast.unparse, node.decorator_list) if text.split("(")[0] == "dataclass"]
            if any(ast.unparse(base) in ("Struct", "msgspec.Struct") for base in node.bases):
                records.append(", ".join(map(ast.unparse, node.keywords)))
            changeable += [f"{module}.{node.name}" for text in records if "frozen=True" not in text]
    assert changeable == []


# -- the global generators ---------------------------------------------------------------------------------------------

FUNCTIONS = re.compile(
    r"torch\.(manual_seed|seed|rand\w*|normal|bernoulli|multinomial|poisson|default_generator.*|random\..*|set_rng_state)"
    r"|torch\.cuda\..*seed\w*|(torch\.)?nn\.init\..*|F\.\w*dropout\w*|(np|numpy)\.random\..*"
)
METHODS = re.compile(r"(normal|uniform|random|bernoulli|exponential|cauchy|geometric|log_normal)_|reset_parameters")


def draws(module: str) -> Iterator[str]:
    """``module.function: name`` of every use of something that reads, seeds or draws from a global generator."""

    def visit(node: ast.AST, inside: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Attribute):
                text = ast.unparse(child)
                if FUNCTIONS.fullmatch(text) or METHODS.fullmatch(child.attr):
                    yield f"{inside}: {text}"
                    continue
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            yield from visit(child, f"{inside}.{child.name}" if named else inside)  # type: ignore[attr-defined]

    return visit(tree(module), module)


def test_global_generators_are_used_only_on_purpose() -> None:
    """Values come from keys. To fork and restore the state would rewind it for other threads."""
    assert {use for module in MODULES for use in draws(module)} == set(GLOBAL_RNG)


FACTORIES = (
    *("arange", "asarray", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones"),
    *("rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros", "Generator"),
)

# where no device is named, and why that is meant
UNNAMED = {"zeta.base.language.operations: torch.as_tensor": "operands that are numbers; run outside of all modes"}


def test_new_tensors_name_their_device() -> None:
    """Where the user's default device is meta or a GPU, others would go there."""
    factories = {f"torch.{name}" for name in FACTORIES}
    unnamed = []
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in factories:
                named = any(keyword.arg in ("device", None) for keyword in node.keywords)
                where = f"{module}: {called}"
                if not named and where not in UNNAMED and not (called == "torch.Generator" and node.args):
                    unnamed.append(f"{module}: {ast.unparse(node)}")
    assert unnamed == []


def test_no_module_takes_randomness_from_elsewhere() -> None:
    sources = {"random", "secrets", "uuid", "numpy", "numpy.random"}
    used = {(module, name) for module in MODULES for name in imports(tree(module)) if name in sources}
    assert used == {("zeta.command.options", "secrets")}, "which is for --seed random"
