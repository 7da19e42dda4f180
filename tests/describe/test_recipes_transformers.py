"""The recipes of transformers, against the library's own constructors and a hand-written model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.recorded import compare  # noqa: E402
from zeta.errors import PlanError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
    "pad_token_id": 7, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
VISION = {"image_size": 32, "patch_size": 8, **{key: SMALL[key] for key in list(SMALL)[:4]}}
#: recipe, model class, configuration class, its arguments, the model's
MODELS: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {
    "Llama": ("llama", "LlamaForCausalLM", "LlamaConfig", SMALL, {}),
    "Llama, biases": ("llama", "LlamaForCausalLM", "LlamaConfig", {**SMALL, "attention_bias": True}, {}),
    "Llama, range": ("llama", "LlamaForCausalLM", "LlamaConfig", {**SMALL, "initializer_range": 0.1}, {}),
    "Llama, tied": ("llama", "LlamaForCausalLM", "LlamaConfig", {**SMALL, "tie_word_embeddings": True}, {}),
    "Llama, no head": ("llama", "LlamaModel", "LlamaConfig", SMALL, {}),
    "Mistral": ("llama", "MistralForCausalLM", "MistralConfig", GROUPED, {}),
    "Mixtral": ("llama", "MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 4}, {}),
    "Qwen2": ("llama", "Qwen2ForCausalLM", "Qwen2Config", GROUPED, {}),
    "Qwen3": ("llama", "Qwen3ForCausalLM", "Qwen3Config", GROUPED, {}),
    "BERT": ("bert", "BertForPreTraining", "BertConfig", SMALL, {}),
    "BERT, range": ("bert", "BertModel", "BertConfig", {**SMALL, "initializer_range": 0.05}, {}),
    "RoBERTa": ("bert", "RobertaForMaskedLM", "RobertaConfig", SMALL, {}),
    "ViT": ("vit", "ViTForImageClassification", "ViTConfig", VISION, {}),
    "ViT, range": ("vit", "ViTModel", "ViTConfig", {**VISION, "initializer_range": 0.1}, {"use_mask_token": True}),
}
CHECKED_BY_VALUES = ("Llama, biases", "Llama, range", "Llama, tied", "BERT", "ViT, range")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


def build(name: str) -> nn.Module:
    _, model, config, sizes, arguments = MODELS[name]
    made = getattr(transformers, config)(**sizes)
    return getattr(transformers, model)(made, **arguments)  # type: ignore[no-any-return]


def std_of(name: str, module: nn.Module, std: float) -> tuple[float, float]:
    """Mean and std as transformers' ``_init_weights`` gives them, read off the source."""
    if isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__:
        return (1.0, 0.0) if name.endswith("weight") else (0.0, 0.0)
    return (0.0, 0.0 if name.endswith(("bias", "mask_token")) else std)


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_says_what_the_library_does(name: str) -> None:
    recipe, *_, sizes, _ = MODELS[name]
    model = build(name)
    plan = zeta.plan(model, recipe)
    for entry in plan.parameters:
        module = model.get_submodule(entry.name.rpartition(".")[0])
        assert (entry.mean, entry.std) == std_of(entry.name, module, sizes.get("initializer_range", 0.02)), entry.name
    _, recorded = zeta.record(build, name)
    difference = zeta.diff(recorded, plan)
    assert difference.same, str(difference)
    assert all(plan[buffer].kept for buffer in difference.unsaid)


@pytest.mark.parametrize("name", CHECKED_BY_VALUES)
def test_a_recipe_draws_what_the_library_draws(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    plan = zeta.plan(model, MODELS[name][0])
    assert zeta.apply_(model, plan, seed=1).ok
    assert compare(model, plan, lambda: build(name)) == []


def test_the_padding_row_is_zero_and_the_head_shares_it() -> None:
    model = build("Llama, tied")
    zeta.init_(model, "llama", seed=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.lm_head.weight == 0).all(1).nonzero().flatten().tolist() == [7]


# -- other people's ----------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 7.0))


class Block(nn.Module):
    """With the names of the released Llama, and every value wrong."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in ("wq", "wk", "wv", "wo")})
        self.feed_forward = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in ("w1", "w2", "w3")})
        self.attention_norm = RMSNorm(width)
        self.ffn_norm = nn.Parameter(torch.full((width,), 7.0))  # a norm without a module
        self.experts = nn.Parameter(torch.empty(4, width, width))


class Own(nn.Module):
    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(100, width)
        self.layers = nn.ModuleList([Block(width) for _ in range(depth)])
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, 100, bias=False)


def test_llama_fits_other_names() -> None:
    model = Own()
    zeta.init_(model, "llama", seed=0)
    for name, parameter in model.named_parameters():
        value: Tensor = parameter.detach()
        if "norm" in name:
            assert (value == 1).all(), name
        else:
            assert abs(float(value.std()) / 0.02 - 1) < 5 / (2 * value.numel()) ** 0.5, name


def initialize(model: nn.Module, w3: float) -> None:
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=w3 if ".w3." in name else 0.02)


def test_one_weight_that_differs_is_found() -> None:
    model = Own()
    recipe = zeta.plan(model, "llama")
    assert zeta.diff(zeta.plan(model, lambda m: initialize(m, w3=0.02)), recipe).same
    difference = zeta.diff(zeta.plan(model, lambda m: initialize(m, w3=0.004)), recipe, names=("mine", "recipe llama"))
    assert [change.name for change in difference] == [f"layers.{n}.feed_forward.w3.weight" for n in range(3)]
    summary, _, _, row = str(difference).splitlines()
    assert summary == "mine differs from recipe llama in 3 of 33 parameters"
    cells = re.split(r" {2,}", row.strip())
    assert cells[:4] == [
        "layers.{0..2}.feed_forward.w3.weight", "distribution", "Normal(std=0.004)", "Normal(std=0.02)",
    ]  # fmt: skip
    assert re.fullmatch(r"test_recipes_transformers.py:\d+ \(normal_, Linear\)", cells[4])


def test_a_vector_that_is_no_norm_is_not_guessed() -> None:
    model = Own()
    model.sinks = nn.Parameter(torch.empty(64))
    with pytest.raises(PlanError, match=r"no rule matches these parameters.*\n  - sinks 64, kind other, in Own"):
        zeta.plan(model, "llama")
