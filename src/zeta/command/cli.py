"""The command line: parse, call, print.

Exit codes: 0 done, 1 the values are not as planned, do not verify or cannot learn, or two plans differ, 2 wrong use or
not possible.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from zeta import __version__, recipes, verbs
from zeta.base.escaping import visible, visible_lines
from zeta.base.reading import json_text
from zeta.command import check as check_command
from zeta.command import doctor, options
from zeta.command.operands import Building, operands
from zeta.errors import RecordingError, ZetaError, ZetaNotice
from zeta.report.differences import diff
from zeta.write import apply
from zeta.write.checkpoint import MAX_SHARD_SIZE, bytes_of, check_folder, files_of, output_path

app = typer.Typer(
    help="Weight initialization for PyTorch: decide, compute, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_stdout = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _say(text: str) -> None:
    """Print what is meant for people, on stdout."""
    _stdout.print(visible_lines(text))


def _complain(text: str) -> None:
    """Print what went wrong, or should be known, on stderr."""
    _stderr.print(visible_lines(text))


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
    str | None,
    typer.Option(
        "--device",
        help="where the model is built for a recipe or rules: meta, the default, allocates nothing; cpu keeps computed "
        "buffers",
    ),
]
FallbackOption = Annotated[
    str | None,
    typer.Option(
        "--fallback",
        metavar="FILE|real",
        help="for what cannot be recorded: a rule file, or 'real', which draws once what the constructor reads",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout, for machines")]
DebugOption = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
BatchOption = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="FILE:FUNCTION",
        help="a function that returns a batch, path/to/batch.py:fn; it is given the model if it takes an argument. "
        "Without it, one is made from a transformers configuration",
    ),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="the folder that zeta init wrote")]


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Print what went wrong as a paragraph on stderr and exit with 2; notices as paragraphs too."""
    try:
        with _notices():
            yield
    except ZetaError as error:
        if debug:
            raise
        _complain("; ".join([f"zeta: {error}", *_notes(error)]))
        if isinstance(error, RecordingError):
            _complain("In the shell, the fallback is --fallback FILE, a file of rules, or --fallback real.")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _complain("; ".join(["zeta: interrupted", *(_notes(error) or ["nothing was left half-written"])]))
        raise typer.Exit(2) from None


def _notes(error: BaseException) -> list[str]:
    """What was added to an error on its way, such as what it left behind."""
    return getattr(error, "__notes__", [])


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Print zeta's own warnings as paragraphs on stderr, without the line of code that they come from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, ZetaNotice):
                _complain(f"zeta: note: {message}")
            else:
                show(message, category, *place, **more)

        warnings.showwarning = shown
        yield


@app.command("init")
def init_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write to")],
    recipe: RecipeOption = None,
    rules: RulesOption = None,
    seed: Annotated[str, typer.Option("--seed", help="from 0 to 2^64 - 1, or 'random'")] = "0",
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    fallback: FallbackOption = None,
    drop_ties: Annotated[
        bool, typer.Option("--drop-ties", help="store a shared tensor once, as save_pretrained does")
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="the most bytes of tensors in one file")
    ] = MAX_SHARD_SIZE,
    force: Annotated[bool, typer.Option("--force", help="replace files of an earlier run")] = False,
    batch: BatchOption = None,
    health: Annotated[bool, typer.Option("--check/--no-check", help="end with the fast health check")] = True,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Initialize MODEL and write its safetensors files and zeta.json, without allocating the model.

    By a recipe or rules; without them, as the model's own constructor does, which is recorded. What an interrupted run
    has written is kept where it is much, and the same command goes on from there. Ends with the fast health check,
    where a batch is given or can be made; what that finds does not change the exit code.
    """
    with _errors(debug):
        number = options.seed_of(seed)
        most = bytes_of(max_shard_size)
        check_folder(output_path(out, "--out"), force=force)
        built, decided = options.planned(model, recipe, rules, kwargs, dtype, device, fallback)
        if not as_json:
            _say(decided.text(_width()))
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
        checked = check_command.after_init(built, decided, number, batch) if health else "--no-check"
        if as_json:
            document = {"plan": msgspec.Raw(decided.to_json().encode()), "report": report.as_dict(), "files": files}
            _print_json({**document, "check": check_command.as_data(checked)})
        else:
            for flag in report.flags():
                _say(flag)
            _say(report.summary())
            _say("\n".join(map(visible, files)))
            _say(check_command.as_text(checked))
    if not report.ok:
        raise typer.Exit(1)


@app.command("check")
def check_model(
    model: ModelArgument,
    batch: BatchOption = None,
    loss: Annotated[
        str | None,
        typer.Option("--loss", metavar="FILE:FUNCTION", help="a function from output and batch to a scalar"),
    ] = None,
    level: Annotated[str, typer.Option("--level", help="fast, or full for Jacobians and spectral norms")] = "fast",
    suppress: Annotated[
        list[str] | None, typer.Option("--suppress", help="a rule or group not to report: Z301, Z3, 'Z402:blocks.*'")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write one HTML page")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="write JSON")] = None,
    sarif: Annotated[Path | None, typer.Option("--sarif", metavar="FILE", help="write SARIF")] = None,
    recipe: RecipeOption = None,
    rules: RulesOption = None,
    seed: Annotated[str, typer.Option("--seed", help="from 0 to 2^64 - 1, or 'random'")] = "0",
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    fallback: FallbackOption = None,
    debug: DebugOption = False,
) -> None:
    """Tell whether MODEL can learn from where it starts. Exits with 1 if anything failed.

    The values are those that zeta init would write with the same options.
    """
    with _errors(debug):
        number = options.seed_of(seed)
        built, decided = options.planned(model, recipe, rules, kwargs, dtype, None, fallback)
        request = check_command.Request(
            batch=batch, loss=loss, level=level, suppress=tuple(suppress or ()), html=html, json=json_file, sarif=sarif
        )
        with _time_bar() as progress:
            report = check_command.run(built, decided, number, request, progress)
        _say(str(report))
        _say("\n".join(visible(str(path)) for path in (html, json_file, sarif) if path is not None))
    if not report.ok:
        raise typer.Exit(1)


@app.command("plan")
def plan_command(
    model: ModelArgument,
    recipe: RecipeOption = None,
    rules: RulesOption = None,
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    fallback: FallbackOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what every parameter of MODEL would get, and write nothing.

    By a recipe or rules; without them, what the model's own constructor does.
    """
    with _errors(debug):
        _, decided = options.planned(model, recipe, rules, kwargs, dtype, device, fallback)
        if as_json:
            _print_document(decided.to_json())
        else:
            _say(decided.text(_width()))


