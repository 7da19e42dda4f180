"""Which class of muP the parameters of transformers' models have when all widths are doubled.

Written by hand, from the models' code and from what grows (Yang et al. 2022, arXiv:2203.03466, appendix B), not from
what zeta finds: ``input`` where fan_out grows and fan_in does not (tables of words, positions and offsets, learned
tokens and queries, the first layer); ``output`` where fan_in grows and fan_out does not; ``vector`` for what acts on
each element of a width alone (biases, norms, layer scales, depthwise convolutions, states of channels); ``fixed``
where nothing grows; ``hidden`` for all else, where both grow. A table that is tied to a read-out is an input.

For each class, names with ``*``, divided by spaces; the first class that has a name is taken. What is named nowhere is
hidden.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from zeta.resolve.scaling.classes import classes_over_width

_NORM: Final = "*norm.weight *norm[12].weight *LayerNorm.weight *layer_norm*.weight *layernorm*.weight *layrnorm.weight"
#: norms and biases
_VECTOR: Final = f"{_NORM} *bias"
_LLAMA: Final = {"output": "lm_head.weight", "input": "model.embed_tokens.weight", "vector": "*norm.weight"}
_BERT: Final = {"fixed": "cls.predictions.bias", "input": "*.embeddings.*_embeddings.weight", "vector": _VECTOR}
_VIT: Final = {
    "fixed": "classifier.bias",
    "output": "classifier.weight",
    "input": "vit.embeddings.cls_token vit.embeddings.position_embeddings "
    "vit.embeddings.patch_embeddings.projection.weight",
    "vector": _VECTOR,
}
_BART: Final = {
    "input": "model.shared.weight model.*.embed_positions.weight",
    "vector": _VECTOR,
}
_CLASSIFIER: Final = {"fixed": "classifier.bias classifier.1.bias", "output": "classifier.weight classifier.1.weight"}
_GPT: Final = {"input": "*.word_embeddings.weight", "vector": f"*.ln_f.weight {_VECTOR}"}

#: by model type; the class of the type with a loss, or the one after the colon
CLASSES: Final[Mapping[str, Mapping[str, str]]] = {
    # decoders
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "gemma": {"input": "model.embed_tokens.weight", "vector": "*norm.weight"},
    "gpt2": {"input": "transformer.wte.weight transformer.wpe.weight", "vector": "*.ln_*.weight *bias"},
    "gpt_neox": {"output": "lm_head.weight", "input": "gpt_neox.embed_in.weight", "vector": _VECTOR},
    "bloom": _GPT,
    "falcon": _GPT,
    "opt": {"input": "model.decoder.embed_tokens.weight model.decoder.embed_positions.weight", "vector": _VECTOR},
    "xlm": {
        "fixed": "pred_layer.proj.bias",
        "input": "transformer.embeddings.weight transformer.position_embeddings.weight",
        "vector": "*layer_norm* *bias",
    },
    "xlnet": {
        "fixed": "lm_loss.bias",
        # the token of what is masked, and of each layer a table of two segments
        "input": "transformer.mask_emb transformer.word_embedding.weight *.seg_embed",
        "vector": _VECTOR,
    },
    # experts: routers are read-outs
    "mixtral": {**_LLAMA, "output": "lm_head.weight *.mlp.gate.weight"},
    "deepseek_v2": {**_LLAMA, "output": "lm_head.weight *.mlp.gate.weight"},
    "qwen3_next": {
        "output": "lm_head.weight *.mlp.gate.weight *.mlp.shared_expert_gate.weight",
        "fixed": "*.q_norm.weight *.k_norm.weight *.linear_attn.norm.weight",  # of one head
        "input": "model.embed_tokens.weight",
        "vector": "*norm.weight *.dt_bias *.A_log *.conv1d.weight",
    },
    # states
    "mamba": {
        "output": "*.mixer.x_proj.weight",  # to the rank of the steps, and to states
        "input": "backbone.embeddings.weight *.mixer.dt_proj.weight",  # from the rank of the steps
        "vector": "*.A_log *.mixer.D *.conv1d.weight *.conv1d.bias *.dt_proj.bias *.norm.weight *.norm_f.weight",
    },
    "mamba2": {
        "output": "lm_head.weight",
        "input": "backbone.embeddings.weight",
        "vector": "*.A_log *.mixer.D *.dt_bias *.conv1d.weight *.conv1d.bias *.norm.weight *.norm_f.weight",
    },
    "rwkv": {
        "output": "head.weight",
        "input": "rwkv.embeddings.weight",
        "vector": "*.time_* *.pre_ln.* *.ln[12].* rwkv.ln_out.*",
    },
    # encoders
    "bert": _BERT,
    "layoutlm": _BERT,
    "deberta-v2": _BERT,
    "longformer": {**_BERT, "fixed": "lm_head.bias"},
    "ibert": {**_BERT, "fixed": "lm_head.bias"},  # layers that are not torch's
    "electra": {**_BERT, "fixed": "generator_lm_head.bias"},  # embeddings_project: from one width to another
    "albert": {**_BERT, "fixed": "predictions.bias"},
    "funnel": {
        "fixed": "lm_head.bias",
        "input": "funnel.embeddings.word_embeddings.weight *.seg_embed",
        "vector": _VECTOR,
    },
    # encoders and decoders
    "t5": {"input": "shared.weight *.relative_attention_bias.weight", "vector": "*layer_norm.weight"},
    "bart": _BART,
    "fsmt": {
        "output": "model.decoder.output_projection.weight",
        "input": "model.*.embed_tokens.weight model.*.embed_positions.weight",
        "vector": _VECTOR,
    },
    # sounds
    "whisper": {
        "input": "model.encoder.conv1.weight model.*.embed_positions.weight model.decoder.embed_tokens.weight",
        "vector": _VECTOR,
    },
    "wav2vec2": {
        "fixed": "lm_head.bias",
        "output": "lm_head.weight",
        "input": "wav2vec2.feature_extractor.conv_layers.0.conv.weight wav2vec2.masked_spec_embed",
        "vector": _VECTOR,
    },
    # images
    "vit": _VIT,
    "yolos": {
        "fixed": "*_classifier.layers.2.bias bbox_predictor.layers.2.bias",
        "output": "*_classifier.layers.2.weight bbox_predictor.layers.2.weight",
        "input": f"{_VIT['input']} vit.embeddings.detection_tokens *.mid_position_embeddings",
        "vector": _VECTOR,
    },
    "clip:CLIPModel": {
        "fixed": "logit_scale",
        "input": "text_model.embeddings.*_embedding.weight vision_model.embeddings.*_embedding "
        "vision_model.embeddings.*_embedding.weight",
        "vector": _VECTOR,
    },
    "swin": {
        **_CLASSIFIER,
        "input": "swin.embeddings.patch_embeddings.projection.weight *.relative_position_bias_table",
        "vector": _VECTOR,
    },
    "segformer": {
        **_CLASSIFIER,
        "input": "segformer.stages.0.patch_embeddings.proj.weight",
        "vector": f"{_VECTOR} *.dwconv.weight",
    },
    "dpt": {
        "fixed": "head.head.4.bias auxiliary_head.head.4.bias",
        "output": "head.head.4.weight auxiliary_head.head.4.weight",
        "input": "dpt.embeddings.cls_token dpt.embeddings.position_embeddings "
        "dpt.embeddings.patch_embeddings.projection.weight",
        "vector": f"{_VECTOR} *head.head.1.weight",
    },
    "rt_detr": {
        "fixed": "model.enc_score_head.bias *.class_embed.?.bias *bbox*.layers.2.bias",
        "output": "model.enc_score_head.weight *.class_embed.?.weight *bbox*.layers.2.weight",
        "input": "model.backbone.model.embedder.embedder.0.convolution.weight model.denoising_class_embed.weight "
        "model.decoder.query_pos_head.layers.0.weight",
        "vector": f"{_VECTOR} *normalization.weight model.*_input_proj.?.1.weight model.enc_output.1.weight",
    },
    "resnet": {
        **_CLASSIFIER,
        "input": "resnet.embedder.embedder.convolution.weight",
        "vector": "*.normalization.weight *bias",
    },
    "bit": {
        **_CLASSIFIER,
        "input": "bit.embedder.convolution.weight",
        "vector": "*norm[123].weight *norm.weight *bias",
    },
    "mobilenet_v2": {
        **_CLASSIFIER,
        "input": "mobilenet_v2.conv_stem.first_conv.convolution.weight",
        "vector": "*.conv_3x3.convolution.weight *.normalization.weight *bias",
    },
    "convnext": {
        **_CLASSIFIER,
        "input": "convnext.embeddings.patch_embeddings.weight",
        "vector": f"{_VECTOR} *.layer_scale_parameter *.dwconv.weight *.downsampling_layer.0.weight",
    },
    # any of these
    "perceiver": {
        "fixed": "embedding_decoder.bias *.decoding_cross_attention.attention.self.query.bias "
        "*.decoding_cross_attention.attention.self.key.bias",
        # queries and keys of 256 numbers in all, whatever the width
        "output": "*.decoding_cross_attention.attention.self.query.weight "
        "*.decoding_cross_attention.attention.self.key.weight",
        "input": "perceiver.input_preprocessor.*.weight perceiver.embeddings.latents *.position_embeddings",
        "vector": _VECTOR,
    },
}


def class_by_hand(truth: Mapping[str, str], name: str) -> str:
    """The class of a parameter."""
    for group, globs in truth.items():
        if any(fnmatch.fnmatchcase(name, glob) for glob in globs.split()):
            return group
    return "hidden"


#: where zeta says something else, by type: names, and its class
OTHERWISE: Final[Mapping[str, Mapping[str, str]]] = {
    # From a width to a size that does not grow, inside of a layer. By what grows, it is an output. zeta calls it
    # hidden, like keys that all queries share and LoRA's A; std and rate are those of an output that takes in its
    # multiplier.
    "mamba": {"*.mixer.x_proj.weight": "hidden"},
    "perceiver": {
        # its read-out multiplies with it in another module, where nothing can be scaled: an error, until roles= says it
        "*.input_preprocessor.embeddings.weight": "unclear",
        "*.decoding_cross_attention.attention.self.query.weight": "hidden",
        "*.decoding_cross_attention.attention.self.key.weight": "hidden",
    },
    # A table of two segments, of which each head multiplies its queries with its part, whose size does not grow: more
    # heads, as more elements of a vector. Laws and rates of inputs and vectors are the same.
    "xlnet": {"*.seg_embed": "vector"},
    # It is multiplied along other dimensions in each of two modes of the attention: an error, until roles= says it.
    "funnel": {"*.seg_embed": "vector", "*.r_kernel": "unclear"},
}


def classes_of_both(key: str, small: nn.Module, large: nn.Module) -> dict[str, tuple[str, str]]:
    """By name of the parameter, the class that was written by hand, and that of zeta, or "unclear"."""
    found = classes_over_width(small, large)
    first: dict[int, str] = {}
    for name, tensor in large.named_parameters(remove_duplicate=False):
        first.setdefault(id(tensor), name)
    tensors = dict(large.named_parameters(remove_duplicate=False))
    mine = {(first[id(tensors[name])] if name in tensors else name): str(group) for name, group in found.items()}
    both: dict[str, tuple[str, str]] = {}
    for name in first.values():
        path, parametrized, last = name.partition(".parametrizations.")
        if parametrized and last.endswith(".original0"):  # the magnitude of weight_norm
            continue
        called = f"{path}.{last.partition('.')[0]}" if parametrized else name
        both[called] = class_by_hand(CLASSES[key], called), mine.get(called, "unclear")
    return both


def expected(key: str, name: str, by_hand: str) -> str:
    """What zeta is to say: the class by hand, but for ``OTHERWISE``."""
    there = OTHERWISE.get(key, {})
    return next((group for glob, group in there.items() if fnmatch.fnmatchcase(name, glob)), by_hand)


def on_meta(key: str) -> tuple[nn.Module, nn.Module]:
    """The model of a key of ``CLASSES`` with its default widths, and with twice these."""
    import transformers

    from benchmarks.sources.transformers_wide import family

    name, _, model = key.partition(":")
    _, build = family(name, getattr(transformers, model) if model else None)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return build(1), build(2)
