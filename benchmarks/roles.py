"""Find the roles of weights in every model of transformers that has an output layer, and write the table of them.

    python -m benchmarks.roles [--table docs/roles.md]

``tests/resolve/role_truth.py`` has what is right for some of them, written by hand.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import transformers
import typer

import zeta
from benchmarks.sources.transformers_models import SOURCE, headed
from tests.resolve.role_truth import TRUTH

ROLES: Final = ("embedding", "readout", "attention_output", "mlp_down")

_PAGE: Final = """# Roles in the models of transformers

[Roles](rules.md#roles) say what a weight does in its network. This table is what `zeta.roles_of` finds of four of them
in the {count} model types of transformers {version} that have an output layer and can be built from their default
configuration, two layers deep, on meta. `python -m benchmarks.roles --table docs/roles.md` writes it. Numbers of layers
are `#`.

{checked} of the types, marked with *, were written down by hand from their code (`tests/resolve/role_truth.py`). Of
these {cells} cells {wrong}. The tests compare them.

| type | embedding | read-out | attention output | MLP down projection |
|---|---|---|---|---|
{rows}
"""
#: the number of a layer: parts of the name follow, other than "weight"
_NUMBER: Final = re.compile(r"\.\d+(?=\.(?!weight$))")


def found(model: Any) -> tuple[str, ...]:
    """The names of the weights of each of ``ROLES``, without "weight", with ``#`` for the numbers of layers."""
    roles = {name: role.value for name, role in zeta.roles_of(model).items() if not name.endswith("bias")}
    return tuple(_together(name for name, role in roles.items() if role == wanted) for wanted in ROLES)


def _together(names: Iterable[str]) -> str:
    plain = (_NUMBER.sub(".#", name).removesuffix(".weight") for name in names)
    return " ".join(dict.fromkeys(plain))


def same(one: str, other: str) -> bool:
    """Whether two cells name the same weights."""
    return set(one.split()) == set(other.split())


def main(table: Annotated[Path | None, typer.Option()] = None) -> None:
    """Look at every type, and print what differs from the truth."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows, cells, wrong = [], 0, []
    for name in SOURCE.names():
        try:
            candidate = headed(name)
            if candidate is None:
                continue
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model = candidate[1]()
        except Exception:  # it is the library's code; docs/architectures.md says why a type cannot be built
            continue
        cell = found(model)
        if name in TRUTH:
            cells += len(cell)
            wrong += [
                (name, role) for role, one, other in zip(ROLES, cell, TRUTH[name], strict=True) if not same(one, other)
            ]
        rows.append(f"| {name}{' *' if name in TRUTH else ''} | {' | '.join(map(_shown, cell))} |")
    print(f"{len(rows)} types, {cells} cells checked, wrong: {wrong}")
    if table is not None:
        page = _PAGE.format(
            count=len(rows),
            version=transformers.__version__,
            checked=len(TRUTH),
            cells=cells,
            wrong="none is wrong" if not wrong else f"{len(wrong)} are wrong ({', '.join(map(' '.join, wrong))})",
            rows="\n".join(rows),
        )
        table.write_text(page, encoding="utf-8")


def _shown(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split())


if __name__ == "__main__":
    typer.run(main)
