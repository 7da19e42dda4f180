"""The names that libraries give to layers, by role: transformers, timm, torchvision, torchtitan, diffusers, peft.

Where a pattern is for the last part of a name, the part is in lower case and without the words of ``LAYER_WORDS``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final

from zeta.rules.match import Role

_Match = Callable[[str], re.Match[str] | None]


class _any:  # noqa: N801 (it stands for a pattern)
    """One of several patterns, in any case; compiled when it is first used, as most programs ask for no role."""

    def __init__(self, *names: str) -> None:
        self._names = names

    @functools.cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile("|".join(self._names), re.IGNORECASE)

    @functools.cached_property
    def fullmatch(self) -> _Match:
        return self._compiled.fullmatch

    @functools.cached_property
    def search(self) -> _Match:
        return self._compiled.search


#: what says only that it is a layer: ``q_proj`` and ``linear_q`` are both ``q``
LAYER_WORDS: Final = re.compile(
    r"(?<=.)_?(proj|projection|lin|linear|layer|weight)$|^(linear|lin|to|proj|projection)_(?=.)"
)
#: what stands between a layer and its weight, as in peft
WRAPPED: Final = frozenset(["base_layer"])
#: a last part that says nothing without the one before it
GENERIC: Final = frozenset(["dense", "conv", "linear", "proj", "projection", "layer", "fc", "lin", "base"])

# -- by whole parts of a name

ADAPTER_A: Final = _any("lora_?(embedding_?)?a", "lora_?down", "down_?lora")
ADAPTER_B: Final = _any("lora_?(embedding_?)?b", "lora_?up", "up_?lora")
#: any part of LoRA and its kin
ADAPTER: Final = _any(r"lora_\w+", r"\w+_lora", r"vera_\w+", r"ia3_\w+")
CLASS_TOKEN: Final = _any("cls_?tok(en)?", "class_?token", "class_?embedding", "cls_?embed(ding)?")
#: vectors that are learned, and not computed from an input: of tokens, of queries, of what is masked
LEARNED: Final = _any(r"(\w+_)?(tokens?|latents?|quer(y|ies)|registers?|emb(ed(ding)?s?)?)(_\d+)?")
LAYER_SCALE: Final = _any(
    "lambda_?[12]", "layer_?scale(_?[12]|_parameter)?", "gamma_?[12]", r"(layer_?scale|ls)_?[12]?\.gamma"
)
EXPERTS: Final = _any("^experts$", "^expert_", "_experts$")
#: one of several parts of a model that have layers of their own
SIDE: Final = _any(
    r"(^|_)(encoders?|decoders?|enc|dec|text|language|vision|visual|image|img|audio|speech|video|teacher|student"
    r"|target|momentum|generator|discriminator|context)(?![a-z])",
    r"(^|_)(attn_?)?pool(ing|er)?\d*$",
)
ROUTER: Final = _any(
    "gate", "router", "wg", "gating", "shared_experts?_gate",
    r"router\.(classifier|layer|proj|linear|dense|weight)", r"gate\.(wg|weight|proj)",
)  # fmt: skip
#: a class of one table of embeddings that is not torch's
EMBEDDING_CLASS: Final = _any("(vocab|word|token|parallel|quant)embeddings?$")
#: a linear layer, or a convolution, that embeds pieces of an image or a sound
PATCHES: Final = _any(r"patch_?embed(ding|der|dings)?s?(\.proj(ection)?|\.\d+|\.linear)?")

# -- anywhere in a part, or in the name inside a block

RELATIVE: Final = _any("relative", "rel_pos", "rel_bias", "distance_embedding", "rpb", "r_emb")
POSITION: Final = _any(
    "(?<![a-z])pos(?![a-z])", "pos_?emb", "posit", "(?<![a-z])wpe(?![a-z])", "row_embed", "col(umn)?_embed"
)
NO_POSITION: Final = _any("type")
PATCH: Final = _any("patch", "embed", "conv_proj", "stem")
ATTENTION: Final = _any("att(n|ention)s?(?![a-z])", "attention", "(^|_)att(_|$)", "(^|_)mha(_|$)")
ATTENTION_CLASS: Final = _any("attention(?!pool|layer|block|model)", "attn(?!layer|block)")
MLP: Final = _any(
    "mlps?(?![a-z])", "ffns?(?![a-z])", "feed_?forward", r"(^|_)ff(_|\d|$)", "experts?(?![a-z])", "denserelu",
    "(^|_)moe(_|$)",
)  # fmt: skip
MLP_CLASS: Final = _any("MLP(?!Mixer|Layer|Block)", "FFN", "FeedForward", "Experts?$")
#: weights of an attention that lead neither into it nor out of it
BESIDE: Final = _any(
    "gate", "rel", "pos(?!t)", "index", "sampling", "attention_weights", "bias", "norm", "conv", "forget", "lambda",
    r"(^|\.)[abgfr](_[ab])?_proj", "compress", "mlp", "router", r"in_proj_[abz]$", "lora",
)  # fmt: skip
#: pairs of weights that are no MLP of a residual stream
NO_MLP: Final = _any(
    "conv(?!1d)", "squeeze", r"(^|\.)se(\.|$)", "router", "adapter", "projector", "pooler", "merger", "score", "lora",
    "hyper", r"(vision|image|audio|text|modal\w*)_projection", "mamba", "ssm", "lstm", "modulation", "temporal_block",
    r"mixer\.(in|out)_proj", "rms_norm",
)  # fmt: skip
NO_READOUT: Final = _any("pool", "embed", "conv", "norm", "neck", "position")

# -- by the last part, or the last two

_PARTS: Final = "(_[ab]|_nope|_rope|_pe|_up|_down|_global|_content|_pos)?(_current|_delayed)?"
_BEFORE: Final = "(w_?|c_|to_?|get_?|heads?_|attn_|fn_|fc_|map_|project_|lin_|add(ed)?_)?"
_AFTER: Final = "(_heads?|_fn|_fc|_map|_net|_mat(rix)?|_w|_func(tion)?)?"
PROJECTIONS: Final = {
    Role.QUERY: _any("q_attn", f"{_BEFORE}(q|query|queries){_AFTER}{_PARTS}"),
    Role.KEY: _any(f"{_BEFORE}(k|keys?){_AFTER}{_PARTS}"),
    Role.VALUE: _any(f"{_BEFORE}(v|values?){_AFTER}{_PARTS}"),
    Role.QUERY_KEY_VALUE: _any(
        "(w_?|c_|added_)?(qkvz?|qk|kv|q_kv|query_key_value|key_value|query_key)(_[ab])?(_proj)?(_with_mqa)?(_mix)?",
        "c_attn", "in", "in_proj", "in(_proj)?_qkvz?", "attn_qkv", "qkv_?same", "w?_?pack",
    ),
}  # fmt: skip
#: what may say which projection of an attention it is
HINTS: Final = _any("(quer|key|value)", r"(?:^|_)([qkv])(?![a-z])", "([qkv])$")
ATTENTION_OUTPUT: Final = _any(
    "(w_?)?o", "o_?b", "wo_b", "(w_?)?out", "out_1", "output", "c_proj", "c", "to_out", r"to_out\.0", "add_out",
    "attn_?out", "attention_?out", "proj", "projection", "final", "fc_out", "dense", r"\w+\.dense",
    r"att\w*\.(proj|projection|fc)", "merge", "post",
)  # fmt: skip
#: the output of an attention whose projections are beside it, in a block without a module for it
OUT_OF_BLOCK: Final = _any("w?_?o", "o_proj", "w_?out", "out_proj", "to_out", "attn_out", "attn_proj")
MLP_DOWN: Final = _any(
    "(w_?|c_|fc_)?down(_fc)?", "fc_?2", "linear_fc2", "w_?2", "lin_?2", "linear_?2", "_2", "dense_?2", "conv_?2",
    "ff_?2", "c_proj", "c", "w?_?o", "w?_?out", "out_0", "output", "value", "dense_4h_to_h", "dense_out",
    "output_dense", "dense_output", "fc_out", "ff_out", "proj_out", "ffn_output", r"output(_query)?\.dense",
    r"(net|ffn|mlp|ff|feed_?forward)\.[1-5]",
)  # fmt: skip
MLP_GATE: Final = _any(r"(\w+_)?(gate|gating|gated)(_\w+)?", r"(w|\w+_)?g", "w1", "wi_0")
MLP_UP: Final = _any(
    r"(w_?|c_|fc_?|\w+_)?up(_fc)?", r"(w_?|\w+_)?(v|u|x)", "w3", "wi_1", "value", "values", r"(\w+_)?in(put)?",
)  # fmt: skip
#: packed, with the up projection before the gate
UP_BEFORE_GATE: Final = _any(r"(.*_)?up_?(and_?)?gat(e|ing).*", r"(.*[._])?w?_?3_?(w_?)?1(_.*)?", r"(.*_)?v_?(and_?)?g")
READOUT: Final = _any(
    "(lm_?)?head", r"heads?\.head", r"(lm_?)?head\.(decoder|fc|\d+|linear|out)", r"head\w*\.fc", "head_dist",
    "(ctc|cls|distilled|policy|value)_head", "classifier", r"classifier\.(\d+|out|dense)", "labels_classifier",
    "class_head", "class_predictor", "class_labels_classifier", "score", "cls_score", r"class_?embed(\.\d+)?",
    "embed_out", "qa_outputs", "(final_|to_)?logits", "output", "out", "generator", "decoder", "fc", "lm", "proj_?lm",
    r"predictions\.decoder", "unembed(ding)?", "wu", "read_?out", "final", "vocab", "actor", "critic",
    "policy(_net)?", "value(_net)?", r"final(_layer)?\.(linear|proj|dense)",
    r"(\w+_)?(bbox|box|score)_(embed|predictor|head)(\.\d+)?", "seq_relationship",
)  # fmt: skip

_BY_NAME: Final = {
    **PROJECTIONS,
    Role.ATTENTION_OUTPUT: ATTENTION_OUTPUT,
    Role.MLP_DOWN: MLP_DOWN,
    Role.MLP_GATE: MLP_GATE,
    Role.ROUTER: ROUTER,
    Role.READOUT: READOUT,
    Role.CLASS_TOKEN: CLASS_TOKEN,
    Role.LAYER_SCALE: LAYER_SCALE,
    Role.ADAPTER_A: ADAPTER_A,
    Role.ADAPTER_B: ADAPTER_B,
}


def plain(part: str) -> str:
    """A part of a name without the words that say only that it is a layer: ``q`` of ``q_proj`` and ``linear_q``.

    And without the letters of its dimensions: ``w1`` of ``w1_EFD``.
    """
    return LAYER_WORDS.sub("", re.sub(r"(?<=[a-z0-9])_[A-Z]{2,}$", "", part).lower())


def roles_by_name(name: str) -> list[Role]:
    """The roles that a layer of this name may have, as far as the name says.

    >>> [role.value for role in roles_by_name("lm_head")], [role.value for role in roles_by_name("c_proj")]
    (['readout'], ['attention_output', 'mlp_down'])
    """
    short = plain(name)
    return [role for role, pattern in _BY_NAME.items() if pattern.fullmatch(name) or pattern.fullmatch(short)]
