"""The health check: whether a network can learn from its initial values."""

from zeta.base.process.callable import make_callable
from zeta.check.examine import check
from zeta.check.facts.catalogue import GROUPS, RULES
from zeta.check.facts.results import Finding, Layer, Loss, Parameter, Point, Results, Rule, Severity, Stats
from zeta.check.facts.thresholds import Thresholds
from zeta.check.show.report import CheckReport

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

make_callable(__name__, check)
