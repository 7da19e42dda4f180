"""Tensors that become larger: rows, layers, experts, units. Compared with values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.checkpoints import (
    VOCABULARY,
    bert,
    built,
    gpt2,
    llama,
    saved,
    t5,
    tokens,
    transformers,
    values,
)
from zeta import Average, Experts, Layers, Mean, Rows, Rule, Rules, Split
from zeta.errors import PlanError, SpecError
from zeta.initializers import Normal, Uniform, Zeros

NEW = VOCABULARY + 14


def table(rows: int, width: int = 6, seed: int = 0) -> nn.Embedding:
    torch.manual_seed(seed)
    return nn.Embedding(rows, width)


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "config", "embedding"),
    [
        (transformers.GPT2LMHeadModel, gpt2, "*wte.weight"),
        (transformers.LlamaForCausalLM, llama, "*embed_tokens.weight"),
        (transformers.T5ForConditionalGeneration, t5, "shared.weight"),
        (transformers.BertForMaskedLM, bert, "*word_embeddings.weight"),
    ],
)
def test_a_grown_vocabulary(tmp_path: Path, kind: Any, config: Any, embedding: str) -> None:
    """Old rows stay, new ones are those of the larger model; the head and its bias follow; old logits stay."""
    old = built(kind, config())
    new, plan = zeta.record(kind, config(vocabulary=NEW))
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=4, grow={embedding: Rows()})
    full, _ = zeta.record(kind, config(vocabulary=NEW))
    zeta.materialize_(full, plan, seed=4)
    fresh, before = values(full), values(old)
    for name, found in values(new).items():
        rows = before[name].shape[0] if before[name].ndim else 0
        if found.shape == before[name].shape:
            assert torch.equal(found, before[name]), name
        else:
            assert found.shape[0] == NEW, name
            assert torch.equal(found[:rows], before[name]), name
            assert torch.equal(found[rows:], fresh[name][rows:]), name
    assert new.config.vocab_size == NEW
    batch = {"input_ids": tokens()}
    if kind is transformers.T5ForConditionalGeneration:
        batch["decoder_input_ids"] = tokens()
    preserved = report.preserved(batch)
    assert report.expected == "equal up to rounding"
    assert preserved.ok, preserved


def test_the_sizes_that_follow_include_the_bias_of_the_decoder(tmp_path: Path) -> None:
    old = built(transformers.BertForMaskedLM, bert())
    new, plan = zeta.record(transformers.BertForMaskedLM, bert(vocabulary=NEW))
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=4, grow={"*word_embeddings.weight": Rows(Mean())})
    assert {*report.grown} == {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"}
    assert torch.equal(new.cls.predictions.bias[:VOCABULARY], old.cls.predictions.bias)


def test_mean_has_the_mean_and_the_covariance_of_the_old_rows() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(6, 6)
    rows = torch.randn(300, 6) @ mixing + torch.arange(6.0)
    new = nn.Embedding(300 + 40_000, 6)
    zeta.adapt_(new, {"weight": rows}, seed=3, grow={"weight": Rows(Mean())})
    drawn = new.weight.detach()[300:].double()
    expected = torch.cov(rows.double().T, correction=0)
    error = torch.linalg.matrix_norm(torch.cov(drawn.T) - expected) / torch.linalg.matrix_norm(expected)
    assert float(error) < 0.02
    spread = expected.diagonal().sqrt() / math.sqrt(40_000)
    assert bool(((drawn.mean(0) - rows.double().mean(0)).abs() < 5 * spread).all())
    assert len({tuple(row) for row in drawn.tolist()}) == 40_000


def test_noise_is_a_factor_of_the_std_and_none_gives_the_mean() -> None:
    rows = table(50).weight.detach()
    ones, halves, none = (nn.Embedding(60, 6) for _ in range(3))
    for new, noise in ((ones, 1.0), (halves, 0.5), (none, 0.0)):
        zeta.adapt_(new, {"weight": rows}, seed=3, grow={"weight": Rows(Mean(noise))})
    mean = rows.double().mean(0).float()
    torch.testing.assert_close(none.weight[50:].detach(), mean.expand(10, 6), rtol=0, atol=0)
    torch.testing.assert_close(halves.weight[50:] - mean, (ones.weight[50:] - mean) / 2, rtol=1e-5, atol=1e-6)


def test_new_rows_do_not_depend_on_how_many_there_are() -> None:
    rows = table(50).weight.detach()
    few, many = nn.Embedding(53, 6), nn.Embedding(80, 6)
    for how in (Mean(), Normal(0.3)):
        for new in (few, many):
            zeta.adapt_(new, {"weight": rows}, seed=3, grow={"weight": Rows(how)})
        assert torch.equal(few.weight, many.weight[:53])


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        (torch.tensor([[1.0, math.nan], [2.0, 3.0]]), torch.float32),
        (torch.tensor([[1.0, math.inf], [2.0, 3.0]]), torch.float32),
        (torch.tensor([[6e4, 1.0], [-6e4, 3.0]]).half(), torch.float16),
    ],
)
def test_rows_whose_mean_or_noise_is_not_finite(rows: Tensor, dtype: torch.dtype) -> None:
    new = nn.Embedding(100, 2, dtype=dtype)
    with pytest.raises(zeta.CheckpointError, match="weight has rows of which mean and noise are not finite in float"):
        zeta.adapt_(new, {"weight": rows}, seed=3, grow={"weight": Rows(Mean())})


@pytest.mark.parametrize("how", [Mean(), Average({4: [0, 1]}, rest=Zeros())])
def test_whole_numbers_have_no_mean(how: Any) -> None:
    """Half a number would be cut off."""
    new = nn.Module()
    new.register_buffer("codes", torch.zeros(6, dtype=torch.int64))
    with pytest.raises(PlanError, match=r"codes: has dtype int64, and (Mean|Average) is of floating-point numbers"):
        zeta.adapt_(new, {"codes": torch.arange(4)}, seed=3, grow={"codes": Rows(how)})


def test_average_of_pieces_and_the_rest() -> None:
    rows = table(5).weight.detach()
    new = nn.Embedding(8, 6)
    how = Average({5: [0, 3], 7: [4]}, rest=Zeros())
    zeta.adapt_(new, {"weight": rows}, seed=0, grow={"weight": Rows(how)})
    expected = torch.cat([rows, (rows[:1] + rows[3:4]) / 2, torch.zeros(1, 6), rows[4:]])
    torch.testing.assert_close(new.weight.detach(), expected, rtol=1e-7, atol=0)


def test_rows_are_chosen_reordered_and_left_out() -> None:
    rows = table(5).weight.detach()
    small = nn.Embedding(3, 6)
    with pytest.raises(PlanError, match=r"3 x 6, which is smaller: Rows\(keep=...\) says which 3 of the 5 rows stay"):
        zeta.adapt_(small, {"weight": rows}, seed=0, grow={"weight": Rows()})
    zeta.adapt_(small, {"weight": rows}, seed=0, grow={"weight": Rows(keep=[4, 0, 2])})
    assert torch.equal(small.weight, rows[[4, 0, 2]])
    mixed = nn.Embedding(6, 6)
    report = zeta.adapt_(mixed, {"weight": rows}, seed=0, grow={"weight": Rows(Zeros(), keep=[1, -1, 3])})
    assert torch.equal(mixed.weight[[0, 2]], rows[[1, 3]])
    assert not mixed.weight[[1, 3, 4, 5]].any()
    assert report.expected == "changed"
    same = nn.Embedding(5, 6)
    zeta.adapt_(same, {"weight": rows}, seed=0, grow={"weight": Rows(keep=range(4, -1, -1))})
    assert torch.equal(same.weight, rows.flip(0))


def test_other_dimensions_than_the_first() -> None:
    old, new = nn.Linear(3, 4), nn.Linear(5, 4)
    zeta.adapt_(new, old, seed=2, grow={"weight": Rows(Normal(0.7))})
    full = zeta.fill_(torch.empty(4, 5), Normal(0.7), seed=2, name="weight")
    assert torch.equal(new.weight[:, :3], old.weight)
    assert torch.equal(new.weight[:, 3:], full[:, 3:])
    zeta.adapt_(new, old, seed=2, grow={"weight": Rows(Mean(0.0))})
    torch.testing.assert_close(new.weight[:, 3], old.weight.double().mean(1).float(), rtol=0, atol=0)


def test_the_report_measures_new_rows_alone() -> None:
    rows = torch.full((4000, 8), 5.0)
    new = nn.Embedding(8000, 8)
    report = zeta.adapt_(new, {"weight": rows}, seed=0, grow={"weight": Rows(Normal(0.1))})
    [measured] = report
    assert measured.count == 4000 * 8
    assert abs(measured.mean) < 0.005
    assert abs(measured.std - 0.1) < 0.002
    assert report.ok


def test_new_rows_can_be_verified_by_a_plan_with_a_section() -> None:
    rows = table(50).weight.detach()
    new = nn.Embedding(60, 6)
    zeta.adapt_(new, {"weight": rows}, seed=3, grow={"weight": Rows(Normal(0.3))})
    plan = zeta.plan(new, Rules([Rule("*", Normal(0.3))]))
    from msgspec.structs import replace

    from zeta.resolve.entries import Section

    part = zeta.Plan((replace(plan["weight"], section=Section(dim=0, spans=((50, 60),))),))
    assert zeta.verify(new, part, 3).ok
    assert not zeta.verify(new, plan, 3).ok
    assert not zeta.verify(new, part, 4).ok
    assert zeta.Plan.from_json(part.to_json()) == part
    with torch.no_grad():
        new.weight[55, 0] += 1
    assert not zeta.verify(new, part, 3).ok


def test_tokens_of_another_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")

    def write(name: str, words: list[str]) -> Path:
        model = tokenizers.models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]")
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.decoder = tokenizers.decoders.WordPiece()
        made.save(str(tmp_path / name))
        return tmp_path / name

    one = write("old.json", ["[UNK]", "play", "##ing", "ground", "##ground"])
    two = write("new.json", ["ground", "playing", "[UNK]", "play"])
    rows = table(5).weight.detach()
    new = nn.Embedding(4, 6)
    zeta.adapt_(new, {"weight": rows}, seed=0, grow={"weight": Rows.of_tokens(one, two, pieces=True)})
    assert torch.equal(new.weight[[0, 2, 3]], rows[[3, 0, 1]])
    torch.testing.assert_close(new.weight[1].detach(), (rows[1] + rows[2]) / 2, rtol=1e-7, atol=0)
    zeta.adapt_(new, {"weight": rows}, seed=0, grow={"weight": Rows.of_tokens(one, two, Zeros())})
    assert not new.weight[1].any()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(zeta.CheckpointError, match="is no tokenizer that tokenizers reads"):
        Rows.of_tokens(tmp_path / "bad.json", two)
    with pytest.raises(zeta.CheckpointError, match="cannot be read"):
        Rows.of_tokens(tmp_path / "none.json", two)


# -- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "config", "blocks"), [
    (transformers.GPT2LMHeadModel, gpt2, "transformer.h"),
    (transformers.LlamaForCausalLM, llama, "model.layers"),
])  # fmt: skip
def test_identity_blocks_change_no_output(tmp_path: Path, kind: Any, config: Any, blocks: str) -> None:
    old = built(kind, config())
    new, plan = zeta.record(kind, config(layers=5))
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=1, grow={f"*{blocks}": Layers(to=5)})
    preserved = report.preserved({"input_ids": tokens()})
    assert (report.expected, preserved.difference, preserved.ok) == ("equal", 0.0, True)
    full, _ = zeta.record(kind, config(layers=5))
    zeta.materialize_(full, plan, seed=1)
    places = Layers(to=5).sources(2)
    assert places == [0, None, None, 1, None]
    fresh, before = values(full), values(old)
    zero = 0
    for name, found in values(new).items():
        parts = name[len(blocks) + 1 :].split(".", 1)
        if not name.startswith(f"{blocks}."):
            assert torch.equal(found, before[name]), name
        elif (block := places[int(parts[0])]) is not None:
            assert torch.equal(found, before[f"{blocks}.{block}.{parts[1]}"]), name
        elif "c_proj" in name or "o_proj" in name or "down_proj" in name:
            assert not found.any(), name
            zero += 1
        else:
            assert torch.equal(found, fresh[name]), name
    assert zero == 3 * (4 if kind is transformers.GPT2LMHeadModel else 2)


@pytest.mark.parametrize(("how", "expected"), [("stack", [0, 1, 0, 1, 0]), ("interleave", [0, 0, 0, 1, 1])])
def test_copied_blocks(how: Any, expected: list[int]) -> None:
    old = built(transformers.GPT2LMHeadModel, gpt2())
    new, plan = zeta.record(transformers.GPT2LMHeadModel, gpt2(layers=5))
    report = zeta.adapt_(new, old, plan, seed=1, grow={"transformer.h": Layers(to=5, how=how)})
    for place, block in enumerate(expected):
        assert torch.equal(new.transformer.h[place].mlp.c_fc.weight, old.transformer.h[block].mlp.c_fc.weight)
    assert report.expected == "changed"
    assert len(report.loaded) + len(report.grown) == len([*new.parameters()])


def test_blocks_without_known_ends_need_them_named() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha, self.omega = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.omega(torch.tanh(self.alpha(x)))

    class Net(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.steps = nn.ModuleList(Block() for _ in range(depth))

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(x)
            return x

    torch.manual_seed(0)
    old, new = Net(2), Net(4)
    rules = Rules([Rule("*.weight", Normal(0.5)), Rule("*.bias", Zeros())])
    grow = {"steps": Layers(to=4, ends=["omega.*"])}
    report = zeta.adapt_(new, old, rules, seed=0, grow=grow)
    assert report.preserved(torch.randn(3, 4), old).difference == 0
    assert not new.steps[1].omega.weight.any()
    assert new.steps[1].alpha.weight.any()


@pytest.mark.parametrize(
    ("grow", "message"),
    [
        ({"transformer.h": Layers(to=7)}, r"the model has 4 blocks, and Layers\(to=7\) was asked for"),
        ({"layers": Layers(to=4)}, "'layers' names no list of blocks of the model; it has transformer.h"),
        ({"transformer.h": Layers(to=4, ends=["nothing"])}, "nothing in this block is known as the last layer"),
    ],
)
def test_layers_that_do_not_fit(grow: Any, message: str) -> None:
    new, plan = zeta.record(transformers.GPT2LMHeadModel, gpt2(layers=4))
    with pytest.raises(PlanError, match=message):
        zeta.adapt_(new, built(transformers.GPT2LMHeadModel, gpt2()), plan, seed=1, grow=grow)
    assert new.lm_head.weight.is_meta


# -- experts ---------------------------------------------------------------------------------------------------------

MIXTRAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
MIXTRAL |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}


def mixtral(**more: Any) -> Any:
    return llama(kind=transformers.MixtralConfig, rms_norm_eps=1e-6, **{**MIXTRAL, **more})


def test_a_dense_model_becomes_a_mixture_with_the_same_outputs(tmp_path: Path) -> None:
    old = built(transformers.LlamaForCausalLM, llama(rms_norm_eps=1e-6))
    new, plan = zeta.record(transformers.MixtralForCausalLM, mixtral())
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=2, grow={"model.layers.*.mlp": Experts(to=4)})
    assert report.expected == "equal up to rounding"
    preserved = report.preserved({"input_ids": tokens()}, old)
    assert preserved.ok, preserved
    mlp, dense = new.model.layers[1].mlp, old.model.layers[1].mlp
    for expert in range(4):
        assert torch.equal(mlp.experts.gate_up_proj[expert], torch.cat([dense.gate_proj.weight, dense.up_proj.weight]))
        assert torch.equal(mlp.experts.down_proj[expert], dense.down_proj.weight)
    full, _ = zeta.record(transformers.MixtralForCausalLM, mixtral())
    zeta.materialize_(full, plan, seed=2)
    assert torch.equal(mlp.gate.weight, full.model.layers[1].mlp.gate.weight)


def test_noise_between_experts_is_relative_to_the_tensor() -> None:
    old = built(transformers.LlamaForCausalLM, llama())
    new, plan = zeta.record(transformers.MixtralForCausalLM, mixtral())
    report = zeta.adapt_(new, old, plan, seed=2, grow={"*.mlp": Experts(to=4, noise=0.25)})
    dense = old.model.layers[0].mlp.down_proj.weight.detach()
    noise = new.model.layers[0].mlp.experts.down_proj.detach() - dense
    assert float(noise.std() / dense.std()) == pytest.approx(0.25, rel=0.03)
    assert not torch.equal(noise[0], noise[1])
    assert report.expected == "changed"


def test_more_experts_repeat_the_old_ones_and_their_scores(tmp_path: Path) -> None:
    old = built(transformers.MixtralForCausalLM, mixtral())
    new, plan = zeta.record(transformers.MixtralForCausalLM, mixtral(num_local_experts=6))
    zeta.adapt_(new, saved(old, tmp_path), plan, seed=2, grow={"*.mlp": Experts(to=6)})
    one, two = old.model.layers[0].mlp, new.model.layers[0].mlp
    order = [0, 1, 2, 3, 0, 1]
    assert torch.equal(two.experts.gate_up_proj, one.experts.gate_up_proj[order])
    assert torch.equal(two.gate.weight, one.gate.weight[order])


def test_experts_in_a_list_and_other_names() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2 = nn.Linear(4, 6), nn.Linear(6, 4)

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(4, 3)
            self.experts = nn.ModuleList(Expert() for _ in range(3))

    dense, new = nn.ModuleDict({"ffn": nn.Sequential()}), nn.ModuleDict({"ffn": Mixture()})
    dense["ffn"].add_module("fc1", nn.Linear(4, 6))
    dense["ffn"].add_module("fc2", nn.Linear(6, 4))
    rules = Rules([Rule("*router.weight", Normal(0.1)), Rule("*router.bias", Zeros())])
    zeta.adapt_(new, dense, rules, seed=0, grow={"ffn": Experts(to=3)})
    for expert in new["ffn"].experts:  # type: ignore[union-attr]
        assert torch.equal(expert.w1.weight, dense["ffn"].fc1.weight)  # type: ignore[union-attr]
        assert torch.equal(expert.w2.bias, dense["ffn"].fc2.bias)  # type: ignore[union-attr]


def test_experts_that_do_not_fit() -> None:
    old = built(transformers.LlamaForCausalLM, llama())
    new, plan = zeta.record(transformers.MixtralForCausalLM, mixtral())
    with pytest.raises(PlanError, match="has 4 experts, not to=8"):
        zeta.adapt_(new, old, plan, seed=2, grow={"*.mlp": Experts(to=8)})
    with pytest.raises(PlanError, match="'*.attn' names no module with experts".replace("*", r"\*")):
        zeta.adapt_(new, old, plan, seed=2, grow={"*.attn": Experts(to=4)})


# -- units -----------------------------------------------------------------------------------------------------------


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def convolutions(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2, 3), nn.AdaptiveAvgPool2d(1)
    )


@pytest.mark.parametrize(("wide", "exact"), [(16, True), (13, False), (32, True)])
def test_a_wider_mlp_computes_the_same(wide: int, exact: bool) -> None:
    torch.manual_seed(0)
    old, new = mlp(8), mlp(wide)
    report = zeta.adapt_(new, old, seed=0, grow={"0.weight": Rows(Split())})
    assert {*report.grown} == {"0.weight", "0.bias", "2.weight"}
    assert torch.equal(new[0].weight, old[0].weight[[unit % 8 for unit in range(wide)]])
    difference = report.preserved(torch.randn(64, 4), old)
    assert difference.ok
    counts = torch.tensor([len([unit for unit in range(wide) if unit % 8 == place % 8]) for place in range(wide)])
    expected = (old[2].weight.double()[:, [unit % 8 for unit in range(wide)]] / counts).float()
    assert torch.equal(new[2].weight, expected)


def test_a_wider_convolution_with_its_norm_computes_the_same() -> None:
    torch.manual_seed(0)
    old, new = convolutions(4), convolutions(10)
    old[1].running_mean.normal_()  # type: ignore[union-attr, operator]
    old[1].weight.data.uniform_(0.5, 2)  # type: ignore[union-attr]
    report = zeta.adapt_(new, old, seed=0, grow={"0.*": Rows(Split())})
    assert report.preserved(torch.randn(2, 3, 8, 8), old).ok


class Packed(nn.Module):
    """Gate and up in one weight, one after the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(4, 2 * width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        found: Tensor = self.down(torch.tanh(gate) * up)
        return found


@pytest.mark.parametrize("wide", [16, 13])
def test_packed_maps_are_split_one_by_one(wide: int) -> None:
    torch.manual_seed(0)
    old, new = Packed(8), Packed(wide)
    before = values(new)
    message = r"gate_up\.weight: has 16 units and down\.weight takes 8, as of 2 maps.*Rows\(Split\(maps=2\)\)"
    with pytest.raises(PlanError, match=message):
        zeta.adapt_(new, old, seed=0, grow={"*.weight": Rows(Split())})
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(new).items())
    grow = {"gate_up.weight": Rows(Split(maps=2)), "down.weight": Rows(Split())}
    report = zeta.adapt_(new, old, seed=0, grow=grow)
    units = [unit % 8 for unit in range(wide)]
    assert torch.equal(new.gate_up.weight, old.gate_up.weight[[*units, *(8 + unit for unit in units)]])
    assert report.preserved(torch.randn(64, 4), old).ok
    with pytest.raises(PlanError, match="has 16 units and the model 32, which are not those of 3 maps"):
        zeta.adapt_(Packed(16), Packed(8), seed=0, grow=grow | {"gate_up.weight": Rows(Split(maps=3))})


