"""Reinforcement learning."""

from __future__ import annotations

import math
import re
from typing import Final

from torch import nn

from zeta.base.modules import named_modules_of, named_parameters_of
from zeta.fans import Axes
from zeta.initializers import Ones, Orthogonal, Zeros
from zeta.recipes.parts import NORM_SCALE, RECURRENT, of_adapter, recipe
from zeta.rules import Rule, Rules, Where, glob, kind, regex

#: parts of names of the networks, or of the layers, that give actions and values
_LAYER: Final = "mean|mu|net|network|heads?|logits|function|fn|layer|out"
_POLICY: Final = re.compile(rf"(?i)(actor|policy|pi|action|logits|mu)(_?({_LAYER}))*")
_VALUE: Final = re.compile(rf"(?i)(critic|value|vf|v|baseline|state_value)(_?({_LAYER}))*")
_LOG_STD: Final = r"(?i)(.*\.)?(\w+_)?log_?(std|sigma|scale)s?"


@recipe
def ppo(model: nn.Module, *, policy: str | None = None, value: str | None = None) -> Rules:
    """PPO: weights orthogonal with gain sqrt(2), the policy's last layer with 0.01, the value's with 1, biases 0.

    A log_std that is a parameter is 0, a std of 1. The last layers are the last ones of the networks, or the layers,
    whose names say actor, policy, ``pi`` or action and critic, value, ``vf`` or baseline; where a later one of them
    follows, as ``action_net`` follows ``mlp_extractor.policy_net``, the later one; of a list of heads, each of them. A
    model without either is an error. Kernels of recurrent layers are orthogonal with gain 1, all gates as one matrix,
    as in CleanRL; norms are 1 and 0.

    Options:
        policy: a glob for the weights of the policy's last layers, if the names do not say them.
        value: the same for the value's.

    Source: ``ppo.py``, ``ppo_continuous_action.py`` and ``ppo_atari_lstm.py`` of CleanRL;
    ``ActorCriticPolicy`` of Stable-Baselines3; Huang et al. 2022, "The 37 Implementation Details of Proximal Policy
    Optimization", detail 2.
    """
    return Rules(
        [
            Rule(Where("log std", regex(_LOG_STD)), Zeros(), optional=True),
            Rule(Where("the policy's last layer", _head(model, _POLICY, policy)), Orthogonal(0.01)),
            Rule(Where("the value's last layer", _head(model, _VALUE, value)), Orthogonal(1.0)),
            Rule(
                Where("recurrent layers", RECURRENT & kind("weight")),
                Orthogonal(1.0),
                axes=Axes(fan_in=(1,), fan_out=(0,)),
                optional=True,
            ),
            Rule(Where("other weights", kind("weight")), Orthogonal(math.sqrt(2)), optional=True),
            Rule(Where("norm scales", NORM_SCALE), Ones(), optional=True),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _head(model: nn.Module, wanted: re.Pattern[str], given: str | None) -> Where:
    """The last layer of a network, or of each of the list that holds it."""
    if given is not None:
        return glob(given)
    names = [name for name, weight in named_parameters_of(model) if weight.ndim >= 2 and not of_adapter(name)]
    found = [(name, path) for name in names if (path := _network(name, wanted)) is not None]
    heads: set[str] = set()
    if found:
        last, path = found[-1]
        beside = dict(named_modules_of(model)).get(path)
        listed = isinstance(beside, nn.ModuleList) and all(len(child._modules) == 0 for child in beside)
        heads = {name for name, other in found if other == path} if listed else {last}
    return Where("last layer", lambda match: match.name in heads)


def _network(name: str, wanted: re.Pattern[str]) -> str | None:
    """The path of the network that a weight belongs to, if that is what is wanted; the innermost name decides."""
    parts = name.split(".")[:-1]
    for end in range(len(parts), 0, -1):
        if _POLICY.fullmatch(parts[end - 1]) or _VALUE.fullmatch(parts[end - 1]):
            return ".".join(parts[:end]) if wanted.fullmatch(parts[end - 1]) else None
    return None
