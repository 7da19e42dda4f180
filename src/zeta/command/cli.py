"""The command line: parse the arguments, call a task, print the result.

Exit codes: 0 success; 1 the values are not as planned, do not verify or cannot learn, or two plans differ; 2 wrong
usage, or the task is not possible; 130 interrupted by Ctrl-C, 143 terminated.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from zeta import __version__, recipes
from zeta.command.help import command
from zeta.command.printing import complain, say, say_json
from zeta.command.requests import DTYPES, LEVELS, MAX_SHARD_SIZE, CheckOptions, ModelOptions
from zeta.errors import RecordingError, UsageError, ZetaError, ZetaNotice

app = typer.Typer(
    help="Weight initialization for PyTorch: decide, compute, check.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _tasks() -> ModuleType:
    """The tasks of the commands, imported when one runs, so that the help does not import torch."""
    from zeta.command import tasks

    return tasks


def _exit(ok: bool) -> None:
    if not ok:
        raise typer.Exit(1)


ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="path/to/file.py:callable, package.module:callable or hf:path/to/config.json"),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="a recipe by name; zeta recipes lists them", autocompletion=lambda: recipes.names()),
]
OptionsOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="an option of the recipe; may be given several times"),
]
RulesOption = Annotated[
    Path | None, typer.Option("--rules", help="a rule file: .toml, .json, or .py that defines rules")
]
OverrideOption = Annotated[
    Path | None,
    typer.Option("--override", help="a rule file for some parameters; the constructor is recorded for the rest"),
]
KwargsOption = Annotated[
    str, typer.Option("--kwargs", metavar="JSON", help="keyword arguments for the callable or the configuration")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="dtype of the floating-point parameters: bfloat16, bf16, torch.bfloat16, float16, fp16, float32, ...",
        autocompletion=lambda: list(DTYPES),
    ),
]
CastBuffersOption = Annotated[
    bool, typer.Option("--cast-buffers", help="--dtype for floating-point buffers too, which keep theirs otherwise")
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
    """Print an error as a paragraph on stderr and exit with 2; print notices as paragraphs too."""
    try:
        with _notices():
            yield
    except ZetaError as error:
        if debug:
            raise
        complain("; ".join([f"zeta: {error}", *_notes(error)]))
        if isinstance(error, RecordingError):
            complain("In the shell, the fallback is --fallback FILE, a file of rules, or --fallback real.")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        ended = isinstance(error, _Terminated)
        what = "terminated" if ended else "interrupted"
        complain("; ".join([f"zeta: {what}", *(_notes(error) or ["nothing was left half-written"])]))
        raise typer.Exit(128 + (signal.SIGTERM if ended else signal.SIGINT)) from None


class _Terminated(KeyboardInterrupt):
    """The process was asked to end; it puts everything in order first, as after Ctrl-C."""


def _on_sigterm(*_: object) -> None:
    raise _Terminated


def _notes(error: BaseException) -> list[str]:
    """The notes of an exception, such as which unfinished files were left."""
    return getattr(error, "__notes__", [])


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Print zeta's notices as paragraphs on stderr, without the line of code that they come from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, ZetaNotice):
                complain(f"zeta: note: {message}")
            else:
                show(message, category, *place, **more)

        warnings.showwarning = shown
        yield


@command(app, "init")
def init_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to write to")],
    recipe: RecipeOption = None,
    option: OptionsOption = None,
    rules: RulesOption = None,
    override: OverrideOption = None,
    seed: Annotated[str, typer.Option("--seed", help="from 0 to 2^64 - 1, or 'random'")] = "0",
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    cast_buffers: CastBuffersOption = False,
    device: DeviceOption = None,
    fallback: FallbackOption = None,
    drop_ties: Annotated[
        bool | None,
        typer.Option(
            "--drop-ties/--no-drop-ties",
            help="store a shared tensor once, as save_pretrained does; by default for a transformers model only",
        ),
    ] = None,
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

    The values come from a recipe or rules; without them, the model's own constructor is recorded, and --override
    changes some of it. For a transformers
    model, config.json is written too, so that from_pretrained loads the folder. The files of an interrupted run are
    kept if they are large, and the same command resumes from them. Ends with the fast health check, if a batch is given
    or can be made; its findings do not change the exit code.
    """
    asked = ModelOptions(
        model=model,
        recipe=recipe,
        options=tuple(option or ()),
        rules=rules,
        override=override,
        kwargs=kwargs,
        dtype=dtype,
        cast_buffers=cast_buffers,
        device=device,
        fallback=fallback,
    )
    with _errors(debug):
        ok = _tasks().init(
            asked,
            out=out,
            seed=seed,
            drop_ties=drop_ties,
            max_shard_size=max_shard_size,
            force=force,
            batch=batch,
            health=health,
            as_json=as_json,
        )
    _exit(ok)


