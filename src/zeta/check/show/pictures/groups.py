"""Findings that are one thing to read: of one severity, rule and advice."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from zeta.check.facts.places import findings_by_layer
from zeta.check.facts.results import Finding, Results, Severity


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The findings of a group, in their order, and all results."""

    results: Results
    first: int  #: the position of its first finding
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """That of all its findings."""
        return self.findings[0].severity

    @functools.cached_property
    def parameters(self) -> frozenset[str]:
        """The parameters that it is about."""
        return frozenset(one.parameter for one in self.findings if one.parameter is not None)

    @functools.cached_property
    def layers(self) -> frozenset[str]:
        """The layers that it is about, or that own its parameters."""
        mine = {id(one) for one in self.findings}
        found = findings_by_layer(self.results)
        return frozenset(name for name, some in found.items() if any(id(one) in mine for one in some))


def groups(results: Results) -> Iterator[Group]:
    """The groups, in the order of the first finding of each."""
    members: dict[tuple[Severity, str, str], list[int]] = {}
    for number, one in enumerate(results.findings):
        members.setdefault((one.severity, one.rule.id, one.advice), []).append(number)
    for numbers in members.values():
        some = tuple(results.findings[number] for number in numbers)
        yield Group(results=results, first=numbers[0], findings=some)
