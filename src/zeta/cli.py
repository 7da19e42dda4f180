"""The command line: parse, call, print.

Exit codes: 0 done, 1 the values are not as planned or do not verify, 2 wrong use or not possible.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from zeta import __version__, apply, doctor, dtypes, recipes, verbs
from zeta.errors import UsageError, ZetaError
from zeta.files import MAX_SHARD_SIZE, bytes_of, check_folder, files_of
from zeta.loading import load_model
from zeta.planning import plan
from zeta.plans import Plan
from zeta.random import check_seed
from zeta.rulefile import read_rules

app = typer.Typer(
    help="Weight initialization for PyTorch: decide, compute, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_stdout = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="path/to/file.py:callable, package.module:callable or hf:path/to/config.json"),
]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="a recipe by name; zeta recipes lists them")]
RulesOption = Annotated[
    Path | None, typer.Option("--rules", help="a rule file: .toml, .json, or .py that defines rules")
]
KwargsOption = Annotated[
    str, typer.Option("--kwargs", metavar="JSON", help="keyword arguments for the callable or the configuration")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="dtype of the floating-point tensors, such as bfloat16")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="where the model is built: meta allocates nothing; cpu keeps computed buffers")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout, for machines")]
DebugOption = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="the folder that zeta init wrote")]


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Print what went wrong as a paragraph on stderr and exit with 2."""
    try:
        yield
    except ZetaError as error:
        if debug:
            raise
        _stderr.print("; ".join([f"zeta: {error}", *_notes(error)]))
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _stderr.print("; ".join(["zeta: interrupted", *(_notes(error) or ["nothing was left half-written"])]))
        raise typer.Exit(2) from None


def _notes(error: BaseException) -> list[str]:
    """What was added to an error on its way, such as what it left behind."""
    return getattr(error, "__notes__", [])


@app.command("init")
def init_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write to")],
    recipe: RecipeOption = None,
    rules: RulesOption = None,
    seed: Annotated[str, typer.Option("--seed", help="from 0 to 2^64 - 1, or 'random'")] = "0",
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    device: DeviceOption = "meta",
    drop_ties: Annotated[
        bool, typer.Option("--drop-ties", help="store a shared tensor once, as save_pretrained does")
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="the most bytes of tensors in one file")
    ] = MAX_SHARD_SIZE,
    force: Annotated[bool, typer.Option("--force", help="replace files of an earlier run")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Initialize MODEL and write its safetensors files and zeta.json, without allocating the model.

    What an interrupted run has written is kept where it is much, and the same command goes on from there.
    """
    with _errors(debug):
        number = _seed(seed)
        most = bytes_of(max_shard_size)
        check_folder(out, force=force)
        built, decided = _planned(model, recipe, rules, kwargs, dtype, device)
        if not as_json:
            _stdout.print(decided.text(_width()))
        with _progress_bar(quiet=as_json) as progress:
            report = verbs.save(
                built,
                decided,
                out,
                number,
                max_shard_size=most,
                drop_ties=drop_ties,
                force=force,
                model_name=model,
                progress=progress,
            )
        files = [str(out / name) for name in files_of(out)]
        if as_json:
            _print_json({"plan": json.loads(decided.to_json()), "report": report.as_dict(), "files": files})
        else:
            for item in report.flagged:
                _stdout.print("\n".join(f"{item.name}: {finding}" for finding in item.findings))
            _stdout.print(report.summary())
            _stdout.print("\n".join(files))
    if not report.ok:
        raise typer.Exit(1)


@app.command("plan")
def plan_command(
    model: ModelArgument,
    recipe: RecipeOption = None,
    rules: RulesOption = None,
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    device: DeviceOption = "meta",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what every parameter of MODEL would get, and write nothing."""
    with _errors(debug):
        _, decided = _planned(model, recipe, rules, kwargs, dtype, device)
        _stdout.print(decided.to_json() if as_json else decided.text(_width()))


@app.command("verify")
def verify_command(folder: FolderArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Compute every value in DIR again and compare bit by bit."""
    with _errors(debug):
        result = verbs.verify(folder)
        if as_json:
            _print_json(result.as_dict())
        else:
            _stdout.print(str(result))
    if not result.ok:
        raise typer.Exit(1)


@app.command("recipes")
def recipes_command(as_json: JsonOption = False) -> None:
    """List the recipes."""
    summaries = {name: recipes.summary(name) for name in recipes.names()}
    if as_json:
        _print_json(summaries)
    else:
        for name, summary in summaries.items():
            _stdout.print(f"{name:8} {summary}")


@app.command("doctor")
def doctor_command(as_json: JsonOption = False) -> None:
    """Print versions and backends, and compute the known answers of the stream."""
    answers = doctor.known_answers()
    if as_json:
        _print_json({"versions": doctor.versions(), "backends": doctor.backends(), "known_answers": answers})
    else:
        for name, value in {**doctor.versions(), **{f"backend {k}": v for k, v in doctor.backends().items()}}.items():
            _stdout.print(f"{name:18} {value}")
        for name, right in answers.items():
            _stdout.print(f"{'ok   ' if right else 'WRONG'} {name}")
    if not all(answers.values()):
        raise typer.Exit(1)


def _version(value: bool) -> None:
    if value:
        _stdout.print(f"zeta {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def _planned(
    spec: str, recipe: str | None, rules: Path | None, kwargs: str, dtype: str | None, device: str
) -> tuple[nn.Module, Plan]:
    if (recipe is None) == (rules is None):
        raise UsageError(
            f"say how to initialize with --recipe or --rules, one of them; recipes: {', '.join(recipes.names())}"
        )
    if recipe is not None and recipe not in recipes.RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}: expected one of {', '.join(recipes.names())}")
    try:
        arguments = json.loads(kwargs)
    except ValueError as error:
        raise UsageError(f"--kwargs is not JSON: {error}; expected something like '{{\"n_layer\": 2}}'") from None
    if not isinstance(arguments, dict):
        raise UsageError(f"--kwargs must be a JSON object, got {kwargs}")
    if device not in ("meta", "cpu"):
        raise UsageError(f"--device must be meta or cpu, got {device!r}")
    target = None if dtype is None else dtypes.dtype_named(dtype)
    if target is not None and target not in dtypes.REAL:
        raise UsageError(f"--dtype must be a floating-point dtype, got {dtype!r}")
    built = load_model(spec, arguments, device)
    decided = plan(built, recipe if recipe is not None else read_rules(rules, built) if rules is not None else "")
    return built, decided if target is None else decided.with_dtype(target)


def _seed(text: str) -> int:
    if text == "random":
        return secrets.randbits(64)  # torch's generator starts from the same state in every process
    try:
        return check_seed(int(text, 0))
    except ValueError:
        raise UsageError(f"--seed must be a whole number from 0 to 2^64 - 1, or 'random', got {text!r}") from None


@contextlib.contextmanager
def _progress_bar(quiet: bool) -> Iterator[apply.Progress | None]:
    """A bar on stderr where that is a terminal, nothing otherwise."""
    if quiet or not _stderr.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_stderr, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


def _width() -> int | None:
    """The width of the terminal, where the output goes to one."""
    return _stdout.width if _stdout.is_terminal else None


def _print_json(data: Any) -> None:
    _stdout.print(json.dumps(data, indent=1))


def main() -> None:
    """Entry point of the ``zeta`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a sign for ± still gets the numbers
    app()
