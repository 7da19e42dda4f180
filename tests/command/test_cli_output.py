"""What the command line looks like: help, terminals, pipes, encodings; and the command as a process."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import typer
from torch import nn
from typer.testing import CliRunner

import zeta
from zeta.command import requests
from zeta.command.cli import app
from zeta.command.common import errors
from zeta.command.help import EXAMPLES
from zeta.write.checkpoint import MAX_SHARD_SIZE

LINEAR = ("torch.nn:Linear", "--recipe", "torch", "--kwargs", '{"in_features": 4, "out_features": 8}')
MODEL_OPTIONS = {"--recipe", "--rules", "--kwargs", "--dtype", "--cast-buffers", "--device", "--fallback"}
MODEL_OPTIONS |= {"--option", "--override", "--json", "--debug", "--help"}
OPTIONS = {
    "init": MODEL_OPTIONS | {"--out", "--seed", "--max-shard-size", "--drop-ties", "--force", "--batch", "--check"},
    "check": MODEL_OPTIONS
    | {"--batch", "--loss", "--level", "--suppress", "--html", "--sarif", "--seed"}
    | {"--widths", "--depths", "--how", "--lr"},
    "plan": MODEL_OPTIONS,
    "diff": {"--kwargs", "--dtype", "--cast-buffers", "--fallback", "--json", "--debug", "--help"},
    "adapt": {
        *(
            "--out",
            "--model",
            "--grow-vocab",
            "--rows",
            "--noise",
            "--layers",
            "--depth",
            "--how",
            "--option",
            "--fallback",
        ),
        *(
            "--seed",
            "--allow",
            "--map",
            "--prefix",
            "--kwargs",
            "--dtype",
            "--drop-ties",
            "--max-shard-size",
            "--force",
        ),
        *("--json", "--debug", "--help"),
    },
    "scale": {
        *("--base", "--target", "--how", "--optimizer", "--lr", "--weight-decay", "--role", "--depth", "--alpha"),
        *("--multipliers", "--attention", "--recipe", "--fallback", "--json", "--debug", "--help"),
    },
    "verify": {"--source", "--json", "--debug", "--help"},
    "recipes": {"--option", "--kwargs", "--json", "--debug", "--help"},
    "doctor": {"--json", "--debug", "--help"},
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def output(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", OPTIONS)
def test_help_of_each_command(command: str) -> None:
    code, text, errors = output(command, "--help")
    text = click.unstyle(text)
    assert (code, errors) == (0, "")
    assert set(re.findall(r"^│[ *]+(--[a-z-]+)", text, re.MULTILINE)) == OPTIONS[command]
    assert ("MODEL" in text, "DIR" in text) == (
        command in ("init", "adapt", "scale", "check", "plan", "diff", "recipes"),
        command in ("init", "adapt", "diff", "verify"),
    )


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("command", OPTIONS)
def test_help_breaks_lines_at_the_right_end_alone(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
    text = click.unstyle(output(command, "--help")[1])
    before, _, after = text.partition("╭")
    lines = [line.strip() for line in before.splitlines()][2:]
    for line, following in itertools.pairwise(lines):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > width - 2, f"broken before the end: {line!r}"
    shown = after.rpartition("╯")[2].split("Examples:")[1].split("\n")
    assert [line.strip() for line in shown if line.strip()] == [*EXAMPLES[command]], "no example is broken"


def test_examples_are_of_commands_and_options_that_exist() -> None:
    assert set(EXAMPLES) == set(OPTIONS)
    for command, examples in EXAMPLES.items():
        for example in examples:
            program, name, *arguments = shlex.split(example)
            assert (program, name) == ("zeta", command)
            assert {argument for argument in arguments if argument.startswith("--")} <= OPTIONS[command]


def test_every_command_prints_json_with_the_same_flag() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in commands.values():
        [flag] = (option for option in command.params if "--json" in option.opts)
        assert flag.is_flag, command.name


def test_help_lists_the_commands() -> None:
    code, text, _ = output("--help")
    assert code == 0
    assert set(re.findall(r"^│ ([a-z]+)  ", click.unstyle(text), re.MULTILINE)) == set(OPTIONS)
    assert output()[0] == 2
    assert output("--version") == (0, f"zeta {zeta.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("init", "nets.py:Tied"), ("plan",), ("verify",), ("verify", "a", "b"), ("doctor", "--x")]
)
def test_unknown_commands_and_options(arguments: tuple[str, ...]) -> None:
    code, text, errors = output(*arguments)
    assert (code, text) == (2, "")
    assert "Usage:" in errors


@pytest.mark.parametrize("environment", [{"COLUMNS": "20"}, {"NO_COLOR": "1"}, {"COLUMNS": "500"}, {"TERM": "dumb"}])
def test_output_does_not_depend_on_the_terminal(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [("plan", *LINEAR), ("plan", *LINEAR, "--json"), ("plan", "nothing"), ("recipes",), ("doctor",)]
    expected = [output(*command) for command in commands]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert [output(*command) for command in commands] == expected
    assert "\x1b" not in str(expected)
    assert expected[0][1] == f"{zeta.plan(nn.Linear(4, 8), 'torch')}\n"
    assert expected[2][2].count("\n") == 1, "one line, however narrow"


@pytest.mark.parametrize("key", ["user[bold]item", "[/]", "a b", "重み", "user:key:item"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_are_printed_as_they_are(key: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """A ModuleDict may have such keys: edges of a graph of users and items."""
    (tmp_path / "graph.py").write_text(
        f"from torch import nn\ndef graph(): return nn.ModuleDict({{{key!r}: nn.Linear(2, 2)}})\n", encoding="utf-8"
    )
    shown = output("plan", "graph.py:graph", "--recipe", "torch", *options)[1]
    names = [entry["name"] for entry in json.loads(shown)["entries"]] if options else [shown]
    assert f"{key}.weight" in names[0]


# -- as a process ------------------------------------------------------------------------------------------------------


def script() -> list[str]:
    """The ``zeta`` command, as an installed one runs it."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["zeta"].split(":")
    return [sys.executable, "-c", f"from {module} import {function}; {function}()"]


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
def test_the_bar_goes_to_the_terminal_and_the_rest_into_the_pipe() -> None:
    import pty

    terminal, end = pty.openpty()
    command = [*script(), "init", *LINEAR, "--out", "out"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, check=False)
    os.close(end)
    shown = b""
    while True:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # Linux, at the end
            block = b""
        shown += block
        if not block:
            break
    os.close(terminal)
    assert done.returncode == 0
    assert b"160 B of 160 B" in shown
    assert b"\x1b" not in done.stdout
    assert done.stdout.decode().startswith(f"{zeta.plan(nn.Linear(4, 8), 'torch')}\n2 tensors written: ")
    assert zeta.verify("out").ok


