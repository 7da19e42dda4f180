"""What a check prints."""

from __future__ import annotations

import math
import re

import pytest
from rich.cells import cell_len

from tests.helpers.check_results import (
    BENIGN,
    GROWTH,
    NO_GRADIENT,
    ODD_NAMES,
    STD,
    UNITS,
    finding,
    healthy,
    layer,
    odd,
    owned,
    results,
    sick,
)
from zeta.check.facts.places import findings_by_layer
from zeta.check.facts.results import Severity
from zeta.check.show.terminal import MOST_FINDINGS, MOST_LAYERS, WIDTH, text


def rows(shown: str) -> list[str]:
    """The lines of the table of layers, below its headings."""
    _, _, below = shown.partition("─\n")
    return below.split("\n\n")[0].splitlines()


def test_a_healthy_model() -> None:
    shown = text(healthy())
    assert shown.startswith(
        "Net can learn from here: 0 failures, 0 warnings, 1 note\n"
        "10 layers, 10 parameters and buffers, fast level on cpu, seed 0, 0.42 s\n"
        "loss 2.31, chance level ln(10) = 2.303, the spread of the logits adds 0.0004149\n\n"
        "note Z302 zero-output  layers.4.weight\n"
        "     all 64 units are zero, and 64 different gradients reach them\n"
        "     -> Nothing to do.\n\n"
    )
    assert rows(shown)[0] == " layers.0              1 ███▏     0.0011 ███"
    assert rows(shown)[8].split() == ["layers.4", "1.1", "███▎", "0.00097", "██▉", "note", "Z302"]


def test_the_worst_come_first_and_the_verdict_follows() -> None:
    shown = text(sick())
    assert shown.startswith("Transformer cannot learn from here as it is: 17 failures, 41 warnings, 0 notes\n")
    marks = re.findall(r"^(FAIL|WARN|note) (Z\d+)", shown, re.MULTILINE)
    assert marks == [("FAIL", "Z301"), ("FAIL", "Z102"), ("FAIL", "Z201"), ("WARN", "Z401"), ("WARN", "Z502")]


def test_findings_at_alike_places_are_one() -> None:
    shown = text(sick())
    assert "WARN Z401 growing-forward  blocks.{60..99}.mlp.fc2 (40 places)\n     blocks.60.mlp.fc2: the mean" in shown
    folded = "blocks.{0, 7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77, 84, 91, 98}.mlp.fc1.weight (15 places)"
    assert folded in " ".join(shown.split())


def test_findings_at_further_uses_of_a_module_are_one() -> None:
    places = ["model:relu", *(f"model:relu#{n}" for n in (3, 4, 5, 9)), "blocks.1.act#2", "blocks.2.act#2"]
    shown = text(results([], [], [finding(UNITS, f"{place} is off", layer=place) for place in places]))
    found = re.findall(r"^FAIL Z301 \S+ +(.*)$", shown, re.MULTILINE)
    assert found == ["model:relu", "model:relu#{3..5, 9} (4 places)", "blocks.{1..2}.act#2 (2 places)"]


def test_different_advice_is_not_folded() -> None:
    one, other = finding(STD, "m", parameter="a.0"), finding(STD, "m", parameter="a.1")
    assert "(2 places)" in text(results([], [], [one, other]))
    elsewhere = type(other)(**{**vars(other), "advice": "do this instead"})
    assert "do this instead" in text(results([], [], [one, elsewhere]))


