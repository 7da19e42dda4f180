"""Findings as SARIF 2.1.0, which code-review tools show.

The standard: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from zeta._version import __version__
from zeta.check.facts.places import consequences_text, where
from zeta.check.facts.results import Finding, Results, Rule, Severity
from zeta.check.show.serial import number_to_json

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: the name of the fingerprint; another computation gets a new version
FINGERPRINT: Final = "zetaFinding/v1"

#: the page with a section for each rule. Not a ``helpUri``, which must be absolute: the project has no address yet
PAGE: Final = "docs/check.md of zeta"

_LEVELS: Final = {Severity.FAIL: "error", Severity.WARN: "warning", Severity.NOTE: "note"}


def to_sarif(results: Results, artifact: str | None = None) -> dict[str, Any]:
    """Return a SARIF log for ``json.dumps(..., allow_nan=False)``: one run, one result for each finding.

    The locations are logical: names of parameters and layers. Suppressed findings are suppressed results. A result's
    fingerprint depends only on its rule and place, so that tools recognize it in the next run.

    Args:
        results: what to write.
        artifact: a file of the repository, such as ``src/model.py``, to attach the findings to; some tools show no
            findings without one.
    """
    rules = {finding.rule.id: finding.rule for finding in (*results.findings, *results.suppressed)}
    indices = {name: index for index, name in enumerate(sorted(rules))}
    found = list(_results(results.findings, indices, artifact))
    hidden = list(_results(results.suppressed, indices, artifact))
    run = {
        "tool": {
            "driver": {
                "name": "zeta",
                "version": dict(results.versions).get("zeta", __version__),
                "rules": [_rule(rules[name]) for name in indices],
            }
        },
        "automationDetails": {"id": f"zeta-check/{results.model}"},
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    {"level": "note", "associatedRule": {"id": rule}, "message": {"text": _plain(why)}}
                    for rule, why in results.skipped
                ],
            }
        ],
        "results": [*found, *({**one, "suppressions": [{"kind": "external"}]} for one in hidden)],
        "properties": {
            "model": results.model,
            "level": results.level,
            "device": results.device,
            "seed": results.seed,
            "loss": None if results.loss is None else number_to_json(results.loss.value),
        },
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": _plain(rule.summary)},
        "fullDescription": {"text": _plain(f"{_sentence(rule.summary)} Source: {rule.source}")},
        "help": {"text": _plain(f"{_sentence(rule.advice)} {PAGE} says more under {rule.id}.")},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _results(findings: Iterable[Finding], indices: dict[str, int], artifact: str | None) -> Iterator[dict[str, Any]]:
    seen: Counter[tuple[str, ...]] = Counter()
    for finding in findings:
        place = (finding.rule.id, finding.parameter or "", finding.layer or "")
        number = seen[place]  # several findings of one rule at one place are numbered
        seen[place] += 1
        measured = {"value": finding.value, "limit": finding.limit}
        yield {
            "ruleId": finding.rule.id,
            "ruleIndex": indices[finding.rule.id],
            "level": _LEVELS[finding.severity],
            "message": {"text": _plain(_text(finding))},
            "locations": [_location(finding, artifact)],
            "partialFingerprints": {FINGERPRINT: _fingerprint(*place, str(number))},
            "properties": {name: number_to_json(value) for name, value in measured.items() if value is not None},
        }


def _text(finding: Finding) -> str:
    parts = (f"{where(finding)}: {_sentence(finding.message)}", consequences_text([finding]), finding.advice)
    return " ".join(part for part in parts if part)


def _location(finding: Finding, artifact: str | None) -> dict[str, Any]:
    named = [("member", finding.parameter), ("module", finding.layer)]
    location: dict[str, Any] = {
        "logicalLocations": [
            {"name": name.rpartition(".")[2] or name, "fullyQualifiedName": name, "kind": kind}
            for kind, name in named
            if name is not None
        ]
    }
    if artifact is not None:
        location["physicalLocation"] = {"artifactLocation": {"uri": artifact}, "region": {"startLine": 1}}
    return location


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _plain(text: str) -> str:
    """The text with brackets escaped if it contains a link in SARIF's syntax, ``[text](target)``."""
    return text.replace("[", "\\[").replace("]", "\\]") if "](" in text else text
