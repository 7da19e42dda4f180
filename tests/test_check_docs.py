"""docs/check.md has a section for each rule, and says of it what the rule says itself."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from zeta.check import GROUPS, RULES, Thresholds

PAGE = (Path(__file__).parents[1] / "docs" / "check.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (Z\d+) [\w-]+\n\n(.*?)(?=\n##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_every_rule_has_a_section_and_no_section_is_left_over() -> None:
    assert list(SECTIONS) == list(RULES)
    assert re.findall(r"^## (Z\d): ([\w ]+)$", PAGE, re.MULTILINE) == list(GROUPS.items())


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_section_says_what_it_means_what_to_do_and_where_it_comes_from(rule: object) -> None:
    text = " ".join(SECTIONS[rule.id].split())  # type: ignore[attr-defined]
    for field in ("summary", "advice", "source"):
        assert " ".join(getattr(rule, field).split()) in text
    assert text.startswith(f"*{rule.severity.name}.*")  # type: ignore[attr-defined]


def test_ids_have_the_number_of_their_group() -> None:
    assert all(key == rule.id and key[:2] in GROUPS and re.fullmatch(r"Z\d\d\d", key) for key, rule in RULES.items())
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_the_table_of_thresholds_has_each_with_its_default_and_its_rules() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| ([Z\d, ]+) \|$", PAGE, re.MULTILINE)
    defaults = [(field.name, f"{field.default:.6g}") for field in fields(Thresholds)]
    assert [(name, value) for name, value, _ in rows] == defaults
    named = {rule for _, _, rules in rows for rule in rules.split(", ")}
    assert named <= set(RULES)
