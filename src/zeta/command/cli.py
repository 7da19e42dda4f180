"""The command line: parse the arguments, call a task, print the result.

Exit codes: 0 success; 1 the values are not as planned, do not verify or cannot learn, or two plans differ; 2 wrong
usage, or the task is not possible; 130 interrupted by Ctrl-C, 143 terminated.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from zeta import __version__, recipes
from zeta.command.adapting.command import adapt_command
from zeta.command.common import (
    BatchOption,
    CastBuffersOption,
    DebugOption,
    DeviceOption,
    DropTiesOption,
    DtypeOption,
    FallbackOption,
    FolderArgument,
    ForceOption,
    JsonOption,
    KwargsOption,
    MaxShardSizeOption,
    ModelArgument,
    OptionsOption,
    OutOption,
    OverrideOption,
    RecipeOption,
    RulesOption,
    SeedOption,
    errors,
    exit_with,
    on_sigterm,
    tasks,
)
from zeta.command.help import command
from zeta.command.printing import say, say_json
from zeta.command.requests import LEVELS, MAX_SHARD_SIZE, SCHEMES, CheckOptions, ModelOptions
from zeta.command.scaling.command import scale_command
from zeta.errors import UsageError

app = typer.Typer(
    help="Weight initialization for PyTorch: decide, compute, check.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@command(app, "init")
def init_command(
    model: ModelArgument,
    out: OutOption,
    recipe: RecipeOption = None,
    option: OptionsOption = None,
    rules: RulesOption = None,
    override: OverrideOption = None,
    seed: SeedOption = "0",
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    cast_buffers: CastBuffersOption = False,
    device: DeviceOption = None,
    fallback: FallbackOption = None,
    drop_ties: DropTiesOption = None,
    max_shard_size: MaxShardSizeOption = MAX_SHARD_SIZE,
    force: ForceOption = False,
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
    with errors(debug):
        ok = tasks().init(
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
    exit_with(ok)


command(app, "adapt")(adapt_command)
command(app, "scale")(scale_command)


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
    widths: Annotated[
        str | None,
        typer.Option("--widths", metavar="ARG=N,N", help="full level: the coordinate check, as d_model=64,128,256"),
    ] = None,
    depths: Annotated[
        str | None, typer.Option("--depths", metavar="ARG=N,N", help="full level: likewise, as n_layer=2,4,8")
    ] = None,
    how: Annotated[
        str,
        typer.Option("--how", help="how sizes are scaled from the first one", autocompletion=lambda: list(SCHEMES)),
    ] = "sp",
    lr: Annotated[float, typer.Option("--lr", help="Adam's learning rate at the smallest size")] = 1e-3,
    recipe: RecipeOption = None,
    option: OptionsOption = None,
    rules: RulesOption = None,
    override: OverrideOption = None,
    seed: SeedOption = "0",
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
    request = CheckOptions(
        batch=batch,
        loss=loss,
        level=level,
        suppress=tuple(suppress or ()),
        html=html,
        sarif=sarif,
        widths=widths,
        depths=depths,
        how=how,
        lr=lr,
    )
    with errors(debug):
        ok = tasks().check(asked, request, seed=seed, as_json=as_json)
    exit_with(ok)


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
    with errors(debug):
        tasks().plan(asked, as_json=as_json)


@command(app, "verify")
def verify_command(
    folder: FolderArgument,
    source: Annotated[
        Path | None,
        typer.Option("--source", metavar="SOURCE", help="the checkpoint that zeta adapt read, to compare with it too"),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compute every value in DIR again and compare bit by bit.

    What zeta adapt copied is compared with the SHA-256 that it had then.
    """
    with errors(debug):
        ok = tasks().verify(folder, source, as_json=as_json)
    exit_with(ok)


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
    with errors(debug):
        ok = tasks().diff(
            a, b, kwargs=kwargs, dtype=dtype, cast_buffers=cast_buffers, fallback=fallback, as_json=as_json
        )
    exit_with(ok)


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
    with errors(debug):
        if len(rest) > 2 or (words and not rest):
            raise UsageError(f"expected zeta recipes show NAME [MODEL], got {' '.join(words or [])}")
        if rest:
            model = rest[1] if rest[1:] else None
            tasks().recipe(rest[0], model, kwargs=kwargs, given=tuple(option or ()), as_json=as_json)
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
    with errors(debug):
        ok = tasks().doctor(as_json=as_json)
    exit_with(ok)


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


def _open_standard_files() -> None:
    """Open descriptors 0 to 2 where they are closed.

    Otherwise a checkpoint's file would get one of them, and with it what libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def main() -> None:
    """Entry point of the ``zeta`` command."""
    _open_standard_files()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal whose encoding lacks ± still shows the numbers
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, on_sigterm)
    app()