@app.command("verify")
def verify_command(folder: FolderArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Compute every value in DIR again and compare bit by bit."""
    with _errors(debug):
        result = verbs.verify(folder)
        if as_json:
            _print_json(result.as_dict())
        else:
            _say(str(result))
    if not result.ok:
        raise typer.Exit(1)


@app.command("diff")
def diff_command(
    a: Annotated[
        str, typer.Argument(metavar="A", help="a MODEL, which is recorded, a plan.json, or a DIR of zeta init")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="likewise; recipe:NAME and rules:FILE are for the model A")],
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    fallback: FallbackOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what two plans do differently, by parameter. Exits with 1 if anything.

    zeta diff hf:config.json recipe:llama; zeta diff nets.py:Net out; zeta diff old.json new.json
    """
    with _errors(debug):
        building = Building(
            kwargs=options.arguments_of(kwargs), dtype=options.dtype_of(dtype), fallback=options.fallback_of(fallback)
        )
        one, other = operands(a, b, building)
        difference = diff(one.plan, other.plan, names=(one.label, other.label))
        if as_json:
            _print_json(difference.as_dict())
        else:
            _say(difference.text(_width()))
    if not difference.same:
        raise typer.Exit(1)


@app.command("recipes")
def recipes_command(as_json: JsonOption = False) -> None:
    """List the recipes."""
    summaries = {name: recipes.summary(name) for name in recipes.names()}
    if as_json:
        _print_json(summaries)
    else:
        for name, summary in summaries.items():
            _say(f"{name:8} {summary}")


@app.command("doctor")
def doctor_command(as_json: JsonOption = False) -> None:
    """Print versions and backends, and compute the known answers of the stream."""
    with _errors(debug=False):
        versions, backends, answers = doctor.versions(), doctor.backends(), doctor.known_answers()
    if as_json:
        _print_json({"versions": versions, "backends": backends, "known_answers": answers})
    else:
        for name, value in {**versions, **{f"backend {device}": used for device, used in backends.items()}}.items():
            _say(f"{name:18} {value}")
        for name, right in answers.items():
            _say(f"{'ok   ' if right else 'WRONG'} {name}")
    if not all(answers.values()):
        raise typer.Exit(1)


def _version(value: bool) -> None:
    if value:
        _say(f"zeta {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@contextlib.contextmanager
def _progress_bar(quiet: bool) -> Iterator[apply.Progress | None]:
    """A bar on stderr where that is a terminal, nothing otherwise."""
    if quiet or not _stderr.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_stderr, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=visible(name), completed=done, total=total)


@contextlib.contextmanager
def _time_bar() -> Iterator[Callable[[str, float, float], None]]:
    """Say on stderr how long something is estimated to take; where that is a terminal, with a bar."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]:.0f} s"))
    with Progress(*columns, console=_stderr, transient=True, disable=not _stderr.is_terminal) as bar:
        task = bar.add_task("", total=None, left=0.0)

        def tell(what: str, done: float, total: float) -> None:
            if not done and bar.tasks[0].total is None:
                _stderr.print(f"zeta: note: {what}: about {total:.0f} s")
            bar.update(task, description=visible(what), completed=done, total=total, left=total - done)

        yield tell


def _width() -> int | None:
    """The width of the terminal, where the output goes to one."""
    return _stdout.width if _stdout.is_terminal else None


def _print_json(data: Any) -> None:
    _print_document(json_text(data))


def _print_document(text: str) -> None:
    """Print JSON in ASCII, which has its own escapes for all that is not printable but one character."""
    _stdout.print(text.replace("\x7f", "\\u007f"))


def main() -> None:
    """Entry point of the ``zeta`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a sign for ± still gets the numbers
    app()
