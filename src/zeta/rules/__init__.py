"""Rules: which parameter gets which initializer. They are data only; no rule reads a tensor's values.

    Rules([
        Rule("*.c_proj.weight", lambda m: Normal(0.02) * (2 * m.depth) ** -0.5),
        Rule(kind("weight") | kind("embedding"), Normal(0.02)),
        Rule(kind("norm_scale"), Ones()),
        Rule("*.bias", Zeros()),
    ])

The first rule that matches wins.
"""

from zeta.rules.match import Kind, Match, Role
from zeta.rules.rule import Rule, Rules
from zeta.rules.where import Condition, Where, glob, kind, module, ndim, regex, role, shape, where

__all__ = [
    "Condition",
    "Kind",
    "Match",
    "Role",
    "Rule",
    "Rules",
    "Where",
    "glob",
    "kind",
    "module",
    "ndim",
    "regex",
    "role",
    "shape",
    "where",
]