@pytest.mark.parametrize("blocks", [1, 4, 100])
def test_it_fits_a_terminal(blocks: int) -> None:
    lines = text(sick(blocks)).splitlines()
    assert max(map(cell_len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)


def test_of_many_layers_the_worst_are_shown_and_the_others_counted() -> None:
    shown = rows(text(sick()))
    alone = [row.split()[0] for row in shown if "..." not in row]
    elided = [int(re.findall(r"\.\.\. ([\d,]+) layers", row)[0]) for row in shown if "..." in row]
    assert len(alone) <= MOST_LAYERS
    assert len(alone) + sum(elided) == 1000
    assert {"blocks.0.norm1", "blocks.33.attn.q", "blocks.50.attn.k", "blocks.99.mlp.fc2"} <= set(alone)
    # what is not shown is still marked, and its range given
    assert next(row.split() for row in shown if row.endswith("WARN Z401")) == [
        *("...", "65", "layers", "78..269", "0.0011..0.0028", "WARN", "Z401")
    ]


def test_one_rule_does_not_crowd_out_another() -> None:
    layers = [layer(f"l.{i}") for i in range(200)]
    found = [finding(UNITS, "alike", layer=one.name) for one in layers[:100]]
    found += [finding(STD, "off", layer="l.150"), finding(NO_GRADIENT, "none", layer="l.170")]
    shown = rows(text(results(layers, [], found)))
    assert any(row.split()[0] == "l.150" and row.endswith("FAIL Z201") for row in shown)
    assert not any(row.split()[0] == "l.170" for row in shown), "failures come first"


def test_a_wide_terminal_has_room_for_names() -> None:
    name = "model.layers.0.self_attn.q_proj_and_more"
    given = results([layer(name), layer("head")], [])
    assert name not in text(given)
    assert "…" in rows(text(given, 60))[0], "a log's width is the least"
    assert rows(text(given, 90))[0].split()[0] == name
    assert rows(text(given, 400)) == rows(text(given, 90)), "no wider than the names"


def test_a_layer_between_the_shown_ones_is_never_lost() -> None:
    for number in (32, 33, 34, 63, 64, 65):
        layers = [layer(f"l.{i}") for i in range(number)]
        shown = rows(text(results(layers, owned(layers))))
        counted = sum(int(row.split()[1]) if row.startswith("   ...") else 1 for row in shown)
        assert counted == number


def test_bars_are_logarithmic_and_span_two_decades_at_least() -> None:
    layers = [layer(f"l.{i}", rms=rms, gradient=None) for i, rms in enumerate((1e-6, 1e-3, 1.0))]
    assert [row.split()[2] for row in rows(text(results(layers, [])))] == ["▏", "███", "██████"]
    layers = [layer("a", rms=1.0), layer("b", rms=1.01)]
    bars = [row.split()[2] for row in rows(text(results(layers, [])))]
    assert bars == ["███", "███"], "one percent is no difference to see"


@pytest.mark.parametrize(
    ("rms", "cell"),
    [
        (0.0, "0"),
        (math.nan, "nan"),
        (math.inf, "inf ██████"),
        (1e-42, "1e-42 ███"),
        (123456.0, "1.2e5 ███"),
        (1e200, "1e200 ███"),
    ],
)
def test_numbers_that_are_hard_to_draw(rms: float, cell: str) -> None:
    (row,) = rows(text(results([layer("a", rms=rms, gradient=None)], [])))
    assert " ".join(row.split()) == f"a {cell} none"


def test_a_run_with_nan_says_so() -> None:
    layers = [layer(f"l.{i}", rms=math.nan if i == 5 else 1.0) for i in range(100)]
    assert "nan and numbers" in text(results(layers, []))


def test_odd_names_are_shown_as_they_are_but_for_control_characters() -> None:
    shown = text(odd())
    for name in ODD_NAMES[:5]:
        assert f"  {name}\n" in shown
    assert "\n     " + ODD_NAMES[7] + "\n" in shown, "a long name stays whole"
    assert "line\\u2028separator\\x1b[31mred" in shown
    assert not re.search("[\x1b\u2028]", shown)


def test_what_was_left_out_is_said() -> None:
    shown = text(odd())
    assert "0 failures, 1 warning, 0 notes suppressed\n" in shown
    assert shown.endswith("Z603 not applied: <no attention>\nZ201, Z202 not applied: no plan")


def test_what_was_measured_over_sizes_is_a_table() -> None:
    """The values are size^(step / 2); names of classes are text."""
    lines = text(odd()).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("Outputs over width 64..256"))
    assert lines[start + 2].split() == ["class", "layers", "start", "step", "1", "step", "2", "verdict"]
    cells = lines[start + 4].split()
    assert cells[:5] == ["<i>hidden", "1", "+0.00", "+0.50", "+1.00"]
    assert cells[5] == "grows:"
    assert not any(line.startswith("Outputs over depth") for line in lines)


def test_very_many_findings_are_counted() -> None:
    names = [chr(ord("a") + i // 26) + chr(ord("a") + i % 26) for i in range(MOST_FINDINGS + 5)]
    shown = text(results([], [], [finding(UNITS, "alike", parameter=name) for name in names]))
    assert shown.count("FAIL Z301") == MOST_FINDINGS
    assert shown.endswith("FAIL and 5 more; the JSON and the HTML have all of them")


def test_findings_go_to_the_layer_that_they_name_or_that_owns_the_parameter() -> None:
    layers = [layer("a"), layer("a#2", "Linear"), layer("b")]
    layers[1] = type(layers[1])(**{**vars(layers[1]), "parameters": layers[0].parameters})
    found = [
        finding(GROWTH, "grows", layer="a#2", parameter="a.weight"),
        finding(UNITS, "alike", parameter="a.weight"),
        finding(BENIGN, "zero", layer="gone", parameter="b.bias"),
        finding(NO_GRADIENT, "none", parameter="elsewhere"),
        finding(NO_GRADIENT, "none"),
    ]
    by_layer = findings_by_layer(results(layers, [], found))
    assert {name: [one.message for one in members] for name, members in by_layer.items()} == {
        "a": ["alike"],
        "a#2": ["alike", "grows"],
        "b": ["zero"],
    }
    assert all(one.severity is not Severity.NOTE for one in by_layer["a#2"])
    assert "WARN Z502 no-gradient  (the model)" in text(results(layers, [], found))