@command(app, "check")
def check_model(
    model: ModelArgument,
    batch: BatchOption = None,
    loss: Annotated[
        str | None,
        typer.Option("--loss", metavar="FILE:FUNCTION", help="a function from output and batch to a scalar"),
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            "--level", help="fast, or full for Jacobians and spectral norms", autocompletion=lambda: list(LEVELS)
        ),
    ] = "fast",
    suppress: Annotated[
        list[str] | None, typer.Option("--suppress", help="a rule or group not to report: Z301, Z3, 'Z402:blocks.*'")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write one HTML page")] = None,
    sarif: Annotated[Path | None, typer.Option("--sarif", metavar="FILE", help="write SARIF")] = None,
    recipe: RecipeOption = None,
    option: OptionsOption = None,
    rules: RulesOption = None,
    override: OverrideOption = None,
    seed: Annotated[str, typer.Option("--seed", help="from 0 to 2^64 - 1, or 'random'")] = "0",
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    cast_buffers: CastBuffersOption = False,
    device: DeviceOption = None,
    fallback: FallbackOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check whether MODEL can learn from its initial values. Exits with 1 if anything failed.

    The values are those that zeta init would write with the same options.
    """
    asked = ModelOptions(
        model=model,
        recipe=recipe,
        options=tuple(option or ()),
        rules=rules,
        override=override,
        kwargs=kwargs,
        dtype=dtype,
        cast_buffers=cast_buffers,
        device=device,
        fallback=fallback,
    )
    request = CheckOptions(batch=batch, loss=loss, level=level, suppress=tuple(suppress or ()), html=html, sarif=sarif)
    with _errors(debug):
        ok = _tasks().check(asked, request, seed=seed, as_json=as_json)
    _exit(ok)


@command(app, "plan")
def plan_command(
    model: ModelArgument,
    recipe: RecipeOption = None,
    option: OptionsOption = None,
    rules: RulesOption = None,
    override: OverrideOption = None,
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    cast_buffers: CastBuffersOption = False,
    device: DeviceOption = None,
    fallback: FallbackOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the initializer of every parameter of MODEL, and write nothing.

    The plan comes from a recipe or rules; without them, the model's own constructor is recorded.
    """
    asked = ModelOptions(
        model=model,
        recipe=recipe,
        options=tuple(option or ()),
        rules=rules,
        override=override,
        kwargs=kwargs,
        dtype=dtype,
        cast_buffers=cast_buffers,
        device=device,
        fallback=fallback,
    )
    with _errors(debug):
        _tasks().plan(asked, as_json=as_json)


@command(app, "verify")
def verify_command(folder: FolderArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Compute every value in DIR again and compare bit by bit."""
    with _errors(debug):
        ok = _tasks().verify(folder, as_json=as_json)
    _exit(ok)


@command(app, "diff")
def diff_command(
    a: Annotated[
        str, typer.Argument(metavar="A", help="a MODEL, which is recorded, a plan.json, or a DIR of zeta init")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="likewise; recipe:NAME and rules:FILE are for the model A")],
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    cast_buffers: CastBuffersOption = False,
    fallback: FallbackOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the differences between two plans, by parameter. Exits with 1 if there are any."""
    with _errors(debug):
        ok = _tasks().diff(
            a, b, kwargs=kwargs, dtype=dtype, cast_buffers=cast_buffers, fallback=fallback, as_json=as_json
        )
    _exit(ok)


@command(app, "recipes")
def recipes_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[show] [NAME] [MODEL]",
            help="one recipe, to see its rules; with a model, also the plan that it makes of it",
            autocompletion=lambda: ["show", *recipes.names()],
        ),
    ] = None,
    option: OptionsOption = None,
    kwargs: KwargsOption = "{}",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the recipes by family, or show one: formulas, source, options, and the plan for a model."""
    rest = words[1:] if words and words[0] == "show" else words or []
    with _errors(debug):
        if len(rest) > 2 or (words and not rest):
            raise UsageError(f"expected zeta recipes show NAME [MODEL], got {' '.join(words or [])}")
        if rest:
            model = rest[1] if rest[1:] else None
            _tasks().recipe(rest[0], model, kwargs=kwargs, given=tuple(option or ()), as_json=as_json)
            return
    summaries = {
        family: {each: recipes.summary(each) for each in names} for family, names in recipes.families().items()
    }
    if as_json:
        say_json(summaries)
        return
    longest = max(map(len, recipes.names()))
    for number, (family, about) in enumerate(summaries.items()):
        say(f"{chr(10) if number else ''}{family}")
        for name, summary in about.items():
            say(f"  {name:{longest}} {summary}")


@command(app, "doctor")
def doctor_command(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Print versions and backends, and compute the known answers of the stream."""
    with _errors(debug):
        ok = _tasks().doctor(as_json=as_json)
    _exit(ok)


def _version(value: bool) -> None:
    if value:
        say(f"zeta {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``zeta`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal whose encoding lacks ± still shows the numbers
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _on_sigterm)
    app()
