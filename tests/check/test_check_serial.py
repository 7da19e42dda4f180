"""Results to JSON and back, and what the schema says of it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from tests.helpers.check_results import ALL, healthy, odd
from zeta.check.facts import results
from zeta.check.show import html, sarif, tensorboard, terminal
from zeta.check.show.serial import FORMAT, from_json, schema, to_json
from zeta.errors import CheckDocumentError


def through_text(document: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return read


@pytest.mark.parametrize("name", ALL)
def test_results_come_back_exactly(name: str) -> None:
    before = ALL[name]()
    after = from_json(through_text(to_json(before)))
    assert repr(after) == repr(before)  # and not ==, which NaN fails; repr tells -0.0, 1 and 1.0 apart
    assert type(after) is results.Results


@pytest.mark.parametrize("name", ALL)
def test_the_document_is_as_the_schema_says(name: str) -> None:
    Draft202012Validator(schema()).validate(through_text(to_json(ALL[name]())))


def test_the_schema_is_one_and_covers_every_field() -> None:
    Draft202012Validator.check_schema(schema())
    described = {"results": schema(), **schema()["$defs"]}
    for kind in vars(results).values():
        if dataclasses.is_dataclass(kind):
            fields = {field.name for field in dataclasses.fields(kind)}
            found = described[kind.__name__.lower()]  # type: ignore[union-attr]
            added = {"format", "ok", "rules"} if kind is results.Results else set()
            assert set(found["properties"]) == set(found["required"]) == fields | added, kind
    assert schema()["properties"]["format"] == {"const": FORMAT}


def changed(**change: Any) -> dict[str, Any]:
    return {**copy.deepcopy(to_json(healthy())), **change}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "zeta-check/2"},
        {"level": "half"},
        {"layers": [{"name": "a"}]},
        {"seconds": "1 s"},
        {"more": 1},
        {"seed": -1},
    ],
    ids=lambda change: str(*change),
)
def test_the_schema_refuses_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Draft202012Validator(schema()).validate(changed(**change))


def test_numbers_that_json_lacks_are_legible() -> None:
    document = to_json(odd())
    assert [found["limit"] for found in document["findings"]] == ["-Infinity"] * len(document["findings"])
    assert {found["value"] for found in document["findings"]} == {"NaN"}


def test_a_rule_stands_once() -> None:
    document = to_json(odd())
    assert {found["rule"] for found in document["findings"]} == {"Z301"}
    assert sorted(document["rules"]) == ["Z301", "Z401"], "of suppressed findings too"


@pytest.mark.parametrize("document", [{}, {"format": "zeta-check/0"}, [], None], ids=str)
def test_another_format_is_refused(document: Any) -> None:
    with pytest.raises(CheckDocumentError, match=r"expected the format 'zeta-check/1', found"):
        from_json(document)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [{"name": "a"}]},
        {"level": 3},
        {"more": 1},
        {"seconds": "1 s"},
        {"rules": {}},
        {"rules": None},
        {"versions": [["zeta"]]},
        {"findings": [{"rule": "Z301", "severity": "bad", "message": "", "advice": ""}]},
    ],
    ids=str,
)
def test_a_broken_document_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckDocumentError, match="broken"):
        from_json(changed(**change))


def leaves(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, *path, key)


def with_leaf(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


class Writer:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def shapes(document: Any) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """One place of each kind: the first item of a list stands for all."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for path in leaves(document):
        if path:
            found.setdefault(tuple("item" if isinstance(key, int) else key for key in path), path)
    return found


VALUES = [10**400, -(10**30), 1e308, -1e308, "Infinity", "NaN", "\ud800", "", [], {}, -1, 0]


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:9])
def test_what_is_read_can_be_shown(value: Any, part: int) -> None:
    """Whatever stands in one place, here in a quarter of them: it is refused, or every format of it works."""
    for name in ("healthy", "odd"):
        document = to_json(ALL[name]())
        read = 0
        for path in [*shapes(document).values()][(part + VALUES.index(value)) % 4 :: 4]:
            try:
                found = from_json(with_leaf(document, path, value))
            except CheckDocumentError:
                continue
            read += 1
            assert repr(from_json(through_text(to_json(found)))) == repr(found), path
            for show in (html.page, sarif.to_sarif, terminal.text, terminal.brief):
                show(found)  # type: ignore[operator]
            tensorboard.log_to(found, Writer())
        assert read or value in (10**400, "\ud800", {})


def test_each_rule_has_its_id_and_is_named_by_it() -> None:
    document = to_json(odd())
    rule = document["rules"]["Z301"]
    with pytest.raises(CheckDocumentError, match="under 'X' is the rule 'Z301'"):
        from_json({**document, "rules": {**document["rules"], "X": rule}})
    inline = with_leaf(document, ("findings", 0, "rule"), {**rule, "summary": "other"})
    with pytest.raises(CheckDocumentError, match="broken"):
        from_json(inline)