def test_packed_maps_of_transformers(tmp_path: Path) -> None:
    kind, config = transformers.Phi3ForCausalLM, transformers.Phi3Config
    old = built(kind, llama(kind=config, pad_token_id=0))
    wider = llama(kind=config, pad_token_id=0)
    wider.intermediate_size = 96
    new, plan = zeta.record(kind, wider)
    grow = {"*gate_up_proj.weight": Rows(Split(maps=2)), "*down_proj.weight": Rows(Split())}
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=0, grow=grow)
    assert report.preserved({"input_ids": tokens()}).ok


def test_two_chains_of_widths_are_no_packed_maps() -> None:
    def chains(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(5, 2 * width), nn.ReLU(), nn.Linear(2 * width, 5), nn.Linear(5, width), nn.Linear(width, 3)
        )

    torch.manual_seed(0)
    old, new = chains(4), chains(8)
    report = zeta.adapt_(new, old, seed=0, grow={"0.weight": Rows(Split()), "3.weight": Rows(Split())})
    assert report.preserved(torch.randn(8, 5), old).ok


def test_split_makes_nothing_smaller() -> None:
    with pytest.raises(PlanError, match="Split only makes layers wider"):
        zeta.adapt_(mlp(4), mlp(8), seed=0, grow={"0.weight": Rows(Split())})


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rows("zeros"), r"Rows: how must be an initializer such as Normal\(0.02\), Mean\(\), Average"),
        (lambda: Rows(zeta.Keep()), "Rows: how must be an initializer"),
        (lambda: Rows(keep="abc"), "Rows: keep must be a list of numbers of rows"),
        (lambda: Rows(keep=[0, -2]), "Rows: keep must be a number of a row, from -1 on, got -2"),
        (lambda: Rows(keep=slice(0, 4, 2)), "a slice with step 1"),
        (lambda: Rows(Split(), keep=[1]), "keep= has no meaning"),
        (lambda: Mean(-1), "Mean: noise must be at least 0, got -1"),
        (lambda: Mean(math.nan), "Mean: noise must be a finite number"),
        (lambda: Average([1, 2]), "Average: expected a mapping"),
        (lambda: Average({1: []}), "row 1 is the mean of no rows"),
        (lambda: Average({-1: [0]}), "Average: a new row must be a number of a row, from 0 on, got -1"),
        (lambda: Split(maps=0), "Split: maps must be a whole number from 1 on, got 0"),
        (lambda: Layers(to=0), "Layers: to must be a whole number from 1 on, got 0"),
        (lambda: Layers(to=4, how="twice"), "Layers: how must be one of 'identity', 'stack', 'interleave'"),  # type: ignore[arg-type]
        (lambda: Layers(to=4, ends=[3]), "Layers: ends must be globs"),  # type: ignore[arg-type]
        (lambda: Experts(to=True), "Experts: to must be a whole number"),
        (lambda: Experts(to=4, noise=-0.5), "Experts: noise must be at least 0"),
    ],
)
def test_what_makes_no_sense(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Rows(), "the new rows need how="),
        (Rows(keep=[7]), "keep names row 7, but the checkpoint has 5 rows"),
        (Rows(Average({2: [0]}, rest=Zeros())), "Average names row 2, which is not one of the new rows"),
        (Rows(Average({6: [9]}, rest=Zeros())), "Average names the old row 9, but the checkpoint has 5 rows"),
        (Rows(Average({6: [0]})), "the new rows need how="),
        (Rows(Uniform(-1e39, 1e39)), "weight"),
    ],
)
def test_rows_that_do_not_fit(rows: Rows, message: str) -> None:
    new = nn.Embedding(8, 6)
    before = new.weight.detach().clone()
    with pytest.raises((PlanError, SpecError), match=message):
        zeta.adapt_(new, {"weight": table(5).weight.detach()}, seed=0, grow={"weight": rows})
    assert torch.equal(new.weight, before)