def test_a_refusal_in_a_pipe() -> None:
    done = subprocess.run([*script(), "verify", "none"], capture_output=True, text=True, check=False)
    message = f"zeta: {Path('none/zeta.json')} does not exist: none was not written by zeta\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


TALKING = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        print("building")
        super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

def batch():
    print("making a batch")
    return torch.randn(16, 8)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "talking.py:Net"),
        ("init", "talking.py:Net", "--out", "out", "--batch", "talking.py:batch"),
        ("check", "talking.py:Net", "--batch", "talking.py:batch", "--html", "out.html"),
        ("diff", "talking.py:Net", "recipe:torch"),
        ("recipes",),
        ("recipes", "torch"),
        ("doctor",),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_json_is_all_that_comes_to_stdout(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """What the model's own code prints goes to stderr."""
    (tmp_path / "talking.py").write_text(TALKING, encoding="utf-8")
    if "--html" in arguments:
        pytest.importorskip("plotly")
    code, text, errors = output(*arguments, "--json")
    assert code in (0, 1), errors
    assert isinstance(json.loads(text), dict)
    assert ("building" in errors) == ("talking.py:Net" in arguments)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_needs_no_torch(shell: str) -> None:
    program = (
        "import atexit, sys\n"
        "sys.argv[0] = 'zeta'\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"{script()[2]}"
    )
    for words, expected in [
        ("zeta ver", "verify"),
        ("zeta plan nets.py:Net --rec", "--recipe"),
        ("zeta plan nets.py:Net --recipe lla", "llama"),
        ("zeta plan nets.py:Net --dtype bf", "bf16"),
        ("zeta recipes re", "resnet"),
        ("zeta check nets.py:Net --level fu", "full"),
    ]:
        environment = {
            **os.environ,
            "_ZETA_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_ARGS": words,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        command = [sys.executable, "-c", program, *words.split()[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert expected in done.stdout
        assert done.stderr == "False\n"


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    program = f"import sys; sys.argv[0] = 'zeta'; {script()[2]}"
    for option in ("--show-completion", "--install-completion"):
        command = [sys.executable, "-c", program, option, "bash"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "_ZETA_COMPLETE=complete_bash" in done.stdout or "completion installed" in done.stdout
    assert (tmp_path / ".bashrc").exists()


def test_json_in_a_pipe_is_nothing_but_json() -> None:
    done = subprocess.run([*script(), "init", *LINEAR, "--out", "out", "--json"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["report"]["ok"] is True


def test_a_pipe_of_another_encoding() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([*script(), "plan", *LINEAR], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_standard_files_are_not_those_of_a_checkpoint(tmp_path: Path) -> None:
    """A library that prints would write into a file of tensors that has descriptor 1 or 2."""
    Path("net.py").write_text(
        "import os\nfrom torch import nn\n\ndef build():\n"
        "    null = os.stat(os.devnull)\n"
        "    assert all(os.path.samestat(os.fstat(number), null) for number in range(3))\n"
        "    return nn.Linear(4, 8)\n"
    )
    command = shlex.join([*script(), "init", "net.py:build", "--out", "out", "--no-check"])
    assert subprocess.run(["sh", "-c", f"{command} 0<&- 1>&- 2>&-"], check=False).returncode == 0
    assert zeta.verify("out").ok


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full")
def test_a_full_disk_under_the_output() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*script(), "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    message = "zeta: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_no_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, errors(debug=False):
        raise MemoryError
    assert (ended.value.exit_code, capsys.readouterr().err) == (2, "zeta: there is not enough memory for this\n")


def test_the_default_size_of_a_file_is_that_of_save() -> None:
    assert requests.MAX_SHARD_SIZE == MAX_SHARD_SIZE
