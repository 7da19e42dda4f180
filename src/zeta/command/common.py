"""What the commands have in common: their options, and how they end."""

from __future__ import annotations

import contextlib
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from zeta import recipes
from zeta.command.printing import complain
from zeta.command.requests import DTYPES
from zeta.errors import RecordingError, ZetaError, ZetaNotice

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
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="the folder that zeta init or zeta adapt wrote")]


SeedOption = Annotated[str, typer.Option("--seed", help="from 0 to 2^64 - 1, or 'random'")]


def _folder(text: str) -> Path:
    """The folder to write to; ``Path`` takes an empty text, as of a variable that is not set, for the current one."""
    if not text:
        raise typer.BadParameter("it is empty, expected the name of a folder; '.' is the current one")
    return Path(text)


OutOption = Annotated[Path, typer.Option("--out", parser=_folder, metavar="DIR", help="the folder to write to")]
DropTiesOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-ties/--no-drop-ties",
        help="store a shared tensor once, as save_pretrained does; by default for a transformers model only",
    ),
]
MaxShardSizeOption = Annotated[
    str, typer.Option("--max-shard-size", metavar="SIZE", help="the most bytes of tensors in one file")
]
ForceOption = Annotated[bool, typer.Option("--force", help="replace files of an earlier run")]


def tasks() -> ModuleType:
    """The tasks of the commands, imported when one runs, so that the help does not import torch."""
    from zeta.command import tasks as module

    return module


def exit_with(ok: bool) -> None:
    """End with the exit code 1 if the result is not positive."""
    if not ok:
        raise typer.Exit(1)


@contextlib.contextmanager
def errors(debug: bool) -> Iterator[None]:
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
    except MemoryError as error:
        if debug:
            raise
        complain("; ".join(["zeta: there is not enough memory for this", *_notes(error)]))
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        ended = isinstance(error, Terminated)
        what = "terminated" if ended else "interrupted"
        complain("; ".join([f"zeta: {what}", *(_notes(error) or ["nothing was left half-written"])]))
        raise typer.Exit(128 + (signal.SIGTERM if ended else signal.SIGINT)) from None


class Terminated(KeyboardInterrupt):
    """The process was asked to end; it puts everything in order first, as after Ctrl-C."""


def on_sigterm(*_: object) -> None:
    """The handler of SIGTERM."""
    raise Terminated


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
