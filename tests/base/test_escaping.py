"""Whatever names and files hold, nothing that reaches a terminal or a log can steer it, or is hidden in it."""

from __future__ import annotations

import io
import json
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import zeta
from zeta import Rule, Rules, errors
from zeta.base.escaping import visible, visible_lines
from zeta.base.text import table
from zeta.command import cli, common, printing
from zeta.errors import ZetaError, ZetaNotice, listed
from zeta.initializers import Normal, Uniform, Zeros

#: colour, title and clipboard of a terminal, C1 controls, line breaks, order of letters, what is invisible, markup
NASTY = {
    "colour": "\x1b[31mw\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "C1": "\x9b31m\x9d0;owned\x9c",
    "backspaces": "bad\b\b\bgood",
    "return": "bad\rgood",
    "line": "w\nzeta: verified",
    "other lines": "w\x0b\x0c\x85\u2028\u2029w",
    "order": "\u202ethgir\u202c\u2066\u2069\u200f",
    "invisible": "w\u200b\ufeff\u00ad\x7f\x00",
    "tag": "w\U000e0041",
}
MARKUP = ("[red]w[/red]", "[/]", "[link=http://evil]w[/link]", ":smile:")
NAMES = (*NASTY.values(), *MARKUP)


def is_safe(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


class Net(nn.Module):
    """Has the parameters that are named like that, in one layer of each kind of name."""

    def __init__(self, std: float = 1.0) -> None:
        super().__init__()
        for name in NAMES:
            self.add_module(name, nn.Linear(4, 4))
        self.std = std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ZetaError | ZetaNotice)]
RULES = Rules([Rule("*.bias", Zeros()), Rule("*", Normal(0.5))])


@pytest.mark.parametrize("what", NASTY)
def test_what_is_not_printable_is_escaped_as_python_does(what: str) -> None:
    text = NASTY[what]
    assert not text.isprintable()
    assert visible(text).isprintable()
    assert visible(text) == repr(text)[1:-1]
    assert visible(visible(text)) == visible(text)


@given(st.text(st.characters()))
def test_any_text(text: str) -> None:
    assert visible(text).isprintable()
    assert visible_lines(text) == "\n".join(visible(line) for line in text.split("\n"))


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_of_a_table_is_one_line(name: str) -> None:
    lines = table((name, "b"), [(name, name), ("c", "d")], right=(name,), width=10, expendable=("b",)).split("\n")
    assert [line for line in lines if visible(name) in line] == [lines[0], lines[2]]
    assert is_safe("\n".join(lines))
    assert " ".join(lines[4:]).startswith("left out at this width: b;")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_and_notices(kind: type[Exception], name: str) -> None:
    error = kind(listed(f"of {name}:", [f"{name}: is wrong", "more"]))
    assert str(error).endswith(f"\n  - {visible(name)}: is wrong\n  - more")
    assert is_safe(str(error))
    assert name in error.args[0].split(":\n  -")[0], "as it was, for programs"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    if issubclass(kind, ZetaError):
        assert is_safe("".join(traceback.format_exception_only(error)))
    else:
        assert is_safe(warnings.formatwarning(error, kind, "file.py", 1, ""))  # type: ignore[arg-type]


