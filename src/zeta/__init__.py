"""Weight initialization for PyTorch: decided by rules, computed under a promise, checked afterwards.

A parameter's starting value is a pure function of what was asked for, the seed, the parameter's name and the element's
index, and of nothing else: not of device, dtype (beyond rounding), memory format, sharding, order of construction or
torch's version.
"""

from zeta import initializers, recipes, rules, utils
from zeta._version import __version__
from zeta.check import CheckReport, Thresholds, check
from zeta.errors import (
    CheckpointError,
    FanError,
    ForkError,
    LayerTypeError,
    PlanError,
    RankError,
    RecordingError,
    SpecError,
    TargetError,
    ZetaError,
    ZetaNotice,
)
from zeta.fans import Axes, Fans, fans, register_fans
from zeta.gains import gain
from zeta.initializers import Initializer, Keep
from zeta.report.costs import ShardPlan, shard_plan
from zeta.report.differences import Change, Difference, diff
from zeta.report.report import Report
from zeta.report.verification import Verification
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.recording.record import record
from zeta.rules import Kind, Match, Rule, Rules
from zeta.verbs import apply_, init_, materialize_, plan, save, verify

__all__ = [
    "Axes",
    "Change",
    "CheckReport",
    "CheckpointError",
    "Difference",
    "Entry",
    "FanError",
    "Fans",
    "ForkError",
    "Initializer",
    "Keep",
    "Kind",
    "LayerTypeError",
    "Match",
    "Plan",
    "PlanError",
    "RankError",
    "RecordingError",
    "Report",
    "Rule",
    "Rules",
    "ShardPlan",
    "SpecError",
    "TargetError",
    "Thresholds",
    "Verification",
    "ZetaError",
    "ZetaNotice",
    "__version__",
    "apply_",
    "check",
    "diff",
    "fans",
    "gain",
    "init_",
    "initializers",
    "materialize_",
    "plan",
    "recipes",
    "record",
    "register_fans",
    "rules",
    "save",
    "shard_plan",
    "utils",
    "verify",
]
