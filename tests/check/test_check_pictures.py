"""The pictures of findings: what they show is what the results say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.check_results import (
    ALL,
    GROWTH,
    STD,
    UNITS,
    deep,
    finding,
    layer,
    odd,
    owned,
    parameter,
    results,
    sick,
    stats,
)
from zeta.check.facts.catalogue import RULES
from zeta.check.facts.results import Layer, Loss, Results, Rule
from zeta.check.show.pictures import drawing
from zeta.check.show.pictures.choosing import DRAWINGS, EVIDENCE, pictures
from zeta.check.show.pictures.groups import groups


def rule(number: str) -> Rule:
    return replace(UNITS, id=number, name=f"rule {number}")


def only(shown: Results) -> ElementTree.Element:
    """The one picture, as XML."""
    (svg,) = pictures(shown).values()
    return ElementTree.fromstring(svg)


def title(picture: ElementTree.Element) -> str:
    return picture.findtext("title") or ""


def texts(picture: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in picture.iter("text")]


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?[\d.]+", text)]


# -- which -------------------------------------------------------------------------------------------------------------


def test_every_rule_with_a_picture_exists_and_every_drawing_is_used() -> None:
    assert set(EVIDENCE) <= set(RULES)
    assert set(EVIDENCE.values()) == set(DRAWINGS)


def test_findings_of_one_severity_rule_and_advice_have_one_picture() -> None:
    shown = sick()
    drawn, members = pictures(shown), {group.first: group.findings for group in groups(shown)}
    assert sum(map(len, members.values())) == len(shown.findings)
    assert {shown.findings[first].rule.id for first in drawn} == {"Z201", "Z301", "Z401"}
    assert [len(members[first]) for first in drawn if shown.findings[first].rule.id == "Z301"] == [15]


def test_nothing_to_draw_is_no_picture() -> None:
    bare = [layer("a", gradient=None), layer("b", gradient=None)]
    about_all = [finding(rule(number), "the model as a whole") for number in EVIDENCE]
    assert pictures(results(bare, owned(bare), about_all, loss=None)).keys() <= {
        at for at, one in enumerate(about_all) if EVIDENCE[one.rule.id] == "cut"
    }
    assert pictures(results([], [], about_all, loss=None)) == {}
    assert pictures(results(bare, [], [finding(rule("Z901"), "no picture has it", layer="a")])) == {}


# -- as SVG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_they_are_small_and_whole_and_fetch_nothing(name: str) -> None:
    for svg in pictures(ALL[name]()).values():
        picture = ElementTree.fromstring(svg)
        assert picture.get("role") == "img"
        assert title(picture) == picture.get("aria-label") != ""
        assert not re.search("href|url\\(|<style|<script|nan|inf[^,]", svg.lower())
        assert len(svg) < 8192
        width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
        for one in picture.iter("text"):
            x, y = float(one.get("x", 0)), float(one.get("y", 0))
            long = len(one.text or "") * drawing.CHARACTER * 0.9
            left = x - long * {"start": 0, "middle": 0.5, "end": 1}[one.get("text-anchor", "start")]
            assert left >= -2, one.text
            assert left + long <= width + 2, one.text
            assert 8 <= y <= height, one.text


def test_names_are_text() -> None:
    shown = odd()
    hostile = replace(shown, findings=tuple(replace(one, rule=RULES["Z402"]) for one in shown.findings))
    picture = only(hostile)
    assert {one.tag for one in picture.iter()} == {"svg", "title", "text", "path"}


# -- curves ------------------------------------------------------------------------------------------------------------


def profile(values: list[float], marked: list[int], gradients: bool = False) -> Results:
    layers = [
        layer(f"layers.{i}", rms=1.0 if gradients else value, gradient=value if gradients else 1e-3)
        for i, value in enumerate(values)
    ]
    found = [finding(rule("Z504" if gradients else "Z402"), "far off", layer=f"layers.{i}") for i in marked]
    return results(layers, owned(layers), found)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("gradients", [False, True])
def test_of_the_marked_layers_the_worst_has_its_name_on_it(seed: int, gradients: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = [10**power for power in (torch.rand(12, generator=generator) * 8 - 4).tolist()]
    values[seed % 3 * 4 + 1] = 1e9 if seed % 2 else 1e-9
    marked = [1, 5, 9]
    picture = only(profile(values, marked, gradients))
    bad = seed % 3 * 4 + 1
    assert f"marked: layers.{bad}: {values[bad]:.4g}" in title(picture)
    # the mark is at the layer's place, and as high or as low as nothing else
    curve = next(path.get("d", "") for path in picture.iter("path") if "stroke-width:1.5" in path.get("style", ""))
    points = [tuple(map(float, one.split())) for one in curve[1:].split("L")]
    assert len(points) == 12
    crosses = [path.get("d", "") for path in picture.iter("path") if "stroke-width:3;" in path.get("style", "")]
    (start,) = [numbers(one)[:2] for one in crosses]
    assert [start[0] + 5, start[1] + 5] == pytest.approx(points[bad], abs=0.11)
    assert points[bad][1] == (min if seed % 2 else max)(y for _, y in points)


def test_what_is_not_finite_is_worst() -> None:
    values = [1.0, 1e30, math.inf, 1.0]
    picture = only(profile(values, [1, 2]))
    assert "marked: layers.2: inf" in title(picture)
    assert "inf, nan" in texts(picture)


def test_zero_has_a_place_on_the_axis() -> None:
    picture = only(profile([1e-3, 0.0, 1e-3, 1e-2], [1], gradients=True))
    assert "marked: layers.1: 0" in title(picture)
    assert "0" in texts(picture)


def test_findings_about_blocks_are_drawn_over_the_blocks() -> None:
    layers = [
        layer(f"h.{i}.{part}" if part else f"h.{i}", rms=2.0**i, block=not part) for i in range(5) for part in ("a", "")
    ]
    picture = only(results(layers, [], [finding(GROWTH, "grows", layer="h.4")]))
    assert title(picture) == "output (rms), block by block; marked: h.4: 16"
    assert picture.find("path[@d]") is not None
    lines = [path.get("d", "").count("L") for path in picture.iter("path") if "var(--accent" in path.get("style", "")]
    assert max(lines) == 4


def test_attention_is_drawn_by_its_entropy_and_limit() -> None:
    shown = deep()
    svg = next(svg for at, svg in pictures(shown).items() if shown.findings[at].rule.id == "Z603")
    picture = ElementTree.fromstring(svg)
    assert "layers.11" in title(picture)
    assert title(picture).endswith(": 0.04"), "of blocks 11 and 12"
    assert "- - limit 0.1" in texts(picture)
    dark = next(path for path in picture.iter("path") if "fill-opacity:1" in path.get("style", ""))
    corners = [numbers(cell)[:2] for cell in dark.get("d", "").split("M")[1:]]
    assert len(corners) == 4
    assert len({x - y for x, y in corners}) == 1, "the diagonal, as the worst one's map has it, not that of block 12"


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("std", "initializer"), [(0.06, "Normal(std=0.02)"), (0.005, "Uniform(low=-0.035, high=0.035)")]
)
def test_the_histogram_is_as_much_wider_than_the_planned_law_as_its_std(std: float, initializer: str) -> None:
    one = parameter("w.weight", std=std, planned=0.02, initializer=initializer)
    picture = only(results([], [one], [finding(STD, "off", parameter="w.weight", value=100)]))
    assert title(picture) == f"values of w.weight; measured: std {std:.4g}, mean 0; planned: std 0.02, mean 0"
    filled = next(path for path in picture.iter("path") if "fill-opacity:0.55" in path.get("style", ""))
    starts = [numbers(bar)[0] for bar in filled.get("d", "").split("M")[1:]]
    law = next(path for path in picture.iter("path") if "stroke-width:2" in path.get("style", ""))
    places = [numbers(point)[0] for point in law.get("d", "")[1:].split("L")]
    reach = math.sqrt(3) if "Uniform" in initializer else 3.5
    # the histogram has 40 bins over 8 std; the first bin starts at -4 std, the last at 3.8 std, if it is not empty
    wide = (max(starts) - min(starts)) / (max(places) - min(places))
    assert wide == pytest.approx(7.6 * std / (2 * reach * 0.02), rel=0.12)
    assert sum("planned" in text for text in texts(picture)) == 1


def test_without_a_plan_there_is_no_law() -> None:
    one = parameter("w.weight", planned=None)
    assert "planned" not in title(only(results([], [one], [finding(STD, "off", parameter="w.weight")])))


def test_the_worst_parameter_is_drawn() -> None:
    some = [parameter(f"{i}.weight", std=0.1) for i in range(3)] + [parameter("3.weight", values=stats(0))]
    found = [finding(STD, "off", parameter=f"{i}.weight", value=value) for i, value in enumerate((7.0, 90.0, 8.0))]
    assert title(only(results([], some, found))).startswith("values of 1.weight;")
    alike = [parameter(f"{i}.weight", distinct=distinct) for i, distinct in enumerate((32, 2, 63))]
    found = [finding(UNITS, "alike", parameter=f"{i}.weight", value=0) for i in range(3)]
    picture = only(results([], alike, found))
    assert title(picture) == "units of 1.weight: 2 differ, 62 the same as another"
    squares = [path.get("d", "").count("M") for path in picture.iter("path")]
    assert squares[:2] == [2, 62]


def test_the_loss_is_compared_with_chance() -> None:
    shown = results([], [], [finding(rule("Z601"), "high")], loss=Loss(value=19.42, expected=18.2, classes=100))
    assert title(only(shown)) == "loss 19.42, chance level 4.605, with the logits' spread 18.2"
    bars = [numbers(path.get("d", ""))[2] for path in only(shown).iter("path")]
    assert bars[1] / bars[0] == pytest.approx(math.log(100) / 19.42, rel=0.01)


# -- chains ------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """An encoder and a decoder, with something between."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.between = between
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32))
        self.decoder = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.encoder(x)
        return self.decoder({"detach": y.detach, "round": lambda: torch.round(3 * y)}[self.between]())


