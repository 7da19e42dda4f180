"""transformers' models, built from small configurations, come out of record and materialize as they are built."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.recorded import compare, recorded  # noqa: E402
from zeta.initializers import Normal, Program  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {"image_size": 32, "patch_size": 8, **{key: SMALL[key] for key in list(SMALL)[:4]}}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300}),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", SMALL),
    "Qwen3-MoE": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
        {**SMALL, "num_experts": 4, "moe_intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16},
    ),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", {**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}),
    "BERT": ("BertForPreTraining", "BertConfig", SMALL),
    "T5": (
        "T5ForConditionalGeneration", "T5Config",
        {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 300},
    ),
    "ViT": ("ViTForImageClassification", "ViTConfig", VISION),
    "Swin": (
        "SwinForImageClassification", "SwinConfig",
        {"image_size": 32, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
    ),
    "CLIP": ("CLIPModel", "CLIPConfig", {"text_config": SMALL, "vision_config": VISION, "projection_dim": 32}),
    "Wav2Vec2": (
        "Wav2Vec2Model", "Wav2Vec2Config",
        {**SMALL, "conv_dim": [32, 32], "conv_kernel": [5, 3], "conv_stride": [2, 2], "num_feat_extract_layers": 2,
         "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    ),
    "Whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 300,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    ),
    "Mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300}),
    "Mamba-2": (
        "Mamba2ForCausalLM", "Mamba2Config",
        {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300, "num_heads": 8, "head_dim": 16, "n_groups": 2},
    ),
    "DETR": (
        "DetrForObjectDetection", "DetrConfig",
        {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 10,
         "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
         "backbone_config": {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32],
                             "depths": [1, 1], "layer_type": "basic", "out_features": ["stage2"]}},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


def factory(name: str) -> Any:
    model, config, arguments = MODELS[name]
    made = getattr(transformers, config)(**arguments)
    return lambda: getattr(transformers, model)(made)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_and_buffer_comes_out_as_it_is_built(name: str) -> None:
    build = factory(name)
    model, plan, report = recorded(build)
    assert report.ok, report
    assert compare(model, plan, build) == []
    drawn = [e.name for e in plan if isinstance(e.initializer, Program) and e.initializer.draws]
    assert all(name.endswith(("dt_proj.bias", "dt_bias")) for name in drawn), drawn


def test_the_plan_names_the_lines_of_the_library() -> None:
    _, plan = zeta.record(factory("GPT-2"))
    entry = plan["transformer.h.1.mlp.c_proj.weight"]
    assert entry.initializer == Normal(0.02 / 2)  # two layers: 0.02/sqrt(2 * 2)
    assert entry.rule.startswith("modeling_gpt2.py:")
    assert "in GPT2PreTrainedModel._init_weights (normal_, Conv1D)" in entry.rule
    assert plan["transformer.wte.weight"].ties == ("lm_head.weight",)


def test_a_model_on_meta_is_planned_from_its_own_method() -> None:
    with torch.device("meta"):
        model = factory("Llama")()
    plan = zeta.plan(model, lambda model: model.init_weights())
    _, expected = zeta.record(factory("Llama"))
    assert {e.name: e.initializer for e in plan} == {e.name: e.initializer for e in expected}


def test_a_live_model_whose_method_skips_what_is_initialized_says_what_to_record() -> None:
    model = factory("Llama")()
    with pytest.warns(
        zeta.ZetaNotice, match=r"wrote to nothing .* transformers skips .*zeta\.record\(type\(model\), model\.config"
    ):
        zeta.plan(model, lambda m: m.init_weights())
    _, plan = zeta.record(type(model), model.config)
    assert zeta.apply_(model, plan, 0).kept == ()


def test_recording_a_llama_of_32_layers_adds_less_than_a_second() -> None:
    """Of 6.7 billion parameters; beside a construction on meta, in the time of this thread's own work."""
    config = transformers.LlamaConfig()
    assert config.num_hidden_layers == 32
    zeta.record(factory("Llama"))  # imports
    added = []
    for _ in range(3):
        times = [time.thread_time()]
        with torch.device("meta"):
            transformers.LlamaForCausalLM(config)
        times.append(time.thread_time())
        _, plan = zeta.record(transformers.LlamaForCausalLM, config)
        times.append(time.thread_time())
        added.append(times[2] - 2 * times[1] + times[0])
    assert len(plan.parameters) == 32 * 9 + 3
    assert sum(entry.numel for entry in plan.parameters) == 6_738_415_616
    assert min(added) < 1.0


def test_a_recorded_model_computes() -> None:
    model, _, _ = recorded(factory("Llama"))
    with torch.no_grad():
        logits = model(torch.arange(8)[None]).logits
    assert logits.shape == (1, 8, 300)
    assert 0.05 < float(logits.std()) < 0.5
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize("tied", [False, True])
def test_the_two_ways_differ_in_the_padding_row_of_a_tied_model(tied: bool) -> None:
    """As docs/recording.md says: transformers draws the row again if the weights are tied before init_weights()."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=16, pad_token_id=3, tie_word_embeddings=tied)

    def row(model: Any) -> float:
        return float(model.get_input_embeddings().weight.detach()[3].abs().max())

    real = transformers.LlamaForCausalLM._from_config(config)
    assert row(real) == 0
    for module in real.modules():
        module._is_hf_initialized = False
    real.init_weights()
    assert (row(real) != 0) == tied

    one, recorded = zeta.record(transformers.AutoModelForCausalLM.from_config, config)
    with torch.device("meta"):
        two = transformers.AutoModelForCausalLM.from_config(config)
    planned = zeta.plan(two, lambda model: model.init_weights())
    zeta.materialize_(one, recorded, seed=0)
    zeta.materialize_(two, planned, seed=0)
    assert row(one) == 0
    assert (row(two) != 0) == tied
    embedding = one.get_input_embeddings().weight
    with torch.no_grad():
        two.get_input_embeddings().weight[3] = 0
    assert {
        name for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True) if not torch.equal(a, b)
    } == set()
    assert embedding[2].abs().max() > 0
