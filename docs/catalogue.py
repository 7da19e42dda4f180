"""Write the sections of check.md that describe the rules, from the catalogue of the check.

    python docs/catalogue.py

Of each section, the heading, the severity, the first sentence, what to do and the source are written here; the text
between is written by hand, and kept. A new rule gets a section without that text, in the order of the catalogue. The
section of a rule that is no more goes. Defaults in the table of thresholds are written too.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Final

from zeta.check import GROUPS, RULES, Thresholds

PAGE: Final = Path(__file__).parent / "check.md"

_RULES: Final = re.compile(r"^## Z\d: .*?(?=^## (?!Z\d: ))", re.MULTILINE | re.DOTALL)
_SECTION: Final = re.compile(r"^### (Z\d+) .*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_THRESHOLD: Final = re.compile(r"^(\| `(\w+)` \| )\S+( \|)", re.MULTILINE)


def by_hand(section: str) -> str:
    """The paragraphs of a section between its first and *What to do*."""
    paragraphs = section.strip().split("\n\n")[2:]
    own = [text for text in paragraphs if not text.startswith(("**What to do.**", "**Source.**"))]
    return "\n\n".join(own)


def written(page: str) -> str:
    """The page with the sections that follow from the catalogue."""
    old = _RULES.search(page)
    assert old is not None
    kept = {match[1]: by_hand(match[0]) for match in _SECTION.finditer(old[0])}
    paragraphs: list[str] = []
    for group, title in GROUPS.items():
        paragraphs.append(f"## {group}: {title}")
        for rule in RULES.values():
            if rule.id.startswith(group):
                paragraphs += [
                    f"### {rule.id} {rule.name}",
                    f"*{rule.severity.name}.* {rule.summary}",
                    *filter(None, [kept.get(rule.id, "")]),
                    f"**What to do.** {rule.advice}",
                    f"**Source.** {rule.source}.",
                ]
    defaults = {field.name: f"{field.default:.6g}" for field in fields(Thresholds)}
    page = page[: old.start()] + "\n\n".join(paragraphs) + "\n\n" + page[old.end() :]
    return _THRESHOLD.sub(lambda match: f"{match[1]}{defaults.get(match[2], 'gone')}{match[3]}", page)


def main() -> None:
    """Write the page where it differs."""
    page = PAGE.read_text(encoding="utf-8")
    if (new := written(page)) != page:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