@pytest.mark.parametrize(("between", "number"), [("detach", "Z502"), ("round", "Z904")])
def test_the_cut_is_between_the_last_layer_without_a_gradient_and_the_first_with_one(between: str, number: str) -> None:
    torch.manual_seed(0)
    report = zeta.check(Net(between), (torch.randn(64, 16), torch.randint(10, (64,))))
    (first,) = (at for at, one in enumerate(report.findings) if one.rule.id == number)
    picture = ElementTree.fromstring(pictures(report)[first])
    assert title(picture) == "chain of layers: no gradient reaches encoder.0; it ends before decoder.0"
    assert [one for one in texts(picture) if one != "where the gradient ends"] == [
        *("input", "encoder.0", "+2", "decoder.0", "+2", "loss", "no gradient", "gradient")
    ]
    x = {one.text: float(one.get("x", 0)) for one in picture.iter("text")}
    cut = next(path for path in picture.iter("path") if "stroke-dasharray" in path.get("style", ""))
    assert x["encoder.0"] < numbers(cut.get("d", ""))[0] < x["decoder.0"]


def test_where_no_layer_has_a_gradient_it_ends_before_the_loss() -> None:
    layers = [layer(f"l.{i}", gradient=None) for i in range(3)]
    assert title(only(results(layers, [], [finding(rule("Z503"), "none")]))).endswith("it ends before the loss")


def test_long_names_in_a_chain_keep_their_numbers_and_stay_apart() -> None:
    names = [f"multimodal_transformer.language_model.layers.{i}.self_attn.query_projection" for i in range(30)]
    layers: list[Layer] = [layer(name, gradient=None if i < 15 else 1.0) for i, name in enumerate(names)]
    picture = only(results(layers, [], [finding(rule("Z502"), "cut", layer=names[14])]))
    said = "".join(texts(picture))
    assert "14" in said
    assert "15" in said
    frames = [(float(one.get("x", 0)), float(one.get("width", 0))) for one in picture.iter("rect")]
    assert len(frames) == 2
    assert frames[0][0] + frames[0][1] < frames[1][0]


def test_the_layer_where_samples_mix_is_marked() -> None:
    layers = [layer(f"l.{i}") for i in range(6)]
    picture = only(results(layers, [], [finding(rule("Z907"), "mix", layer="l.3")]))
    assert title(picture) == "chain of layers: samples mix here at l.3"
    assert texts(picture)[1:] == ["input", "+2", "l.2", "l.3", "samples mix here", "l.4", "+1", "output"]
