"""``zeta check --widths --depths``: the coordinate check of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zeta.command.cli import app

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16, layers=2):
        super().__init__()
        self.input = nn.Linear(8, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.input(x)
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)

def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 8, generator=generator), torch.arange(16) % 4
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    return str(tmp_path / "nets.py")


def check(nets: str, *arguments: str) -> tuple[int, str, str]:
    line = ["check", f"{nets}:Net", "--batch", f"{nets}:batch", *arguments]
    result = CliRunner().invoke(app, line)
    return result.exit_code, result.stdout, result.stderr


def slopes(nets: str, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    code, text, _ = check(nets, "--level", "full", "--json", *arguments)
    assert code == 0
    return {(slope["factory"], slope["group"]): slope for slope in json.loads(text)["slopes"]}


def test_widths_under_a_scheme_and_without(nets: str) -> None:
    """The hidden layers' exponent after ten steps: of the standard parametrization far above that of muP."""
    widths = ("--widths", "width=32,128,512", "--lr", "0.01")
    standard, scaled = slopes(nets, *widths), slopes(nets, *widths, "--how", "mup")
    assert {key for key in standard if key[0] == "width"} == {
        ("width", group) for group in ("input", "hidden", "output", "no parameters")
    }
    assert standard["width", "hidden"]["verdict"] == "grows"
    assert standard["width", "hidden"]["exponents"][-1] > scaled["width", "hidden"]["exponents"][-1] + 0.3
    assert scaled["width", "hidden"]["verdict"] == "flat"
    assert len(scaled["width", "hidden"]["exponents"]) == 11


def test_umup_has_a_base_that_is_not_measured(nets: str) -> None:
    """Its weights have std 1 at every size, so that the base, as its constructor has it, is none of them."""
    code, text, _ = check(
        nets, "--level", "full", "--json", "--widths", "width=32,64,128,256", "--how", "umup", "--lr", "0.3"
    )
    assert code == 0
    report = json.loads(text)
    assert {point["size"] for point in report["points"]} == {64, 128, 256}
    hidden = next(slope for slope in report["slopes"] if slope["group"] == "hidden")
    assert hidden["verdict"] == "flat"


def test_depths_in_the_terminal(nets: str, tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    code, text, _ = check(nets, "--level", "full", "--depths", "layers=2,8", "--suppress", "Z8", "--html", str(page))
    assert code == 0
    assert "Outputs over depth 2..8: their rms grows as depth^exponent" in " ".join(text.split())
    assert [line.split()[:2] for line in text.splitlines() if line.startswith((" in blocks", " outside"))] == [
        ["outside", "4"],
        ["in", "blocks"],
    ]
    assert page.stat().st_size > 10**6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "width=16,32"), "--widths and --depths belong to the full level; give --level full"),
        (("--level", "full", "--widths", "16,32"), "--widths must be an argument and its values"),
        (("--level", "full", "--widths", "width=16"), "widths must be at least two growing whole numbers"),
        (("--level", "full", "--depths", "depth=2,4"), "unexpected keyword argument 'depth'"),
        (("--level", "full", "--widths", "width=16,32", "--how", "mop"), "how must be one of sp, mup"),
        (("--level", "full", "--widths", "width=16,32", "--how", "umup"), "must be three sizes or more, as the first"),
        (("--level", "full", "--widths", "width=16,32", "--lr", "-1"), "lr must be"),
        (("--level", "full", "--widths", "width=16,32", "--dtype", "bf16"), "leave --override and --dtype out"),
    ],
)
def test_what_cannot_be_is_an_error(nets: str, arguments: tuple[str, ...], message: str) -> None:
    code, text, errors = check(nets, *arguments)
    assert (code, text) == (2, "")
    assert message in " ".join(errors.split())