def test_what_prints_as_a_table() -> None:
    model = Net()
    plan = zeta.plan(model, RULES)
    report = zeta.apply_(model, plan, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    verification = zeta.verify(model, plan, 0)
    other = zeta.plan(model, Rules([Rule("*", Uniform(0.0, 1.0))]))
    for name in NAMES:
        difference = zeta.diff(plan, other, names=(name, "B"))
        assert is_safe(str(difference))
        assert visible(name) in str(difference).split("\n")[0]
    for shown in (plan, report, verification, *verification.differences):
        assert is_safe(str(shown))
    for name in NAMES:
        assert f"\n {visible(name)}.weight" in str(plan)
    assert len(str(plan).split("\n")) == len(plan) + 3
    assert len(str(report).split("\n")) == 2 * len(NAMES) + 3 + len(report.flags())


def test_a_report_that_flags() -> None:
    model = Net()
    report = zeta.apply_(model, zeta.plan(model, RULES), 0)
    flagged = [item.__class__(**{**item.__dict__, "findings": ("\x1b[31m\n\x9b",)}) for item in report.measured]
    shown = str(report.__class__(**{**report.__dict__, "measured": flagged}))
    assert is_safe(shown)
    assert "FLAGGED" in shown


def test_errors_that_name_parameters() -> None:
    model = Net()
    plan = zeta.plan(model, RULES)
    for call in (
        lambda: zeta.plan(model, Rules([Rule("nothing", Zeros())])),
        lambda: zeta.apply_(nn.Linear(2, 2), plan, 0),
        lambda: zeta.apply_(model, plan, 0, only=list(map("*{}?".format, NASTY.values()))),
        lambda: zeta.save(nn.Linear(2, 2), plan, "out", seed=0),
        lambda: zeta.save(model, plan, "\x1b[31m\nout\0", seed=0),
    ):
        with pytest.raises(ZetaError) as caught:
            call()
        lines = str(caught.value).split("\n")
        assert is_safe(str(caught.value))
        assert not any(line.startswith("zeta: verified") for line in lines), "a line of the name's own"


def test_a_check_in_all_its_forms(tmp_path: Path) -> None:
    report = zeta.check(Net(), torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert report.findings
    assert is_safe(str(report))
    report.to_json(tmp_path / "json")
    report.to_sarif(tmp_path / "sarif")
    for file in ("json", "sarif"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert text.replace("\n", "").replace("\x7f", "").isascii()
        assert all(char.isprintable() or char in "\n\x7f" for char in text)
    data = json.loads((tmp_path / "json").read_text(encoding="utf-8"))
    assert {one["name"] for one in data["layers"]} >= set(NASTY.values())
    pytest.importorskip("plotly")
    page = report.to_html()
    assert not any(name in page for name in NASTY.values())


def test_a_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=200, markup=False, emoji=False, highlight=False)
    monkeypatch.setattr(printing, "_STDERR", terminal)
    for name in NAMES:
        with printing.bytes_bar(quiet=False) as progress:
            assert progress is not None
            progress(name, 1, 2)
        assert visible(name) in stream.getvalue()
    for name in NASTY.values():
        assert name not in stream.getvalue()


# -- the command line --------------------------------------------------------------------------------------------------

MODULE = """
from tests.base.test_escaping import Net
import torch
def batch(): return torch.randn(5, 4)
def fails(): raise ValueError("\\x1b[31m\\x9b\\u202e [red]")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(MODULE)
    return tmp_path


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli.app, arguments)
    assert is_safe(result.output), arguments
    assert is_safe(result.stderr), arguments
    assert result.exit_code in (0, 1, 2), result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_every_command(here: Path) -> None:
    out = "o\x1b[31m[red]\n\u202e"
    shown = run("plan", "nets.py:Net").stdout
    assert all(f"{visible(name)}.weight" in shown for name in NAMES)
    result = run("init", "nets.py:Net", "--out", out, "--batch", "nets.py:batch")
    assert (result.exit_code, f"{visible(out)}/zeta.json\n" in result.stdout) == (0, True)
    assert run("init", "nets.py:Net", "--out", out).exit_code == 2
    assert run("verify", out).exit_code == 0
    tensors = here / out / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\1")
    assert run("verify", out).exit_code == 1
    assert run("check", "nets.py:Net", "--batch", "nets.py:batch", "--sarif", f"{out}/report.sarif").exit_code in (0, 1)
    assert run("check", "nets.py:Net", "--batch", "nets.py:fails").exit_code == 2
    (here / "a.toml").write_text('[[rules]]\nname = "\\u001b[31m\\u009b"\ninitializer = "\\u001b]0;"\n')
    assert run("plan", "nets.py:Net", "--rules", "a.toml").exit_code == 2
    (here / "a.toml").write_text('[[rules]]\nname = "*"\ninitializer = { name = "Normal", std = 2.0 }\n')
    assert run("diff", "nets.py:Net", "rules:a.toml").exit_code == 1
    for arguments in (("plan", "nets.py:Net", "--json"), ("verify", out, "--json"), ("diff", out, "a\x1b.json")):
        run(*arguments)
    entries = json.loads(run("plan", "nets.py:Net", "--json").stdout)["entries"]
    assert {entry["name"].removesuffix(".weight") for entry in entries} >= set(NAMES)


def test_a_manifest_of_a_stranger(here: Path) -> None:
    run("init", "nets.py:Net", "--out", "out", "--no-check")
    manifest = json.loads((here / "out" / "zeta.json").read_text())
    for number, entry in enumerate(manifest["plan"]["entries"]):
        entry["rule"] = f"\x1b[31m{number}\x9b\n"
        entry["name"] = f"\x1b[32m{number}\u202e\n"
    (here / "out" / "zeta.json").write_text(json.dumps(manifest))
    for change in (lambda: None, lambda: manifest.update(seed="\x1b[31m"), lambda: manifest.update(format="\x1b[31m")):
        change()
        (here / "out" / "zeta.json").write_text(json.dumps(manifest))
        assert run("verify", "out").exit_code in (1, 2)
        run("diff", "out", "nets.py:Net")


def test_notices(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), common._notices():
        warnings.simplefilter("always")
        warnings.warn("of \x1b[31m\x9b [red]", ZetaNotice, stacklevel=1)
    assert capsys.readouterr().err == "zeta: note: of \\x1b[31m\\x9b [red]\n"
