"""Which weights of transformers' models are the embeddings, read-outs, attention outputs and MLP down projections.

Written by hand, from the models' code and not from what zeta finds. Numbers of layers in names are ``#``. Tables of
token types count as embeddings; an output layer that is tied to one is a read-out all the same.
"""

from __future__ import annotations

from typing import Final

_LLAMA: Final = ("model.embed_tokens", "lm_head", "model.layers.#.self_attn.o_proj")
_LLAMA_NAMES: Final = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "cohere", "olmo", "olmo2", "stablelm", "granite",
    "glm",
)  # fmt: skip
_MLP: Final = "model.layers.#.mlp"
_D: Final = "model.decoder"

#: by model type: the embeddings, the read-outs, the attention outputs, the MLP down projections
TRUTH: Final[dict[str, tuple[str, str, str, str]]] = {
    # decoders
    "gpt2": ("transformer.wte", "lm_head", "transformer.h.#.attn.c_proj", "transformer.h.#.mlp.c_proj"),
    "gpt_neo": ("transformer.wte", "lm_head", "transformer.h.#.attn.attention.out_proj", "transformer.h.#.mlp.c_proj"),
    "gptj": ("transformer.wte", "lm_head", "transformer.h.#.attn.out_proj", "transformer.h.#.mlp.fc_out"),
    "codegen": ("transformer.wte", "lm_head", "transformer.h.#.attn.out_proj", "transformer.h.#.mlp.fc_out"),
    "gpt_bigcode": ("transformer.wte", "lm_head", "transformer.h.#.attn.c_proj", "transformer.h.#.mlp.c_proj"),
    "gpt_neox": (
        "gpt_neox.embed_in",
        "lm_head",
        "gpt_neox.layers.#.attention.dense",
        "gpt_neox.layers.#.mlp.dense_4h_to_h",
    ),
    "bloom": (
        "transformer.word_embeddings",
        "lm_head",
        "transformer.h.#.self_attention.dense",
        "transformer.h.#.mlp.dense_4h_to_h",
    ),
    "falcon": (
        "transformer.word_embeddings",
        "lm_head",
        "transformer.h.#.self_attention.dense",
        "transformer.h.#.mlp.dense_4h_to_h",
    ),
    "mpt": ("transformer.wte", "lm_head", "transformer.blocks.#.attn.out_proj", "transformer.blocks.#.ffn.down_proj"),
    "opt": (
        "model.decoder.embed_tokens",
        "lm_head",
        "model.decoder.layers.#.self_attn.out_proj",
        "model.decoder.layers.#.fc2",
    ),
    "xglm": ("model.embed_tokens", "lm_head", "model.layers.#.self_attn.out_proj", "model.layers.#.fc2"),
    "biogpt": ("biogpt.embed_tokens", "output_projection", "biogpt.layers.#.self_attn.out_proj", "biogpt.layers.#.fc2"),
    "openai-gpt": ("transformer.tokens_embed", "lm_head", "transformer.h.#.attn.c_proj", "transformer.h.#.mlp.c_proj"),
    "ctrl": ("transformer.w", "lm_head", "transformer.h.#.multi_head_attention.dense", "transformer.h.#.ffn.2"),
    "phi": ("model.embed_tokens", "lm_head", "model.layers.#.self_attn.dense", "model.layers.#.mlp.fc2"),
    "persimmon": (
        "model.embed_tokens",
        "lm_head",
        "model.layers.#.self_attn.dense",
        "model.layers.#.mlp.dense_4h_to_h",
    ),
    "starcoder2": ("model.embed_tokens", "lm_head", "model.layers.#.self_attn.o_proj", "model.layers.#.mlp.c_proj"),
    **dict.fromkeys(_LLAMA_NAMES, (*_LLAMA, f"{_MLP}.down_proj")),
    # experts
    "mixtral": (*_LLAMA, f"{_MLP}.experts.down_proj"),
    "olmoe": (*_LLAMA, f"{_MLP}.experts.down_proj"),
    "qwen2_moe": (
        *_LLAMA,
        f"{_MLP}.experts.down_proj {_MLP}.shared_expert.down_proj",
    ),
    "gpt_oss": (*_LLAMA, f"{_MLP}.experts.down_proj"),
    # encoders
    "bert": (
        "bert.embeddings.word_embeddings bert.embeddings.token_type_embeddings",
        "cls.predictions.decoder",
        "bert.encoder.layer.#.attention.output.dense",
        "bert.encoder.layer.#.output.dense",
    ),
    "roberta": (
        "roberta.embeddings.word_embeddings roberta.embeddings.token_type_embeddings",
        "lm_head.decoder",
        "roberta.encoder.layer.#.attention.output.dense",
        "roberta.encoder.layer.#.output.dense",
    ),
    "electra": (
        "electra.embeddings.word_embeddings electra.embeddings.token_type_embeddings",
        "generator_lm_head",
        "electra.encoder.layer.#.attention.output.dense",
        "electra.encoder.layer.#.output.dense",
    ),
    "distilbert": (
        "distilbert.embeddings.word_embeddings",
        "vocab_projector",
        "distilbert.transformer.layer.#.attention.out_lin",
        "distilbert.transformer.layer.#.ffn.lin2",
    ),
    "albert": (
        "albert.embeddings.word_embeddings albert.embeddings.token_type_embeddings",
        "predictions.decoder",
        "albert.encoder.albert_layer_groups.#.albert_layers.#.attention.dense",
        "albert.encoder.albert_layer_groups.#.albert_layers.#.ffn_output",
    ),
    "modernbert": (
        "model.embeddings.tok_embeddings",
        "decoder",
        "model.layers.#.attn.Wo",
        "model.layers.#.mlp.Wo",
    ),
    "xlm": ("transformer.embeddings", "pred_layer.proj", "transformer.attentions.#.out_lin", "transformer.ffns.#.lin2"),
    # encoders and decoders
    "t5": (
        "shared encoder.embed_tokens decoder.embed_tokens",
        "lm_head",
        "encoder.block.#.layer.#.SelfAttention.o decoder.block.#.layer.#.SelfAttention.o "
        "decoder.block.#.layer.#.EncDecAttention.o",
        "encoder.block.#.layer.#.DenseReluDense.wo decoder.block.#.layer.#.DenseReluDense.wo",
    ),
    "whisper": (
        "model.decoder.embed_tokens",
        "proj_out",
        "model.decoder.layers.#.self_attn.out_proj model.decoder.layers.#.encoder_attn.out_proj",
        "model.decoder.layers.#.fc2",
    ),
    # images and sounds
    "vit": ("", "classifier", "vit.layers.#.attention.o_proj", "vit.layers.#.mlp.fc2"),
    "swin": (
        "",
        "classifier",
        "swin.encoder.layers.#.blocks.#.attention.o_proj",
        "swin.encoder.layers.#.blocks.#.mlp.fc2",
    ),
    "wav2vec2": (
        "",
        "lm_head",
        "wav2vec2.encoder.layers.#.attention.out_proj",
        "wav2vec2.encoder.layers.#.feed_forward.output_dense",
    ),
    "segformer": (
        "",
        "classifier",
        "segformer.stages.#.blocks.#.attention.o_proj",
        "segformer.stages.#.blocks.#.mlp.fc2",
    ),
}
