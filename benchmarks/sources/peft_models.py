"""peft's methods, each on a small model of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from benchmarks.sources import Candidate, Source
from benchmarks.sources.operators import declare_torchvision

declare_torchvision()

import peft  # noqa: E402
import transformers  # noqa: E402
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: E402

LINEAR = {"target_modules": ["q_proj", "v_proj"]}
CAUSAL = {"task_type": "CAUSAL_LM"}
VIRTUAL = {**CAUSAL, "num_virtual_tokens": 4}
CONVOLUTION = {"target_modules": ["convolution"]}

#: what a method needs beyond the modules that it is for
NEEDED: Mapping[str, dict[str, Any]] = {
    "ADALORA": {**LINEAR, "total_step": 100, "tinit": 10, "tfinal": 20},
    "ADAPTION_PROMPT": {**CAUSAL, "adapter_len": 4, "adapter_layers": 2},
    "BEFT": {"target_modules": ["v_proj"]},
    "BOFT": {**LINEAR, "boft_block_size": 4},
    "C3A": {**LINEAR, "block_size": 8},
    "CARTRIDGE": VIRTUAL,
    "CPT": {**CAUSAL, "cpt_token_ids": [1, 2, 3, 4], "cpt_mask": [1] * 4, "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "FOURIERFT": {**LINEAR, "n_frequency": 50},
    "GRALORA": {**LINEAR, "r": 8, "gralora_k": 2},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "MISS": {**LINEAR, "r": 8},
    "MULTITASK_PROMPT_TUNING": {**VIRTUAL, "num_tasks": 3},
    "OFT": {**LINEAR, "oft_block_size": 4, "r": 0},
    "PREFIX_TUNING": VIRTUAL,
    "PROMPT_TUNING": VIRTUAL,
    "P_TUNING": {**VIRTUAL, "encoder_hidden_size": 16},
    "PSOFT": {**LINEAR, "r": 8},
    "ROAD": {**LINEAR, "group_size": 8},
    "SHIRA": {**LINEAR, "r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [1, 5, 7]},
    "UNILORA": {**LINEAR, "theta_d_length": 64},
    "VBLORA": {**LINEAR, "vector_length": 8, "num_vectors": 16},
    "XLORA": {**CAUSAL, "hidden_size": 32, "adapters": {}},
    "WAVEFT": {**LINEAR, "n_frequency": 50},
}

#: other ways to begin: the method, what is set, the base model
VARIANTS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    **{
        f"LORA {name}": ("LORA", {**LINEAR, **options}, "llama")
        for name, options in {
            "gaussian": {"init_lora_weights": "gaussian"},
            "not initialized": {"init_lora_weights": False},
            "orthogonal": {"init_lora_weights": "orthogonal"},
            "olora": {"init_lora_weights": "olora"},
            "pissa": {"init_lora_weights": "pissa"},
            "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
            "mica": {"init_lora_weights": "mica"},
            "loftq": {"init_lora_weights": "loftq", "loftq_config": peft.LoftQConfig(loftq_bits=4)},
            "dora": {"use_dora": True},
            "rslora": {"use_rslora": True},
            "with bias": {"lora_bias": True, "bias": "all"},
            "with tokens": {"trainable_token_indices": [1, 5]},
            "on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
            "of a parameter": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
            "replicated layers": {"layer_replication": [(0, 2), (1, 2)]},
            "modules to save": {"modules_to_save": ["lm_head"]},
            "alora": {"alora_invocation_tokens": [1, 2], **CAUSAL},
        }.items()
    },
    **{
        f"{method} on convolutions": (method, {**CONVOLUTION, **options}, "resnet")
        for method, options in {
            "LORA": {}, "LOHA": {}, "LOKR": {}, "OFT": {"oft_block_size": 4, "r": 0},
            "BOFT": {"boft_block_size": 1, "boft_n_butterfly_factor": 0}, "HRA": {}, "IA3": {"feedforward_modules": []},
        }.items()
    },
    "LORA on Conv1D": ("LORA", {"target_modules": ["c_attn"], "fan_in_fan_out": True}, "gpt2"),
    "IA3 on Conv1D": ("IA3", {"target_modules": ["c_attn"], "feedforward_modules": [], "fan_in_fan_out": True}, "gpt2"),
    "LORA on BERT": ("LORA", {"target_modules": ["query"], "task_type": "SEQ_CLS"}, "bert"),
    "LOHA effective": ("LOHA", {**CONVOLUTION, "use_effective_conv2d": True}, "resnet"),
    "LOKR effective": ("LOKR", {**CONVOLUTION, "use_effective_conv2d": True, "decompose_both": True}, "resnet"),
    "LOKR lycoris": ("LOKR", {**LINEAR, "init_weights": "lycoris"}, "llama"),
    "MISS bat": ("MISS", {**LINEAR, "r": 8, "init_weights": "bat"}, "llama"),
    "MISS mini": ("MISS", {**LINEAR, "r": 8, "init_weights": "mini", "mini_r": 4}, "llama"),
    "OFT coft": ("OFT", {**LINEAR, "oft_block_size": 4, "r": 0, "coft": True, "block_share": True}, "llama"),
    "PREFIX_TUNING with a projection": (
        "PREFIX_TUNING", {**VIRTUAL, "prefix_projection": True, "encoder_hidden_size": 16}, "llama",
    ),
    "PROMPT_TUNING of the vocabulary": ("PROMPT_TUNING", {**VIRTUAL, "prompt_tuning_init": "SAMPLE_VOCAB"}, "llama"),
    "P_TUNING with an LSTM": (
        "P_TUNING", {**VIRTUAL, "encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"}, "llama",
    ),
    "VERA without its projection": ("VERA", {**LINEAR, "save_projection": False}, "llama"),
    "RANDLORA sparse": ("RANDLORA", {**LINEAR, "sparse": True}, "llama"),
    "FOURIERFT initialized": ("FOURIERFT", {**LINEAR, "n_frequency": 50, "init_weights": True}, "llama"),
}  # fmt: skip

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}


def base(name: str) -> nn.Module:
    """A small model."""
    if name == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
        return transformers.ResNetModel(config)
    if name == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99))
    if name == "bert":
        return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, max_position_embeddings=64, use_cache=False))


def methods() -> dict[str, tuple[str, dict[str, Any], str]]:
    """All methods as they begin by default, then their variants."""
    plain = {
        method.value: (method.value, NEEDED.get(method.value, LINEAR), "llama")
        for method in PEFT_TYPE_TO_CONFIG_MAPPING
    }
    return {**plain, **VARIANTS}


def candidates(name: str) -> Iterator[Candidate]:
    """The base model with the method on it."""
    method, options, model = methods()[name]
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method)]
    # a configuration keeps what it was given by the first model
    yield config_class.__name__, lambda: peft.get_peft_model(base(model), config_class(**options))


SOURCE = Source(
    title="peft",
    what=f"Every method of peft {peft.__version__}, as it begins by default and in other ways, on small models of "
    f"transformers {transformers.__version__}; the base model is built and recorded with it",
    noun="method",
    names=lambda: list(methods()),
    candidates=candidates,
)
