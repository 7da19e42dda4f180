"""Findings as SARIF: what the standard asks for, and what code-review tools need."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.helpers.check_results import ALL, GROWTH, STD, UNITS, finding, healthy, odd, results, sick
from zeta.check.facts.results import Severity
from zeta.check.show.sarif import FINGERPRINT, to_sarif

# The part of SARIF 2.1.0 (OASIS, section 3) that is used here, and nothing beside it.
LEVEL = {"enum": ["none", "note", "warning", "error"]}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def array(items: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **rest}


STRING = {"type": "string", "minLength": 1}
TEXT = closed(["text"], text={"type": "string"})
RULE = closed(
    ["id"],  # 3.49
    id=STRING,
    name=STRING,
    shortDescription=TEXT,
    fullDescription=TEXT,
    help=TEXT,
    defaultConfiguration=closed([], level=LEVEL),
)
PHYSICAL = closed(
    ["artifactLocation"],  # 3.29
    artifactLocation=closed([], uri={"type": "string", "format": "uri-reference"}),
    region=closed([], startLine={"type": "integer", "minimum": 1}),
)
RESULT = closed(
    ["message"],  # 3.27
    ruleId=STRING,
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=TEXT,
    locations=array(
        closed(
            [],
            logicalLocations=array(closed([], name=STRING, fullyQualifiedName=STRING, kind=STRING), uniqueItems=True),
            physicalLocation=PHYSICAL,
        )
    ),
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    suppressions=array(closed(["kind"], kind={"enum": ["inSource", "external"]}), uniqueItems=True),
    properties={"type": "object"},
)
NOTIFICATION = closed(["message"], level=LEVEL, associatedRule=closed([], id=STRING), message=TEXT)
INVOCATION = closed(
    ["executionSuccessful"],  # 3.20
    executionSuccessful={"type": "boolean"},
    toolExecutionNotifications=array(NOTIFICATION),
)
RUN = closed(
    ["tool"],  # 3.14
    tool=closed(["driver"], driver=closed(["name"], name=STRING, version=STRING, rules=array(RULE, uniqueItems=True))),
    automationDetails=closed([], id=STRING),
    invocations=array(INVOCATION),
    results=array(RESULT),
    properties={"type": "object"},
)
LOG = {
    **closed(["version", "runs"], version={"const": "2.1.0"}, runs=array(RUN)),
    "properties": {"$schema": STRING, "version": {"const": "2.1.0"}, "runs": array(RUN)},
}


def run(log: dict[str, Any]) -> dict[str, Any]:
    (only,) = log["runs"]
    return dict(only)


@pytest.mark.parametrize("artifact", [None, "src/model.py"])
@pytest.mark.parametrize("name", ALL)
def test_it_is_as_the_standard_says(name: str, artifact: str | None) -> None:
    log = json.loads(json.dumps(to_sarif(ALL[name](), artifact), allow_nan=False))
    Draft202012Validator(LOG).validate(log)
    rules = run(log)["tool"]["driver"]["rules"]
    assert all(rules[one["ruleIndex"]]["id"] == one["ruleId"] for one in run(log)["results"])


def test_a_rule_says_what_to_do_and_where_more_is_said() -> None:
    for rule in run(to_sarif(sick()))["tool"]["driver"]["rules"]:
        assert rule["help"]["text"].endswith(f" docs/check.md of zeta says more under {rule['id']}.")
        assert len(rule["help"]["text"]) > 60


def test_levels_and_places() -> None:
    log = run(to_sarif(sick()))
    assert Counter(one["level"] for one in log["results"]) == {"error": 17, "warning": 41}
    first, last = log["results"][0], log["results"][-1]
    assert first["ruleId"] == "Z301"
    assert first["message"]["text"] == (
        "blocks.0.mlp.fc1.weight: 64 units compute 1 different functions and receive the same gradients. "
        "Draw every row on its own."
    )
    assert first["locations"] == [
        {"logicalLocations": [{"name": "weight", "fullyQualifiedName": "blocks.0.mlp.fc1.weight", "kind": "member"}]}
    ]
    assert first["properties"] == {"value": 1.0, "limit": 64.0}
    assert (last["ruleId"], last["properties"]) == ("Z502", {})
    (note,) = run(to_sarif(healthy()))["results"]
    assert note["level"] == "note"


def test_an_artifact_gives_findings_a_file() -> None:
    (one,) = run(to_sarif(healthy(), "src/model.py"))["results"]
    (place,) = one["locations"]
    assert place["physicalLocation"] == {"artifactLocation": {"uri": "src/model.py"}, "region": {"startLine": 1}}


def test_a_suppressed_finding_is_a_suppressed_result() -> None:
    shown = [one.get("suppressions") for one in run(to_sarif(odd()))["results"]]
    assert shown == [None] * 8 + [[{"kind": "external"}]]


def test_rules_that_were_not_applied_are_notifications() -> None:
    (invocation,) = run(to_sarif(odd()))["invocations"]
    said = [(one["associatedRule"]["id"], one["message"]["text"]) for one in invocation["toolExecutionNotifications"]]
    assert said == [("Z603", "<no attention>"), ("Z201", "no plan"), ("Z202", "no plan")]


def prints(*findings: Any) -> list[str]:
    return [one["partialFingerprints"][FINGERPRINT] for one in run(to_sarif(results([], [], findings)))["results"]]


def test_fingerprints_depend_on_rule_and_place_alone() -> None:
    one = finding(STD, "std 0.6, planned 0.02", parameter="a.weight", value=0.6)
    (known,) = prints(one)
    assert known == "db287918de468e0cc470b0b4b0e771e5"
    assert prints(replace(one, message="other", advice="other", value=1.0, severity=Severity.NOTE)) == [known]
    others = [
        replace(one, parameter="b.weight"),
        replace(one, layer="a"),
        replace(one, parameter=None, layer="a.weight"),
        finding(UNITS, "m", parameter="a.weight"),
    ]
    assert len({known, *prints(*others)}) == 5


def test_two_findings_of_one_rule_at_one_place_are_told_apart() -> None:
    one = finding(STD, "mean 0.1, planned 0", parameter="a.weight")
    first, second = prints(one, replace(one, message="std 0.6, planned 0.02"))
    assert first != second
    assert first == prints(one)[0]


def test_no_name_reads_as_a_link() -> None:
    (one,) = run(to_sarif(results([], [], [finding(GROWTH, "grows", layer="[here](http://a.b)")])))["results"]
    assert one["message"]["text"].startswith("\\[here\\](http://a.b): grows. ")
    (plain,) = run(to_sarif(results([], [], [finding(GROWTH, "leaves [0, 1]", layer="a")])))["results"]
    assert plain["message"]["text"].startswith("a: leaves [0, 1]. ")
