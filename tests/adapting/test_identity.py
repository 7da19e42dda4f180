"""New blocks that add nothing, and what is against it that the outputs stay: judged before anything runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.checkpoints import VOCABULARY, WIDTH, bert, built, gpt2, llama, saved, transformers
from zeta import Layers, Rule, Rules
from zeta.base.usage import normalized_sum
from zeta.errors import ZetaNotice
from zeta.initializers import Normal
from zeta.resolve.kinds import is_norm

#: longer than any window here
TOKENS = torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
RULES = Rules([Rule("*", Normal(0.1))])


def gpt2_by_number(layers: int = 2) -> Any:
    config = gpt2(layers)
    config.scale_attn_by_inverse_layer_idx = True
    return config


def opt(layers: int = 2, *, before: bool = True) -> Any:
    return transformers.OPTConfig(
        num_hidden_layers=layers, hidden_size=WIDTH, ffn_dim=64, num_attention_heads=2, vocab_size=VOCABULARY,
        max_position_embeddings=32, word_embed_proj_dim=WIDTH, do_layer_norm_before=before,
    )  # fmt: skip


def gemma2(layers: int = 2, **more: Any) -> Any:
    return llama(layers, kind=transformers.Gemma2Config, head_dim=8, sliding_window=4, **more)


def smollm(layers: int = 4) -> Any:
    return llama(layers, kind=transformers.SmolLM3Config, pad_token_id=0)


CASES: dict[str, tuple[Any, Any, Any, str | None]] = {
    "llama": (transformers.LlamaForCausalLM, llama(), llama(4), None),
    "gpt2": (transformers.GPT2LMHeadModel, gpt2(), gpt2(4), None),
    "opt": (transformers.OPTForCausalLM, opt(), opt(4), None),
    "gemma2, kinds that follow their blocks": (
        transformers.Gemma2ForCausalLM, gemma2(),
        gemma2(4, layer_types=["sliding_attention"] * 2 + ["full_attention"] * 2), None,
    ),
    "bert": (transformers.BertForMaskedLM, bert(), bert(4), r"BertSelfOutput\) gives its sum .* through LayerNorm"),
    "opt, norm after the sum": (
        transformers.OPTForCausalLM, opt(before=False), opt(4, before=False),
        r"OPTDecoderLayer\) gives its sum .* through self_attn_layer_norm",
    ),
    "gpt2, scale by the number": (
        transformers.GPT2LMHeadModel, gpt2_by_number(), gpt2_by_number(4), r"h\.2 has .* block 1, and .*scal",
    ),
    "gemma2, kinds in turns": (
        transformers.Gemma2ForCausalLM, gemma2(), gemma2(4),
        r"layers\.2 has the values of the checkpoint's block 1, and .* 'sliding_attention', there 'full_attention'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_what_the_modules_show_agrees_with_the_outputs(case: str, folder: bool, tmp_path: Path) -> None:
    """``expected`` is known before anything is run; the outputs are the independent truth."""
    kind, before, after, message = CASES[case]
    old = built(kind, before)
    new, plan = zeta.record(kind, after)
    grow = {"*.{h,layer,layers}": Layers(4)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ZetaNotice)
        report = zeta.adapt_(new, saved(old, tmp_path) if folder else old, plan, seed=1, grow=grow)
    found = report.preserved({"input_ids": TOKENS}, old)
    notices = [str(one.message) for one in caught if issubclass(one.category, ZetaNotice)]
    if message is None:
        assert (report.expected, found.difference, notices) == ("equal", 0.0, [])
        return
    assert report.expected == "changed"
    assert found.difference > 1e-6, "else the notice would be wrong"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("\n".join(notices))


def test_kinds_in_turns_are_known_of_a_state_dict_too() -> None:
    """The old model is not known then, and is taken to begin as the new one does."""
    old = built(transformers.Gemma2ForCausalLM, gemma2())
    new, plan = zeta.record(transformers.Gemma2ForCausalLM, gemma2(4))
    with pytest.warns(ZetaNotice, match="'sliding_attention', there 'full_attention'"):
        report = zeta.adapt_(new, old.state_dict(), plan, seed=1, grow={"model.layers": Layers(4)})
    assert report.expected == "changed"
    new, plan = zeta.record(transformers.LlamaForCausalLM, llama(4))
    report = zeta.adapt_(
        new, built(transformers.LlamaForCausalLM, llama()).state_dict(), plan, seed=1, grow={"model.layers": Layers(4)}
    )
    assert report.expected == "equal"


@pytest.mark.parametrize("first", [True, False])
def test_torchs_own_blocks(first: bool) -> None:
    def net(blocks: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first)
        return nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)

    torch.manual_seed(0)
    old, new = net(2), net(3)
    grow = {"layers": Layers(3, ends=("self_attn.out_proj.*", "linear2.*"))}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ZetaNotice)
        report = zeta.adapt_(new, old, RULES, seed=0, grow=grow)
    found = report.preserved(torch.randn(2, 5, 8), old)
    assert (report.expected == "equal", found.difference == 0, not caught) == (first, first, first)


class Sums(nn.Module):
    """Forwards that are followed; each is one way of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(4), nn.Linear(4, 4)
        self.first = True


