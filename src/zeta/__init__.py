"""Weight initialization for PyTorch: decided by rules, computed under a promise, checked afterwards.

A parameter's starting value is a pure function of what was asked for, the seed, the parameter's name and the element's
index, and of nothing else: not of device, dtype (beyond rounding), memory format, sharding, order of construction or
torch's version. Only the last bits of orthogonal weights (docs/stream.md, section 12) and programs (docs/programs.md)
may depend on the machine and torch's version.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from zeta._version import __version__

if TYPE_CHECKING:
    from zeta import adapters, callbacks, initializers, recipes, rules, testing, utils
    from zeta.adapting import adapt_, missing_keys
    from zeta.check import CheckReport, Thresholds, check
    from zeta.errors import (
        CheckError,
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
    from zeta.growing import Average, Experts, Layers, Mean, Rows, Split
    from zeta.initializers import Initializer, Keep
    from zeta.report.adapted import AdaptReport
    from zeta.report.costs import ShardPlan, shard_plan
    from zeta.report.plan_differences import Change, Difference, diff
    from zeta.report.report import Report
    from zeta.report.verifying.verification import Verification
    from zeta.resolve.plans import Entry, Plan
    from zeta.resolve.recording.function import from_function
    from zeta.resolve.recording.record import record
    from zeta.resolve.roles import roles_of
    from zeta.rules import Kind, Match, Role, Rule, Rules
    from zeta.scaling import Scaling, scale
    from zeta.tensors import fill_, values
    from zeta.verbs import apply_, init_, materialize_, plan, save, verify

__all__ = [
    "AdaptReport",
    "Average",
    "Axes",
    "Change",
    "CheckError",
    "CheckReport",
    "CheckpointError",
    "Difference",
    "Entry",
    "Experts",
    "FanError",
    "Fans",
    "ForkError",
    "Initializer",
    "Keep",
    "Kind",
    "LayerTypeError",
    "Layers",
    "Match",
    "Mean",
    "Plan",
    "PlanError",
    "RankError",
    "RecordingError",
    "Report",
    "Role",
    "Rows",
    "Rule",
    "Rules",
    "Scaling",
    "ShardPlan",
    "SpecError",
    "Split",
    "TargetError",
    "Thresholds",
    "Verification",
    "ZetaError",
    "ZetaNotice",
    "__version__",
    "adapt_",
    "adapters",
    "apply_",
    "callbacks",
    "check",
    "diff",
    "fans",
    "fill_",
    "from_function",
    "gain",
    "init_",
    "initializers",
    "materialize_",
    "missing_keys",
    "plan",
    "recipes",
    "record",
    "register_fans",
    "roles_of",
    "rules",
    "save",
    "scale",
    "shard_plan",
    "testing",
    "utils",
    "values",
    "verify",
]

# Imported when first used: one layer needs a tenth of this package, and the command line's help needs nothing of it.
_HOMES: Final = {
    "zeta.adapting": ("adapt_", "missing_keys"),
    "zeta.adapters": ("adapters",),
    "zeta.check": ("CheckReport", "Thresholds", "check"),
    "zeta.callbacks": ("callbacks",),
    "zeta.errors": (
        "CheckError",
        "CheckpointError",
        "FanError",
        "ForkError",
        "LayerTypeError",
        "PlanError",
        "RankError",
        "RecordingError",
        "SpecError",
        "TargetError",
        "ZetaError",
        "ZetaNotice",
    ),
    "zeta.fans": ("Axes", "Fans", "fans", "register_fans"),
    "zeta.gains": ("gain",),
    "zeta.growing": ("Average", "Experts", "Layers", "Mean", "Rows", "Split"),
    "zeta.initializers": ("Initializer", "Keep", "initializers"),
    "zeta.recipes": ("recipes",),
    "zeta.report.adapted": ("AdaptReport",),
    "zeta.report.costs": ("ShardPlan", "shard_plan"),
    "zeta.report.plan_differences": ("Change", "Difference", "diff"),
    "zeta.report.report": ("Report",),
    "zeta.report.verifying.verification": ("Verification",),
    "zeta.resolve.plans": ("Entry", "Plan"),
    "zeta.resolve.recording.function": ("from_function",),
    "zeta.resolve.recording.record": ("record",),
    "zeta.resolve.roles": ("roles_of",),
    "zeta.rules": ("Kind", "Match", "Role", "Rule", "Rules", "rules"),
    "zeta.scaling": ("Scaling", "scale"),
    "zeta.tensors": ("fill_", "values"),
    "zeta.testing": ("testing",),
    "zeta.utils": ("utils",),
    "zeta.verbs": ("apply_", "init_", "materialize_", "plan", "save", "verify"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if home == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
