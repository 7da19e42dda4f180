"""The health check: can this network learn from where it starts?"""

from zeta.check.catalogue import GROUPS, RULES
from zeta.check.examine import check
from zeta.check.report import CheckReport
from zeta.check.results import Finding, Layer, Loss, Parameter, Point, Results, Rule, Severity, Stats
from zeta.check.thresholds import Thresholds

__all__ = [
    "GROUPS",
    "RULES",
    "CheckReport",
    "Finding",
    "Layer",
    "Loss",
    "Parameter",
    "Point",
    "Results",
    "Rule",
    "Severity",
    "Stats",
    "Thresholds",
    "check",
]
