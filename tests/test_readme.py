"""The code of the README and of docs/ runs and prints what is shown there; figures are those of the data."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import zeta
from benchmarks import figures
from zeta.command.cli import app
from zeta.rules.file import read_rules

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: pages whose code is run, and how many outputs each compares
PAGES = {
    "README.md": 4,
    "docs/README.md": 0,
    "docs/rules.md": 8,
    "docs/coming-from-torch-init.md": 1,
    "docs/recording.md": 3,
    "docs/checkpoints.md": 4,
    "docs/adapting.md": 2,
    "docs/guide/from-init-weights.md": 4,
    "docs/guide/from-torch-init.md": 1,
    "docs/guide/torch-defaults.md": 2,
    "docs/guide/ensemble.md": 2,
    "docs/guide/new-head.md": 2,
    "docs/guide/last-layers.md": 2,
    "docs/guide/lstm.md": 2,
    "docs/guide/state-space.md": 2,
    "docs/guide/lora-by-hand.md": 2,
    "docs/guide/lora.md": 2,
    "docs/guide/pissa.md": 2,
    "docs/guide/lightning.md": 1,
    "docs/guide/fsdp2.md": 2,
    "docs/guide/lsuv.md": 1,
    "docs/guide/mup.md": 1,
    "docs/guide/reading-the-check.md": 3,
}
#: what a page needs beside the development environment
NEEDS = {"docs/guide/lora.md": "peft", "docs/guide/lightning.md": "lightning"}
#: every page, as a path from the root
ALL = [
    path.relative_to(ROOT).as_posix()
    for folder in (DOCS, DOCS / "guide", DOCS / "recipes")
    for path in sorted(folder.glob("*.md"))
]


def blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # Lightning's own
def test_the_code_prints_what_is_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    compared = 0
    for language, text in blocks(page):
        if language == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(text, Path(page).name, "exec"), namespace)
        elif language == "text":
            pattern = re.escape(text.strip()).replace(re.escape("in ... s"), r"in [\d.]+ s")
            pattern = pattern.replace(re.escape("native ..."), r"(native \w+|reference)")
            assert re.fullmatch(pattern, printed.getvalue().strip()), printed.getvalue()
            printed = io.StringIO()
            compared += 1
    assert compared == PAGES[page]


def test_the_rule_file_is_one(tmp_path: Path) -> None:
    from examples.gpt import gpt2

    (toml,) = (text for language, text in blocks("docs/rules.md") if language == "toml")
    path = tmp_path / "rules.toml"
    path.write_text(toml, encoding="utf-8")
    model = gpt2(n_layer=2, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
    plan = zeta.plan(model, read_rules(path, model))
    assert plan["h.0.attn.c_proj.weight"].std == 0.01


def anchors(path: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *ALL])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            found = path.parent / file if file else path
            assert found.is_file(), target
            assert not anchor or anchor in anchors(found), target


def test_every_page_is_in_the_list_of_the_documentation() -> None:
    for folder in (DOCS, DOCS / "recipes"):
        listed = (folder / "README.md").read_text(encoding="utf-8")
        pages = {path for page in ALL if (path := ROOT / page).parent == folder or folder == DOCS}
        pages -= {path for path in pages if path.parent == DOCS / "recipes" and folder == DOCS}
        names = [path.relative_to(folder).as_posix() for path in pages]
        assert [name for name in names if name != "README.md" and f"({name}" not in listed] == []
    assert "(recipes/README.md)" in (DOCS / "README.md").read_text(encoding="utf-8")


def test_every_page_of_the_guide_is_run_and_has_a_journey() -> None:
    guide = {page for page in ALL if page.startswith("docs/guide/")}
    assert guide == {page for page in PAGES if page.startswith("docs/guide/")}
    journeys = {path.name for path in (ROOT / "tests/journeys").glob("test_*.py")} - {"test_imports.py"}
    assert journeys == {f"test_{Path(page).stem.replace('-', '_')}.py" for page in guide}


# -- the command line ------------------------------------------------------------------------------------------------

COMMANDS = "docs/command-line.md"


def commands(text: str) -> list[tuple[str, int, str]]:
    """The commands of a console block, each with its exit code and the lines that it shows."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        command, _, remark = line.partition("  # exit code ")
        found.append((command, int(remark or 0), shown))
    return found


def test_the_commands_do_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    page = (ROOT / COMMANDS).read_text(encoding="utf-8")
    skipped = re.findall(r"^<!-- not run: .* -->\n\n```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ran = 0
    for language, text in blocks(COMMANDS):
        if language in ("python", "toml"):  # a file, named in its first line
            (tmp_path / text.split("\n")[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif language == "json":
            (tmp_path / "llama" / "config.json").write_text(text, encoding="utf-8")
        elif text not in skipped:
            for command, code, shown in commands(text):
                program, *arguments = shlex.split(command)
                result = CliRunner().invoke(app, arguments)
                assert program == "zeta"
                assert result.exit_code == code, (command, result.output)
                pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
                assert not shown or re.fullmatch(pattern, result.stdout.strip(), re.DOTALL), (command, result.stdout)
                ran += 1
    assert len(skipped) == 1
    assert ran == len(re.findall(r"^\$ ", page, re.MULTILINE)) - 1


# -- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", figures.PAGES)
def test_the_figures_are_those_of_the_data(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert figures.written(text, figures.read()) == text, "stale: make figures writes it again"


def test_a_page_shows_every_figure_and_a_changed_one_makes_it_stale() -> None:
    pages = {page: (ROOT / page).read_text(encoding="utf-8") for page in figures.PAGES}
    shown = {name for text in pages.values() for name in re.findall(r"<!-- figures: ([a-z ]+) -->", text)}
    assert shown == set(figures.PARTS)
    data = figures.read()
    data["cpu"] = json.loads(json.dumps(data["cpu"]).replace("0.98", "0.97"))
    stale = {page for page, text in pages.items() if figures.written(text, data) != text}
    assert stale == {"docs/performance.md", "docs/sharding.md"}


def test_a_run_that_measured_some_parts_alone_is_refused() -> None:
    machine = {"date": "2026-11-29", "cores": 2, "processor": "one", "threads": 2, "torch": "2.13.0", "backend": "any"}
    machine |= {"load": 0.5}
    row = {"what": "uniform, fp32", "seconds": {"zeta beside torch": 0.1}, "ratios": {"torch": 17.04}, "targets": {}}
    run = figures.take({"machine": machine, "rows": [row]}, None)
    assert run["machine"]["name"] == "2 cores of one"
    assert figures.against_torch(run, "uniform, fp32") == "17x"
    with pytest.raises(figures.MissingFigureError, match="was this part of the benchmark run"):
        figures.main_table({"cpu": run})
