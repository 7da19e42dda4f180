"""Assign findings to layers, by the layer's name or by one of its parameters; and count them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from zeta.check.facts.results import Finding, Layer, Results, Severity

#: worst first
SEVERITIES: Final = (Severity.FAIL, Severity.WARN, Severity.NOTE)


def where(finding: Finding) -> str:
    """The name to show for a finding: its parameter, else its layer, else the model as a whole."""
    return finding.parameter or finding.layer or "(the model)"


def consequences_text(findings: Iterable[Finding], most: int = 3) -> str:
    """``It causes Z506 at fc1.weight and Z504 at fc2.weight.``; nothing if there is none."""
    found = [f"{one.rule} at {one.place}" for finding in findings for one in finding.consequences]
    found = list(dict.fromkeys(found))
    if not found:
        return ""
    shown = found[:most] + ([f"{len(found) - most:,} more"] if len(found) > most else [])
    return f"It causes {', '.join(shown[:-1])}{' and ' if shown[1:] else ''}{shown[-1]}."


def findings_by_layer(results: Results) -> dict[str, list[Finding]]:
    """The name of each layer, in order, with its findings: those about the layer, and those about its parameters."""
    found: dict[str, list[Finding]] = {layer.name: [] for layer in results.layers}
    owners = _owners(results.layers)
    for finding in results.findings:
        if finding.layer in found:
            found[finding.layer].append(finding)
        elif finding.parameter is not None:
            for name in owners.get(finding.parameter, ()):
                found[name].append(finding)
    return found


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The worst severity of some findings; ``None`` if there are none."""
    return min((finding.severity for finding in findings), key=SEVERITIES.index, default=None)


def counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    """The number of findings of each severity, worst first."""
    number = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        number[finding.severity] += 1
    return number


def counts_text(findings: Iterable[Finding]) -> str:
    """``2 failures, 1 warning, 0 notes``."""
    nouns = {Severity.FAIL: "failure", Severity.WARN: "warning", Severity.NOTE: "note"}
    return ", ".join(f"{n:,} {nouns[severity]}{'' if n == 1 else 's'}" for severity, n in counts(findings).items())


def _owners(layers: Iterable[Layer]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for layer in layers:
        for parameter in layer.parameters:
            owners.setdefault(parameter, []).append(layer.name)
    return owners
