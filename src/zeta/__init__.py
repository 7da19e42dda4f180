"""Weight initialization for PyTorch: decided by rules, computed under a promise, checked afterwards.

A parameter's starting value is a pure function of what was asked for, the seed, the parameter's name and the element's
index, and of nothing else: not of device, dtype (beyond rounding), memory format, sharding, order of construction or
torch's version.
"""

from zeta import initializers, recipes, rules, utils
from zeta._version import __version__
from zeta.errors import (
    CheckpointError,
    FanError,
    LayerTypeError,
    PlanError,
    SpecError,
    TargetError,
    ZetaError,
    ZetaNotice,
)
from zeta.fans import Axes, Fans, fans, register_fans
from zeta.gains import gain
from zeta.initializers import Initializer, Keep
from zeta.planning import plan
from zeta.plans import Entry, Plan
from zeta.report import Report
from zeta.rules import Kind, Match, Rule, Rules
from zeta.verbs import apply_, init_, save, verify
from zeta.verification import Verification

__all__ = [
    "Axes",
    "CheckpointError",
    "Entry",
    "FanError",
    "Fans",
    "Initializer",
    "Keep",
    "Kind",
    "LayerTypeError",
    "Match",
    "Plan",
    "PlanError",
    "Report",
    "Rule",
    "Rules",
    "SpecError",
    "TargetError",
    "Verification",
    "ZetaError",
    "ZetaNotice",
    "__version__",
    "apply_",
    "fans",
    "gain",
    "init_",
    "initializers",
    "plan",
    "recipes",
    "register_fans",
    "rules",
    "save",
    "utils",
    "verify",
]
