"""Results into TensorBoard, by a writer that only takes notes."""

from __future__ import annotations

import ast
import inspect
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.check_results import ALL, ODD_NAMES, healthy, odd, sick
from zeta.check.show.tensorboard import SummaryWriterLike, log_to
from zeta.check.show.terminal import text

METHODS = ("add_scalar", "add_text", "add_histogram_raw")


class Notes:
    """Takes what a SummaryWriter takes, by tag."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.texts: dict[str, str] = {}
        self.histograms: dict[str, dict[str, Any]] = {}
        self.steps: set[int | None] = set()

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        assert tag not in self.scalars, "written twice"
        self.scalars[tag] = scalar_value
        self.steps.add(global_step)

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        self.texts[tag] = text_string
        self.steps.add(global_step)

    def add_histogram_raw(self, tag: str, *, global_step: int | None = None, **rest: Any) -> None:
        assert tag not in self.histograms, "written twice"
        self.histograms[tag] = rest
        self.steps.add(global_step)


def noted(name: str, step: int = 0) -> Notes:
    notes = Notes()
    log_to(ALL[name](), notes, step)
    return notes


def test_the_writer_is_called_as_torchs_own_wants_it() -> None:
    spec = find_spec("torch.utils")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], "tensorboard", "writer.py").read_text(encoding="utf-8")
    (writer,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "SummaryWriter"
    )
    taken = {
        node.name: [argument.arg for argument in node.args.args]
        for node in writer.body
        if isinstance(node, ast.FunctionDef)
    }
    for method in METHODS:
        given = list(inspect.signature(getattr(SummaryWriterLike, method)).parameters)
        assert taken[method][: len(given)] == given


@pytest.mark.parametrize("name", ALL)
def test_everything_is_written_at_the_step(name: str) -> None:
    notes, results = noted(name, 7), ALL[name]()
    assert notes.steps == {7}
    assert len([tag for tag in notes.scalars if tag.startswith("zeta output rms/")]) == len(results.layers)
    assert len([tag for tag in notes.scalars if tag.startswith("zeta std/")]) == len(results.parameters)


def test_scalars() -> None:
    scalars = noted("sick").scalars
    assert [scalars[f"zeta/{name}"] for name in ("fail", "warn", "note", "loss")] == [17, 41, 0, 89.1]
    assert scalars["zeta output rms/blocks.99.mlp.fc2"] == pytest.approx(1e6)
    assert scalars["zeta gradient rms/blocks.0.norm1"] == pytest.approx(1e-7)
    assert scalars["zeta planned std/blocks.50.attn.k.weight"] == 0.02
    assert scalars["zeta differing units/blocks.7.mlp.fc1.weight"] == 8
    assert math.isnan(scalars["zeta std/blocks.33.attn.q.weight"])
    assert "zeta first step/unused.weight" not in scalars, "what was not measured is not written"


def test_the_text_is_what_a_terminal_shows_as_markdown_shows_code() -> None:
    (shown,) = noted("sick").texts.values()
    assert [line[:4] for line in shown.splitlines()] == ["    "] * len(shown.splitlines())
    assert "\n".join(line[4:] for line in shown.splitlines()) == text(sick())


def test_histograms_have_edges_and_moments() -> None:
    notes = noted("healthy")
    assert len(notes.histograms) == 3 * 10
    weight = notes.histograms["zeta values/layers.0.weight"]
    assert weight["num"] == sum(weight["bucket_counts"])
    assert len(weight["bucket_limits"]) == len(weight["bucket_counts"]) == 41
    counts = healthy().parameters[0].values.histogram
    assert counts is not None
    assert weight["bucket_counts"] == [0, *counts.counts]
    assert (weight["bucket_limits"][0], weight["bucket_limits"][-1]) == pytest.approx((-0.08, 0.08))
    assert weight["sum_squares"] == pytest.approx(weight["num"] * 0.02**2)
    assert (weight["min"], weight["max"]) == (healthy().parameters[0].values.low, healthy().parameters[0].values.high)


def test_what_has_no_histogram_is_left_out() -> None:
    notes = noted("odd")
    assert f"zeta output/{ODD_NAMES[1]}" not in notes.histograms
    assert f"zeta output/{ODD_NAMES[0]}" in notes.histograms
    assert len(odd().layers) == 8
