"""The help of each command: its docstring with each paragraph on one line, and examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import typer

Function = TypeVar("Function", bound=Callable[..., Any])

#: examples by command, of at most 76 characters, so that none is broken on a terminal of 80
EXAMPLES: Final = {
    "init": (
        "zeta init nets.py:Classifier --rules rules.toml --seed 0 --out out",
        "zeta init hf:llama/config.json --dtype bf16 --max-shard-size 5GB --out out",
    ),
    "adapt": (
        "zeta adapt gpt2 --grow-vocab 50304 --out grown",
        "zeta adapt llama --layers 48 --depth identity --dtype bf16 --out deep",
        "zeta adapt bert --model hf:head/config.json --how recorded --out headed",
    ),
    "scale": (
        "zeta scale nets.py:GPT --base d_model=256 --target d_model=4096",
        "zeta scale nets.py:GPT --base width=64,layers=2 --target width=512,layers=8",
        "zeta scale nets.py:Net --base width=64 --target width=512 --how spectral",
    ),
    "check": (
        "zeta check nets.py:Classifier --batch nets.py:batch",
        "zeta check hf:llama/config.json --recipe llama --json > report.json",
    ),
    "plan": (
        "zeta plan nets.py:Classifier",
        "zeta plan hf:llama/config.json --recipe llama",
        "zeta plan nets.py:Classifier --kwargs '{\"width\": 32}' --json > plan.json",
    ),
    "verify": ("zeta verify out", "zeta verify out --json", "zeta verify grown --source gpt2"),
    "diff": (
        "zeta diff hf:llama/config.json recipe:llama",
        "zeta diff nets.py:Classifier out",
        "zeta diff old.json new.json",
    ),
    "recipes": (
        "zeta recipes",
        "zeta recipes show llama",
        "zeta recipes show resnet nets.py:Net --option zero_init_residual=true",
    ),
    "doctor": ("zeta doctor", "zeta doctor --json"),
}


def command(app: typer.Typer, name: str) -> Callable[[Function], Function]:
    """Make a function the command ``name`` of ``app``, with its help and examples."""

    def register(function: Function) -> Function:
        paragraphs = (function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        examples = "\n".join(f"  {example}" for example in EXAMPLES[name])
        return app.command(name, help=text, epilog=f"Examples:\n{examples}")(function)

    return register
