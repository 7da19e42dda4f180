"""A model of any width for a model type of transformers: its widths and numbers of heads are multiplied."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
import transformers
from torch import nn

from benchmarks.sources.transformers_small import HEADS, WIDTHS, configured, head_class

#: what is multiplied although ``WIDTHS`` does not divide it
MORE: Final = re.compile(
    r"d_inner|d_embed|(\w+_)?conv_dim|(\w+_)?(ffn_size|d_latents|qk_channels|v_channels)|neck_hidden_sizes"
    r"|(fusion|attention|cross_attention)_hidden_size|w?kv_dim|stem_width|encoder_hidden_dim|inner_dim|project_dim"
    r"|decoder_in_channels|(stem|out|output|subsampling_conv|(energy|pitch|duration)_predictor)_channels"
    r"|linear_num_(key|value)_heads|codebook_dim|entity_emb_size|(fpn|mask)_feature_size"
)
#: a number that all widths of a network of convolutions are multiplied with
MULTIPLIERS: Final = re.compile(r"width_coefficient|depth_multiplier|width_multiplier")


def widened(config: Any, factor: int, *, heads: bool, depth: int = 0) -> None:
    """Multiply widths, and numbers of heads, so that heads keep their size; in inner configurations too."""
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig) and depth < 4:
            widened(value, factor, heads=heads, depth=depth + 1)
        elif (
            WIDTHS.fullmatch(key)
            or MORE.fullmatch(key)
            or MULTIPLIERS.fullmatch(key)
            or (heads and HEADS.fullmatch(key))
        ):
            setattr(config, key, _times(value, factor))


def _times(value: Any, factor: int) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_times(one, factor) for one in value)
    return value * factor if isinstance(value, int | float) and not isinstance(value, bool) else value


def families(name: str, model: type[nn.Module] | None) -> Iterator[tuple[str, Callable[[int], nn.Module]]]:
    """Candidates: the class, and what builds it at a multiple of its default widths; at first with more heads too."""
    for heads in (True, False):
        config = configured(name, 1, images=False)
        if getattr(config, "first_k_dense_replace", 0) > 1:  # of two layers, one has experts
            config.first_k_dense_replace = 1
        found = model or head_class(config)
        if found is None:
            raise LookupError("no model class in the Auto mappings")
        yield found.__name__, functools.partial(_made, found, config, heads)


def _made(found: Callable[[Any], nn.Module], config: Any, heads: bool, width: int) -> nn.Module:
    config = copy.deepcopy(config)
    widened(config, width, heads=heads)
    return found(config)


def family(name: str, model: type[nn.Module] | None = None) -> tuple[str, Callable[[int], nn.Module]]:
    """The first of ``families`` that can be built on meta with widths of one and two times the default, and grows.

    ``model`` is the class, where it is not to be that of the type with a loss.

    Raises:
        LookupError: none can; with the reasons.
    """
    reasons: list[str] = []
    for class_name, build in families(name, model):
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                small, large = ([p.shape for p in build(width).parameters()] for width in (1, 2))
        except Exception as error:
            reasons.append(f"{class_name}: {type(error).__name__}: {error}")
            continue
        if small != large:
            return class_name, build
        reasons.append(f"{class_name}: no width is found by its name")
    raise LookupError(" | ".join(dict.fromkeys(reasons)))