class After(Sums):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.branch(x))


class AfterByName(Sums):
    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.branch(x)
        x = residual + x
        return self.norm(x)


class AfterInPlace(Sums):
    def forward(self, x: Tensor) -> Tensor:
        x += self.branch(x)
        return self.norm(x)


class AfterInAMethod(Sums):
    def forward(self, x: Tensor) -> Tensor:
        if not self.first:
            return x
        return self.after(x)

    def after(self, x: Tensor) -> Tensor:
        return self.norm(x + self.branch(x))


class Before(Sums):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


class BeforeTheNext(Sums):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(x)
        residual = x
        x = self.norm(x)
        return residual + self.branch(x)


class BeforeInAMethod(AfterInAMethod):
    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return x + self.branch(self.norm(x))
        return self.after(x)


class OfTheBranch(Sums):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y = self.norm(y)
        return x + y


class Kept(Sums):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.branch(x)
        return self.norm(y), y


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(After, "norm"), (AfterByName, "norm"), (AfterInPlace, "norm"), (AfterInAMethod, "norm"), (Before, None),
     (BeforeTheNext, None), (BeforeInAMethod, None), (OfTheBranch, None), (Kept, None), (nn.Linear, None)],
)  # fmt: skip
def test_whether_a_sum_is_normalized_and_lost(kind: Any, expected: str | None) -> None:
    module = kind(4, 4) if kind is nn.Linear else kind()
    assert normalized_sum(module, is_norm) == expected


SIZES: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9,
    "max_position_embeddings": 8, "pad_token_id": 0,
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
    "encoder_attention_heads": 1, "decoder_attention_heads": 1, "vocab_size": 9, "max_position_embeddings": 8,
}  # fmt: skip
#: whether a norm follows the sum, as the papers of these architectures say
AFTER: dict[str, tuple[dict[str, Any], bool]] = {
    "MegatronBert": (SIZES, False), "Esm": (SIZES, False), "BioGpt": (SIZES, False), "MBart": (BART, False),
    "Blenderbot": (BART, False), "Persimmon": (SIZES, False), "Olmo2": (SIZES, False), "MPNet": (SIZES, True),
    "RemBert": (SIZES, True), "RoFormer": (SIZES, True), "BigBird": (SIZES, True), "Bart": (BART, True),
    "Ernie": (SIZES, True),
}  # fmt: skip


@pytest.mark.parametrize("name", AFTER)
def test_architectures_of_transformers(name: str) -> None:
    sizes, expected = AFTER[name]
    with torch.device("meta"):
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))
    inside = [module for path, module in model.named_modules() if ".0" in path]
    assert any(normalized_sum(module, is_norm) for module in inside) is expected
