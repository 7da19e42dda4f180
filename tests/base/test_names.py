"""Names in little room: shorter, with both ends where they fit, and with every number."""

from __future__ import annotations

import random
import re

import pytest
from rich.cells import cell_len

from zeta.base.names import short_name

WORDS = (
    *("model", "language_model", "vision_tower", "encoder", "layers", "h", "blocks", "self_attn", "mlp", "experts"),
    *("q_proj", "down_projection", "weight", "bias", "layer3", "conv2d_1x1", "重み", "x" * 40),
)


def drawn_name(draw: random.Random) -> str:
    """A path as models have it: words, with a number after some of them; a call or a further use at its end."""
    parts: list[str] = []
    for _ in range(draw.randint(2, 9)):
        parts.append(draw.choice(WORDS))
        if draw.random() < 0.35 and sum(part.isdigit() for part in parts) < 3:
            parts.append(str(draw.randint(0, 120)))
    end = draw.choice(("", "", ":scaled_dot_product_attention", "#12", ":relu#2"))
    return ".".join(parts) + end


@pytest.mark.parametrize("longest", [24, 30, 40, 60])
def test_no_number_is_ever_lost(longest: int) -> None:
    draw = random.Random(f"names/{longest}")
    shortened = 0
    for _ in range(1500):
        name = drawn_name(draw)
        short = short_name(name, longest)
        assert cell_len(short) <= longest, name
        left = iter(re.findall(r"\d+", short))
        layers = re.findall(r"(?<!\w)\d+(?!\w)", name)
        assert all(number in left for number in layers), (name, short)  # in this order
        if len(numbers := re.findall(r"\d+", name)) <= 5:
            assert re.findall(r"\d+", short) == numbers, (name, short)
        pattern = ".*".join(map(re.escape, short.split("…")))
        assert re.fullmatch(pattern, name), f"{short} is not {name} with gaps"
        assert (short == name) == (cell_len(name) <= longest)
        shortened += short != name
    assert shortened > 300


@pytest.mark.parametrize(
    ("name", "longest", "short"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 99, "model.layers.11.self_attn.q_proj.weight"),
        ("model.language_model.layers.11.self_attn.q_proj.weight", 30, "model…layers.11…q_proj.weight"),
        (
            "multimodal_transformer.language_model.layers.0.self_attn.v_proj.weight",
            34,
            "…layers.0.self_attn.v_proj.weight",
        ),
        ("vision_tower.encoder.layers.23.mlp.experts.117.down_proj.weight", 30, "…layers.23…experts.117…weight"),
        ("blocks.0.attn:scaled_dot_product_attention#2", 24, "blocks.0.attn:scal…ion#2"),
        (
            "model.decoder.layers.{0..23}.self_attn.query_key_value_projection.weight",
            40,
            "…layers.{0..23}…query_ke…ojection.weight",
        ),
        ("h.{0..23}.very_long_name_of_a_module.weight", 20, "h.{0..23}…weight"),
    ],
)
def test_what_says_most_stays(name: str, longest: int, short: str) -> None:
    assert short_name(name, longest) == short


def test_more_numbers_than_room_leave_the_ends() -> None:
    name = ".".join(map(str, range(100, 130)))
    assert short_name(name, 20) == "100.101.1…28.129"[:9] + "…" + name[-10:]
    assert len(short_name("1." * 400_000 + "weight", 20)) == 20, "and take no time"
