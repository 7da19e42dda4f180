"""Suppressed findings: the user has accepted them; they are kept, but not reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zeta.base.reading import shown
from zeta.check.facts.catalogue import GROUPS, RULES
from zeta.check.facts.places import SEVERITIES
from zeta.check.facts.results import Finding
from zeta.errors import SpecError
from zeta.rules.globs import glob_matcher


class Suppression:
    """Patterns: ``"Z301"`` a rule, ``"Z3"`` a group, ``"Z402:blocks.*"`` a rule with a glob for parameter or layer.

    Raises ``SpecError`` for an unknown id.

    >>> Suppression(["Z999"])
    Traceback (most recent call last):
    ...
    zeta.errors.SpecError: suppress='Z999': no rule or group has the id 'Z999'; ...
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        if isinstance(patterns, str):
            raise SpecError(f"suppress must be a list of rule ids, got the text {patterns!r}; write [{patterns!r}]")
        if not isinstance(patterns, Sequence):
            raise SpecError(f"suppress must be a list of rule ids, got {shown(patterns)}")
        self._patterns = [_parsed(pattern) for pattern in patterns]

    def split(self, findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Return (reported, suppressed), each sorted worst first, then by rule; otherwise the order is kept."""
        ordered = sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.rule.id))
        reported = tuple(finding for finding in ordered if not self._hides(finding))
        return reported, tuple(finding for finding in ordered if self._hides(finding))

    def everywhere(self, rule: str) -> bool:
        """Whether a rule is suppressed for all parameters and layers, so that nothing need be measured for it."""
        return any(rule.startswith(prefix) and glob is None for prefix, glob in self._patterns)

    def _hides(self, finding: Finding) -> bool:
        names = [name for name in (finding.parameter, finding.layer) if name is not None]
        return any(
            finding.rule.id.startswith(prefix) and (glob is None or any(map(glob_matcher(glob), names)))
            for prefix, glob in self._patterns
        )


def _parsed(pattern: str) -> tuple[str, str | None]:
    if not isinstance(pattern, str):
        raise SpecError(f"suppress takes texts such as 'Z301' or 'Z402:blocks.*', got {shown(pattern)}")
    prefix, colon, glob = pattern.partition(":")
    if prefix not in RULES and prefix not in GROUPS:
        raise SpecError(
            f"suppress={pattern!r}: no rule or group has the id {prefix!r}; groups are {', '.join(GROUPS)}, "
            f"rules {', '.join(RULES)}"
        )
    if colon and not glob:
        raise SpecError(f"suppress={pattern!r}: after the colon comes a name or a glob, such as 'Z402:blocks.*'")
    return prefix, glob or None
