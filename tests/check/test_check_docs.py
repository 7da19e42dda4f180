"""docs/check.md has a section for each rule, and says of it what the catalogue says: docs/catalogue.py writes it."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from zeta.check import GROUPS, RULES, Rule, Thresholds

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "check.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (Z\d+) [\w-]+\n\n(.*?)(?=\n##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
SCRIPT = runpy.run_path(str(DOCS / "catalogue.py"))


def test_the_page_is_what_the_script_writes() -> None:
    assert SCRIPT["written"](PAGE) == PAGE, "stale: python docs/catalogue.py writes it again"


def test_the_script_mends_what_the_catalogue_says_and_keeps_what_was_written_by_hand() -> None:
    broken = PAGE.replace("*FAIL.*", "*NOTE.*").replace("### Z102 not-finite", "### Z102 infinite")
    broken = broken.replace("**What to do.** Draw", "**What to do.** Take").replace(
        "| `patience` | 3 |", "| `patience` | 4 |"
    )
    assert broken != PAGE
    assert SCRIPT["written"](broken) == PAGE
    without = re.sub(r"### Z303 .*?(?=### Z304)", "", PAGE, flags=re.DOTALL)
    assert f"*NOTE.* {RULES['Z303'].summary}\n\n**What to do.**" in SCRIPT["written"](without)
    assert SCRIPT["written"](PAGE.replace("### Z304", "### Z399 no-more\n\n*FAIL.* Gone.\n\n### Z304")) == PAGE


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_section_explains_more_than_the_catalogue_does(rule: Rule) -> None:
    assert SCRIPT["by_hand"](f"### {rule.id}\n\n{SECTIONS[rule.id]}")


def test_ids_have_the_number_of_their_group() -> None:
    assert all(key == rule.id and key[:2] in GROUPS and re.fullmatch(r"Z\d\d\d", key) for key, rule in RULES.items())
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_the_table_of_thresholds_has_each_with_its_rules() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \S+ \| ([Z\d, ]+) \|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == [field.name for field in fields(Thresholds)]
    named = {rule for _, rules in rows for rule in rules.split(", ")}
    assert named <= set(RULES)
