"""Why each failure of ``benchmarks.verdicts`` is right, and the page that lists them."""

from __future__ import annotations

import collections
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import transformers

from zeta.check import RULES


@dataclass(frozen=True)
class Found:
    """One finding."""

    rule: str
    severity: str
    place: str
    message: str


class Checked(Protocol):
    """What the page needs of a verdict."""

    name: str
    model: str
    outcome: str
    findings: list[Found]
    why: str


@dataclass(frozen=True)
class Explanation:
    """Why failures of one rule are right, in classes and at places that match."""

    rule: str
    models: str
    places: str
    why: str


#: the first that matches counts
EXPLANATIONS = (
    Explanation(
        "Z502",
        "AXK2* DeepseekV32* Dots3Note* GlmMoeDsa* Glm5Next* HYV4* MistralLarge4*",
        "*.indexer.*",
        "The indexer selects the keys of sparse attention under `no_grad`, so that this loss does not train it. "
        "DeepSeek trains it by its divergence from the attention's own weights, which transformers leaves out.",
    ),
    Explanation(
        "Z406",
        "Blip*",
        "vision_model.*",
        "`BlipVisionConfig.initializer_range` is 1e-10: the encoder's values are smaller than its rounding, and made "
        "to be replaced by a checkpoint's.",
    ),
    Explanation(
        "Z701",
        "Blip*",
        "vision_model.*",
        "The same initializer range of 1e-10: a step of 1e-4 replaces the values.",
    ),
    Explanation(
        "Z601",
        "CpmAnt*",
        "*",
        "`CpmAntConfig.init_std` is 1 at a width of 4096, and nothing divides by the width: logits of std 64 have a "
        "loss of hundreds of nats.",
    ),
    Explanation(
        "Z603",
        "CpmAnt*",
        "*",
        "The same std of 1: attention selects one key.",
    ),
    Explanation(
        "Z603",
        "Granite*",
        "*",
        "`attention_multiplier` stands for 1/sqrt(head_dim), and is 1 by default: scores so large that attention "
        "selects one key. Released models set it below 0.02.",
    ),
    Explanation(
        "Z405",
        "GraniteMoeSWA*",
        "*",
        "The same scores: the attention sink is compared with them in a sigmoid.",
    ),
    Explanation(
        "Z506",
        "Cvt*",
        "*convolution_projection_query.*",
        "The head reads the class token alone, whose query passes by the convolution: in the last block, the queries "
        "of all other tokens are computed and not read.",
    ),
    Explanation(
        "Z506",
        "SamModel SamHQModel Sam2Model Sam3TrackerModel",
        "mask_decoder.output_hypernetworks_mlps.0.*",
        "Of four masks, `multimask_output` puts out the last three, as by default and here, or the first, which these "
        "layers make.",
    ),
    *(
        Explanation(
            rule,
            "SamModel SamVision* SamHQ* PPFormulaNet* SLANeXt*",
            "*",
            "`initializer_range` of the picture's encoder is 1e-10, as in BLIP: its values are made to be replaced by "
            "a checkpoint's.",
        )
        for rule in ("Z302", "Z406", "Z504", "Z506", "Z701")
    ),
    Explanation(
        "Z302",
        "MaskFormer* Mask2Former* *GroundingDino*",
        "*.relative_position_bias_table",
        "The pictures of this page are small: in these blocks a window is larger than the picture, is filled up with "
        "zeros, and what lies there is cut off again. Such distances are in no output. Larger pictures reach them.",
    ),
    Explanation(
        "Z302",
        "Mask2Former* *GroundingDino*",
        "*.sampling_offsets.weight",
        "The pictures of this page are small: the coarsest level has two by two places, and the farthest points that "
        "its attention samples lie outside for every query. At 128 pixels all points are reached.",
    ),
    Explanation(
        "Z302",
        "Levit*",
        "levit.encoder.stages.2.*",
        "The pictures of this page are small: one place is left in the last stage, and attention over one key is 1, "
        "whatever its bias. Larger pictures have more.",
    ),
    *(
        Explanation(
            rule,
            "Levit* MobileViT*",
            "*",
            "The pictures of this page are small: one place is left in the last stage, and attention over one key is "
            "that key's value.",
        )
        for rule in ("Z406", "Z506")
    ),
    Explanation(
        "Z506",
        "*GroundingDino*",
        "*.text_enhancer_layer.self_attn.*",
        "Words see those between the same two full stops, and the random tokens of this page have none: each sees "
        "itself alone, and attention over one key is that key's value.",
    ),
    Explanation(
        "Z506",
        "PPDocLayoutV3*",
        "model.decoder_order_head.0.weight",
        "Each layer of the decoder has an order of the elements, and only that of the last one is put out.",
    ),
    Explanation(
        "Z506",
        "Sam2Model Sam3TrackerModel",
        "prompt_encoder.point_embed.weight",
        "No points are given here: the only one has the label of no point, and another vector.",
    ),
    Explanation(
        "Z506",
        "SwiftFormer*",
        "*.attn.w_g",
        "The scores of `query @ w_g` have one column, and their softmax is over columns: it is 1 everywhere, and w_g "
        "is never trained.",
    ),
    Explanation(
        "Z502",
        "PeAudio*",
        "*embedder.*",
        "`forward` runs the codec under `no_grad`: it is a checkpoint's, and stays as it is.",
    ),
    Explanation(
        "Z601",
        "MT5*",
        "*",
        "The table of tokens has std 1 and is the read-out too. T5 divides what it reads by the root of the width; "
        "here nothing does.",
    ),
    Explanation(
        "Z601",
        "Funnel*",
        "*",
        "With `initializer_std` at its default, `None`, the table of tokens has std 1, and it is the read-out too: "
        "the std of the logits is the root of the width.",
    ),
    Explanation(
        "Z601",
        "Mamba2*",
        "*",
        "`Mamba2Config.initializer_range` is 0.1, at a width of 4096: logits of std 6 have a loss of 20 nats.",
    ),
    Explanation(
        "Z504",
        "EfficientNet*",
        "*",
        "`initializer_range` is 0.02, and depthwise convolutions sum 9 values: the variance of their outputs is far "
        "below the eps of BatchNorm, 1e-3, which does not normalize them then. At full width the signal vanishes too.",
    ),
    Explanation(
        "Z402",
        "SuperPoint*",
        "*",
        "All convolutions start with std 0.02, and no norm is between them: the signal shrinks tenfold in each.",
    ),
    Explanation(
        "Z506",
        "GradiumPhononTTS*",
        "*",
        "The conditions are added at the places of audio tokens, of which the random tokens of this page have none.",
    ),
    Explanation(
        "Z909",
        "TrOCR*",
        "*",
        "`TrOCRForCausalLM` does not shift its labels, as a decoder whose inputs are shifted; here they are its input.",
    ),
    Explanation(
        "Z908",
        "PaliGemma*",
        "*",
        "`PaliGemmaConfig` sets `use_bidirectional_attention`, for the prefix; without `token_type_ids`, as here, all "
        "tokens are one.",
    ),
)


