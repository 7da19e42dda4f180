"""The command ``zeta scale``."""

from __future__ import annotations

from typing import Annotated

import typer

from zeta.command.common import DebugOption, FallbackOption, JsonOption, ModelArgument, RecipeOption, errors
from zeta.command.requests import SCHEMES, ScaleOptions


def scale_command(
    model: ModelArgument,
    base: Annotated[
        str,
        typer.Option("--base", metavar="ARGS", help="arguments of the size that is known, as d_model=256,n_layer=4"),
    ],
    target: Annotated[
        str, typer.Option("--target", metavar="ARGS", help="those of the size that is trained, with the same names")
    ],
    how: Annotated[str, typer.Option("--how", help="the scheme", autocompletion=lambda: list(SCHEMES))] = "mup",
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw, adam, lion, adafactor or sgd")] = "adamw",
    lr: Annotated[float, typer.Option("--lr", help="the base's learning rate")] = 1e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="the base's weight decay")] = 0.0,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="GLOB=CLASS", help="the class of parameters where it does not follow"),
    ] = None,
    depth: Annotated[str | None, typer.Option("--depth", help="a rule for depth: deepnorm or fixup")] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="the depth exponent of completep")] = 1.0,
    multipliers: Annotated[
        bool, typer.Option("--multipliers/--no-multipliers", help="multiply in the forward pass, or in laws and rates")
    ] = True,
    attention: Annotated[
        bool, typer.Option("--attention/--no-attention", help="multiply queries where the size of heads grows")
    ] = True,
    recipe: RecipeOption = None,
    fallback: FallbackOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show how MODEL is initialized and trained at another width and depth, and write nothing.

    Prints the class, law, rates and multipliers of each parameter, and the groups of the optimizer as code to paste.
    """
    asked = ScaleOptions(
        model=model,
        base=base,
        target=target,
        how=how,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        roles=tuple(role or ()),
        depth=depth,
        alpha=alpha,
        multipliers=multipliers,
        attention=attention,
        recipe=recipe,
        fallback=fallback,
    )
    with errors(debug):
        from zeta.command.scaling.task import scale  # here, because it imports torch

        scale(asked, as_json=as_json)
