"""One cause is one finding: what follows from another finding is folded under it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from zeta.check.facts.evidence import Evidence, Use
from zeta.check.facts.places import SEVERITIES, where
from zeta.check.facts.results import Consequence, Finding

#: by the rule of a cause, the rules of what follows before it, after it, and anywhere
_BEFORE: Final[dict[str, tuple[str, ...]]] = {
    "Z404": ("Z506", "Z504"),
    "Z405": ("Z504", "Z506"),
    "Z406": ("Z504", "Z506"),
    "Z603": ("Z504",),
}
_AFTER: Final[dict[str, tuple[str, ...]]] = {
    "Z102": ("Z401",),
    "Z302": ("Z404", "Z406"),
    "Z404": ("Z406", "Z404"),
    "Z405": ("Z406",),
}
_ANYWHERE: Final[dict[str, tuple[str, ...]]] = {
    "Z102": ("Z507", "Z601"),
    "Z401": ("Z601",),
    "Z402": ("Z504", "Z702", "Z801", "Z804"),
    "Z403": ("Z504", "Z804"),
    "Z404": ("Z412", "Z905"),
    "Z405": ("Z412",),
    "Z406": ("Z412", "Z905"),
    "Z503": ("Z502",),
    "Z504": ("Z702",),
    "Z613": ("Z302", "Z401", "Z506", "Z507", "Z601", "Z602"),
    "Z901": ("Z503",),
    "Z904": ("Z503",),
    "Z905": ("Z302", "Z506"),
}
#: the same fact, of which the first one says how bad it is
_SAME: Final[dict[str, tuple[str, ...]]] = {"Z402": ("Z905",)}
#: those that follow at the same layer
_THERE: Final[dict[str, tuple[str, ...]]] = {"Z603": ("Z604",)}


def folded(findings: Sequence[Finding], evidence: Evidence) -> tuple[Finding, ...]:
    """The findings without those that follow from another one, which lists them; never under a less severe one."""
    order = _Order(evidence.uses)
    causes = [
        [at for at, other in enumerate(findings) if other is not finding and _follows(finding, other, order)]
        for finding in findings
    ]
    # what follows from nothing but consequences stays: its causes are not shown as findings
    first = [next((at for at in some if not causes[at]), None) for some in causes]
    under: dict[int, list[Consequence]] = {}
    for finding, cause in zip(findings, first, strict=True):
        if cause is not None:
            under.setdefault(cause, []).append(_consequence(finding))
    return tuple(
        replace(finding, consequences=tuple(under.get(number, ())))
        for number, finding in enumerate(findings)
        if first[number] is None
    )


def _consequence(finding: Finding) -> Consequence:
    return Consequence(rule=finding.rule.id, severity=finding.severity, place=where(finding), message=finding.message)


def _follows(finding: Finding, cause: Finding, order: _Order) -> bool:
    rule = finding.rule.id
    if rule in _SAME.get(cause.rule.id, ()):
        return True
    if SEVERITIES.index(cause.severity) > SEVERITIES.index(finding.severity):
        return False

    def among(table: dict[str, tuple[str, ...]]) -> bool:
        return rule in table.get(cause.rule.id, ())

    if among(_ANYWHERE) or (among(_THERE) and finding.layer == cause.layer):
        return True
    return (among(_BEFORE) and order.leads(finding, cause)) or (among(_AFTER) and order.leads(cause, finding))


class _Order:
    """Which layers lead to which, by the paths between them."""

    def __init__(self, uses: Iterable[Use]) -> None:
        self._uses = {use.layer.name: use for use in uses}

    def leads(self, first: Finding, last: Finding) -> bool:
        """Whether the layer of one finding comes before that of another on its path."""
        starts, seen = set(self._layers(first)), set[str]()
        waiting = [self._uses[name].before for name in self._layers(last)]
        while waiting:
            name = waiting.pop()
            if name is None or name in seen or name not in self._uses:
                continue
            if name in starts:
                return True
            seen.add(name)
            waiting.append(self._uses[name].before)
        return False

    def _layers(self, finding: Finding) -> list[str]:
        if finding.layer is not None and finding.layer in self._uses:
            return [finding.layer]
        return [name for name, use in self._uses.items() if finding.parameter in use.layer.parameters]