def explained(result: Checked, one: Found) -> str | None:
    """Why a failure is right."""
    for known in EXPLANATIONS:
        models = any(fnmatch.fnmatchcase(result.model, each) for each in known.models.split())
        if known.rule == one.rule and models and fnmatch.fnmatchcase(one.place, known.places):
            return known.why
    return None


def failures(results: Sequence[Checked]) -> list[tuple[Checked, Found]]:
    """Every failure with its model."""
    return [(result, one) for result in results for one in result.findings if one.severity == "fail"]


def unexplained(results: Sequence[Checked]) -> list[str]:
    """The failures, and the errors of a check itself, that nobody has explained."""
    lines = [
        f"{r.model} {one.rule} {one.place}: {one.message}" for r, one in failures(results) if not explained(r, one)
    ]
    return lines + [f"{r.model or r.name}: {r.why}" for r in results if r.outcome == "raised"]


def page(results: Sequence[Checked], types: int) -> str:
    """The page, where there are so many model types in all."""
    counts = collections.Counter(result.outcome for result in results)
    checked = [result for result in results if result.outcome in ("healthy", "fails")]
    lines = [
        "# What a check finds in the architectures of transformers",
        "",
        f"A small model of every model type of transformers {transformers.__version__}, as it is initialized, under "
        f"torch {torch.__version__.partition('+')[0]}. Written by `benchmarks/verdicts.py`.",
        "",
        "Widths, vocabularies, and numbers of heads, experts and stages are lowered, each kind of layer is there once "
        "or twice, and the configured std of the weights is raised as the width is lowered. The class is the first "
        "with a loss, else the base model. Tokens, pixels and sounds are random; so are the labels. The optimizer is "
        "AdamW at 1e-4.",
        "",
        f"- {len(results)} of {types} model types were taken: {len(checked)} were checked; {counts['same class']} more "
        f"have a class that was checked under another name; {counts['not built']} cannot be built from a default "
        f"configuration; of {counts['no batch']}, no batch was found that the small model takes; {counts['limits']} "
        "took more than the limits of time and memory.",
        f"- {counts['healthy']} of those that were checked ({counts['healthy'] / max(len(checked), 1):.0%}) have no "
        f"failure, {counts['fails']} have some. What is not explained below is marked.",
        "",
        "## Failures",
        "",
        "| class | check rule | first place | places | why it is right |",
        "|---|---|---|--:|---|",
    ]
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for result, one in failures(results):
        groups.setdefault((result.model, one.rule, explained(result, one) or "**not explained**"), []).append(one)
    lines += [
        f"| {model} | {rule} {RULES[rule].name} | `{some[0].place}` | {len(some)} | {why} |"
        for (model, rule, why), some in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    lines += [
        "",
        "## Warnings",
        "",
        "| check rule | classes | of those checked | such as | there |",
        "|---|--:|--:|---|---|",
    ]
    warned: dict[str, dict[str, Found]] = {}
    for result in checked:
        for one in result.findings:
            if one.severity == "warn":
                warned.setdefault(one.rule, {}).setdefault(result.model, one)
    for rule, models in sorted(warned.items()):
        model, one = next(iter(models.items()))
        share = f"{len(models) / len(checked):.0%}"
        text = one.message.replace("|", "\\|")
        lines.append(f"| {rule} {RULES[rule].name} | {len(models)} | {share} | {model}, `{one.place}` | {text} |")
    return "\n".join([*lines, ""])
