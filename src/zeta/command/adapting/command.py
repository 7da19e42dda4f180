"""The command ``zeta adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zeta.command.common import (
    DebugOption,
    DropTiesOption,
    DtypeOption,
    FallbackOption,
    ForceOption,
    JsonOption,
    KwargsOption,
    MaxShardSizeOption,
    OptionsOption,
    OutOption,
    SeedOption,
    errors,
    exit_with,
)
from zeta.command.requests import DEPTHS, MAX_SHARD_SIZE, ROWS, AdaptOptions


def adapt_command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="a checkpoint: a folder, or a file of tensors; it is read in parts")
    ],
    out: OutOption,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="the new model; by default hf:SOURCE/config.json"),
    ] = None,
    grow_vocab: Annotated[
        int | None, typer.Option("--grow-vocab", metavar="N", help="the new number of tokens", min=1)
    ] = None,
    rows: Annotated[
        str,
        typer.Option(
            "--rows",
            help="what new tokens get: recorded, what --how says; mean, the law of the old ones; zeros",
            autocompletion=lambda: list(ROWS),
        ),
    ] = "recorded",
    noise: Annotated[
        float | None, typer.Option("--noise", help="for --rows mean: the part of the old ones' std; 1 by default")
    ] = None,
    layers: Annotated[int | None, typer.Option("--layers", metavar="N", help="the new number of blocks", min=1)] = None,
    depth: Annotated[
        str,
        typer.Option(
            "--depth",
            help="what new blocks are: identity, which add nothing yet; stack or interleave, copies of the old ones",
            autocompletion=lambda: list(DEPTHS),
        ),
    ] = "identity",
    how: Annotated[
        str,
        typer.Option(
            "--how",
            metavar="HOW",
            help="what is missing gets: recorded, what the model's own constructor does; a recipe; or a rule file",
        ),
    ] = "recorded",
    option: OptionsOption = None,
    fallback: FallbackOption = None,
    seed: SeedOption = "0",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="GLOB", help="tensors that need not be in both; may be given several times"),
    ] = None,
    name_map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=NAME", help="the model's name of a module or tensor, and the checkpoint's"),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="what makes the model's names the checkpoint's, if it is a part")
    ] = None,
    kwargs: KwargsOption = "{}",
    dtype: DtypeOption = None,
    drop_ties: DropTiesOption = None,
    max_shard_size: MaxShardSizeOption = MAX_SHARD_SIZE,
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Adapt the checkpoint SOURCE to another model and write it to DIR, without holding either in memory.

    What fits is copied, what has grown is grown, and the rest is initialized, exactly as a full run would. For a
    transformers model, config.json is written for the new model, and the files of the tokenizer are copied. The files
    of an interrupted run are kept if they are large, and the same command resumes from them. zeta verify DIR proves
    both parts: what was copied by its SHA-256, and what is new by the seed. Each tensor keeps its dtype, unless --dtype
    is given.
    """
    asked = AdaptOptions(
        source=source,
        model=model,
        kwargs=kwargs,
        how=how,
        options=tuple(option or ()),
        fallback=fallback,
        vocab=grow_vocab,
        rows=rows,
        noise=noise,
        layers=layers,
        depth=depth,
        allow=tuple(allow or ()),
        name_map=tuple(name_map or ()),
        prefix=prefix,
        dtype=dtype,
    )
    with errors(debug):
        from zeta.command.adapting.task import adapt  # here, because it imports torch

        ok = adapt(
            asked,
            out=out,
            seed=seed,
            drop_ties=drop_ties,
            max_shard_size=max_shard_size,
            force=force,
            as_json=as_json,
        )
    exit_with(ok)
