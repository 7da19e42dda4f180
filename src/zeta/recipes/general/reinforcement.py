"""Reinforcement learning."""

from __future__ import annotations

import itertools
import math
import re
from typing import Final

import torch
from torch import nn

from zeta.base.modules import named_modules_of, named_parameters_of
from zeta.fans import Axes
from zeta.initializers import Orthogonal, Zeros
from zeta.recipes.parts import RECURRENT, norm_scales, recipe
from zeta.rules import Rule, Rules, Where, glob, kind, regex
from zeta.rules.adapters import adapters_of

#: parts of names of the networks, or of the layers, that give actions and values
_LAYER: Final = "mean|mu|net|network|heads?|logits|function|fn|layer|out|target|old"
_COPY: Final = r"((target|old)_?)?"
_POLICY: Final = re.compile(rf"(?i){_COPY}(actor|policy|pi|action|logits|mu)(_?({_LAYER}))*")
_VALUE: Final = re.compile(rf"(?i){_COPY}(critic|value|vf|v|baseline|state_value)(_?({_LAYER}))*")
#: a layer that gives the spread of the actions, beside that of their means
_SPREAD: Final = re.compile(r"(?i)(\w+_)?(log_?)?(std|sigma|var|variance|scale)s?(_?(head|layer|net|out))?")
_LOG_STD: Final = r"(?i)(.*\.)?(\w+_)?log_?(std|sigma|scale)s?"


@recipe
def ppo(model: nn.Module, *, policy: str | None = None, value: str | None = None) -> Rules:
    """PPO: weights orthogonal with gain sqrt(2), the policy's last layer with 0.01, the value's with 1, biases 0.

    A log_std that is a parameter is 0, a std of 1. The last layers are the last ones of the networks, or the layers,
    whose names say actor, policy, ``pi`` or action and critic, value, ``vf`` or baseline; where a later one of them
    follows, as ``action_net`` follows ``mlp_extractor.policy_net``, the later one; of heads side by side, each of them,
    and a layer for the std as well as that for the mean. A copy (target, old) has its own. A model without either is an
    error. Kernels of recurrent layers are orthogonal with gain 1, all gates as one matrix,
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
            norm_scales(),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _head(model: nn.Module, wanted: re.Pattern[str], given: str | None) -> Where:
    """The last layer of a network, of each of its heads, and of its copy."""
    if given is not None:
        return glob(given)
    sizes = {name: weight.shape for name, weight in named_parameters_of(model) if weight.ndim >= 2}
    adapters = adapters_of(model)
    own = [name for name in sizes if adapters.of(name) is None]
    found = [(name, path) for name in own if (path := _network(name, wanted)) is not None]
    modules = dict(named_modules_of(model))
    heads: set[str] = set()
    for copy in {_copy(path) for _, path in found}:
        network = [(name, path) for name, path in found if _copy(path) == copy]
        spreads = {name for name, _ in network if _SPREAD.fullmatch(_owner(name))}
        means = [(name, path) for name, path in network if name not in spreads] or network
        last, path = means[-1]
        inside = [name for name, other in means if other == path]
        heads |= spreads | (_side_by_side(path, inside, sizes, modules.get(path)) or {last})
    return Where("last layer", lambda match: match.name in heads)


def _copy(path: str) -> str:
    """Of which copy a network is, by its name."""
    return "".join(re.findall("(?i)_?(?:target|old)_?", path.rpartition(".")[2]))


def _owner(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _side_by_side(path: str, inside: list[str], sizes: dict[str, torch.Size], holder: nn.Module | None) -> set[str]:
    """The last layer of each head of a network: the last parts with the same inputs, none of which feeds the next.

    What keeps its width is taken for a layer before the heads, but not in a list of layers.
    """
    parts: dict[str, list[str]] = {}
    for name in inside:
        parts.setdefault(name[len(path) + 1 :].partition(".")[0], []).append(name)
    inputs = sizes[[*parts.values()][-1][0]][1:]
    run = [*itertools.takewhile(lambda layers: sizes[layers[0]][1:] == inputs, reversed(parts.values()))][::-1]
    if isinstance(holder, nn.Sequential):
        return set()
    if not isinstance(holder, nn.ModuleList) or any(len(part._modules) for part in holder):
        run = [*itertools.dropwhile(lambda layers: sizes[layers[-1]][:1] == inputs, run)]
    return {layers[-1] for layers in run}


def _network(name: str, wanted: re.Pattern[str]) -> str | None:
    """The path of the network that a weight belongs to, if that is what is wanted; the innermost name decides."""
    parts = name.split(".")[:-1]
    for end in range(len(parts), 0, -1):
        if _POLICY.fullmatch(parts[end - 1]) or _VALUE.fullmatch(parts[end - 1]):
            return ".".join(parts[:end]) if wanted.fullmatch(parts[end - 1]) else None
    return None
