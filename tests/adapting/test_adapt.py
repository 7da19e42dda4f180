"""A model from a checkpoint: what is loaded, initialized and refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.checkpoints import bert, built, gpt2, llama, saved, tokens, transformers, values
from zeta import Rows, Rule, Rules
from zeta.errors import PlanError, SpecError
from zeta.initializers import Normal, Ones, Zeros


def mlp(out: int = 3, *, hidden: int = 8, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, out))


def test_what_fits_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    old, new = mlp(), mlp(seed=1)
    identities = [id(parameter) for parameter in new.parameters()]
    report = zeta.adapt_(new, old.state_dict(), seed=0)
    assert all(torch.equal(one, two) for one, two in zip(old.parameters(), new.parameters(), strict=True))
    assert [id(parameter) for parameter in new.parameters()] == identities
    assert [*report.loaded] == [*dict(old.named_parameters())]
    assert report.initialized == report.unused == ()
    assert report.grown == {}
    assert report.loaded_nbytes == sum(parameter.nbytes for parameter in old.parameters())


def test_what_is_missing_gets_what_a_full_run_gives_it() -> None:
    old, new, full = mlp(), mlp(seed=1), mlp(seed=2)
    rules = Rules([Rule("*.bias", Ones()), Rule("*.weight", Normal(0.3))])
    zeta.init_(full, rules, seed=7)
    part = {name: tensor for name, tensor in old.state_dict().items() if not name.startswith("2.")}
    report = zeta.adapt_(new, part, rules, seed=7)
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, full[2].weight)
    assert torch.equal(new[2].bias, full[2].bias)
    assert report.initialized == ("2.weight", "2.bias")


def test_rules_need_not_match_what_is_loaded_and_may() -> None:
    old, new = mlp(), mlp(seed=1)
    part = {name: tensor for name, tensor in old.state_dict().items() if name != "2.weight"}
    zeta.adapt_(new, part, Rules([Rule("2.weight", Zeros())]), seed=0)
    assert not new[2].weight.any()
    zeta.adapt_(new, part, Rules([Rule("*.bias", Ones()), Rule("*.weight", Ones())]), seed=0)
    assert torch.equal(new[0].bias, old[0].bias)
    assert bool((new[2].weight == 1).all())


def test_on_meta_everything_gets_memory_and_ties_stay(tmp_path: Path) -> None:
    old = built(transformers.GPT2LMHeadModel, gpt2())
    new, plan = zeta.record(transformers.GPT2LMHeadModel, gpt2())
    report = zeta.adapt_(new, saved(old, tmp_path), plan, seed=0)
    assert new.lm_head.weight is new.transformer.wte.weight
    found, expected = values(new), values(old)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert report.preserved({"input_ids": tokens()}).difference == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_values_are_converted_to_the_models_dtype(dtype: torch.dtype) -> None:
    old, new = mlp(), mlp(seed=1).to(dtype)
    zeta.adapt_(new, old.state_dict(), seed=0)
    assert torch.equal(new[0].weight, old[0].weight.to(dtype))
    zeta.adapt_(old, new.state_dict(), seed=0)
    assert torch.equal(old[0].weight, new[0].weight.float())


def test_another_kind_of_number_is_refused() -> None:
    new = mlp()
    state = {**new.state_dict(), "0.bias": torch.ones(8, dtype=torch.int64)}
    with pytest.raises(PlanError, match=r"0\.bias: the model has float32, and the checkpoint int64"):
        zeta.adapt_(new, state, seed=0)


def test_a_new_head_on_a_folder_of_bert(tmp_path: Path) -> None:
    old = built(transformers.BertForMaskedLM, bert())
    saved(old, tmp_path)
    config = bert(num_labels=3)
    new, plan = zeta.record(transformers.BertForSequenceClassification, config)
    with pytest.raises(PlanError, match=r"cls\.predictions\.bias: is in the checkpoint, and nothing in the model"):
        zeta.adapt_(new, tmp_path, plan, seed=3)
    assert all(parameter.is_meta for parameter in new.parameters())
    report = zeta.adapt_(new, tmp_path, plan, seed=3, allow="cls.*")
    full, _ = zeta.record(transformers.BertForSequenceClassification, config)
    zeta.materialize_(full, plan, seed=3)
    for name, found in values(new).items():
        inner = old.state_dict().get(name)
        assert torch.equal(found, values(full)[name] if inner is None else inner), name
    drawn = {name for name in report.initialized if name in dict(new.named_parameters())}
    assert drawn == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert all(name.startswith("cls.") for name in report.unused)
    assert report.expected == "changed"


def test_a_head_of_another_size_on_a_folder_of_vit(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "image_size": 16, "patch_size": 8}
    old = built(transformers.ViTForImageClassification, transformers.ViTConfig(**sizes, num_labels=5))
    new = built(transformers.ViTForImageClassification, transformers.ViTConfig(**sizes, num_labels=3), seed=1)
    saved(old, tmp_path)
    with pytest.raises(PlanError, match=r"classifier\.weight: the model has 3 x 32, the checkpoint 5 x 32; grow= can"):
        zeta.adapt_(new, tmp_path, "vit", seed=0)
    zeta.adapt_(new, tmp_path, "vit", seed=0, allow="classifier.*")
    assert torch.equal(new.vit.layernorm.weight, old.vit.layernorm.weight)
    full = copy.deepcopy(new)
    zeta.init_(full, "vit", seed=0)
    assert torch.equal(new.classifier.weight, full.classifier.weight)


def test_everything_that_does_not_fit_is_one_error_and_nothing_changes() -> None:
    old, new = mlp(out=5), mlp(seed=1)
    state = {name.replace("0.", "body."): tensor for name, tensor in old.state_dict().items()}
    before = values(new)
    with pytest.raises(PlanError) as raised:
        zeta.adapt_(new, state, seed=0)
    text = str(raised.value)
    assert "0.weight: is not in the checkpoint; how= says what it gets" in text
    assert "2.weight: the model has 3 x 8, the checkpoint 5 x 8" in text
    assert "body.weight: is in the checkpoint, and nothing in the model takes it" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in new.state_dict().items())


def test_names_are_suggested() -> None:
    model = nn.Sequential()
    model.add_module("layers", nn.ModuleList([nn.Linear(2, 2)]))
    with pytest.raises(PlanError, match=r"layer\.0\.weight; did you mean 'layers\.0\.weight'\?: is in the"):
        zeta.adapt_(model, {"layer.0.weight": torch.ones(2, 2), "layers.0.bias": torch.ones(2)}, seed=0)


def test_prefix_and_name_map() -> None:
    whole = nn.ModuleDict({"body": mlp(), "head": nn.Linear(3, 3)})
    body = mlp(seed=1)
    with pytest.raises(PlanError, match="the checkpoint has all these names inside of 'body': pass prefix= with it"):
        zeta.adapt_(body, whole, seed=0)
    zeta.adapt_(body, whole, seed=0, prefix="body", allow="head.*")
    assert torch.equal(body[0].weight, whole["body"][0].weight)
    other = nn.ModuleDict({"body": mlp(seed=2)})
    with pytest.raises(PlanError, match=r"the checkpoint is of the model's part 'body': pass name_map=\{'body': ''\}"):
        zeta.adapt_(other, body, seed=0)
    zeta.adapt_(other, body, seed=0, name_map={"body": ""})
    assert torch.equal(other["body"][0].weight, body[0].weight)


def test_two_values_for_one_tied_tensor_are_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

    model, weight = Tied(), torch.arange(9.0).view(3, 3)
    zeta.adapt_(model, {"one.weight": weight, "two.weight": weight.clone()}, seed=0)
    assert torch.equal(model.two.weight, weight)
    with pytest.raises(zeta.TargetError, match=r"other values as two\.weight than as one\.weight"):
        zeta.adapt_(model, {"one.weight": weight, "two.weight": weight + 1}, seed=0)
    zeta.adapt_(model, {"two.weight": weight + 2}, seed=0)
    assert torch.equal(model.one.weight, weight + 2)


def test_buffers_are_loaded_and_those_that_are_not_saved_may_be_in_the_checkpoint() -> None:
    old, new = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    old.running_mean.add_(3)  # type: ignore[union-attr, operator]
    old.num_batches_tracked.add_(5)  # type: ignore[union-attr, operator]
    new.register_buffer("scratch", torch.zeros(2), persistent=False)
    zeta.adapt_(new, {**old.state_dict(), "scratch": torch.ones(2)}, seed=0)
    assert torch.equal(new.running_mean, old.running_mean)
    assert int(new.num_batches_tracked) == 5
    assert not new.scratch.any()  # type: ignore[operator]


def test_a_source_that_breaks_while_it_is_read_leaves_a_model_on_meta(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with torch.device("meta"):
        model = mlp()
    path = tmp_path / "model.safetensors"
    save_file(mlp().state_dict(), path)

    def cut(name: str, done: int, total: int) -> None:
        path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(zeta.CheckpointError, match="1 of 4 tensors were loaded before"):
        zeta.adapt_(model, path, seed=0, progress=cut)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_parametrized_weights_are_refused() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(PlanError, match="weight: is parametrized; load it with load_state_dict"):
        zeta.adapt_(model, {"weight": torch.ones(3, 3), "bias": torch.ones(3)}, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grow": [Rows()]}, "grow must map names or globs to Rows, Layers or Experts"),
        ({"grow": {"*": Normal()}}, r"grow must map names or globs to Rows, Layers or Experts, got '\*': Normal"),
        ({"grow": {"nothing": Rows()}}, "grow: 'nothing' names no tensor of the model"),
        ({"how": 3}, "expected Rules"),
        ({"how": Zeros()}, "expected Rules"),
        ({"seed": -1}, "seed"),
        ({"std": 3}, "only recipes have options, got std"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    given = {"seed": 0, **arguments}
    state = {name: tensor for name, tensor in mlp().state_dict().items() if name != "0.bias" or "how" not in arguments}
    with pytest.raises((PlanError, SpecError), match=message):
        zeta.adapt_(mlp(), state, **given)


def test_the_number_of_tokens_of_a_model_inside(tmp_path: Path) -> None:
    """Llava has it in ``text_config``, which is the configuration of its language model."""

    def config(vocabulary: int) -> Any:
        vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        return transformers.LlavaConfig(
            text_config={**llama(vocabulary=vocabulary).to_dict(), "model_type": "llama"},
            image_token_index=1,
            vision_config={**vision, "model_type": "clip_vision_model", "image_size": 8, "patch_size": 4},
        )

    kind = transformers.LlavaForConditionalGeneration
    torch.manual_seed(0)
    kind(config(50)).save_pretrained(tmp_path)
    new = kind(config(50))
    new.model.language_model.embed_tokens, new.lm_head = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False)
    zeta.adapt_(new, tmp_path, Rules([Rule("*", Normal(0.1))]), seed=0, grow={"*embed_tokens.weight": Rows()})
    assert new.config.text_config.vocab_size == 64
    assert new.model.language_model.config.vocab_size == 64
    new.save_pretrained(tmp_path / "new")
    assert kind.from_pretrained(tmp_path / "new").get_input_embeddings().weight.shape == (64, 32)


class Taught(nn.Module):
    """A student, a teacher that is a copy of it, and sizes of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(4, 3)
        self.teacher = copy.deepcopy(self.student)
        self.sizes = nn.Parameter(self.student.weight.detach().norm(dim=1))
        self.head = nn.Linear(3, 2)


def test_what_followed_from_loaded_tensors_is_named() -> None:
    old = nn.Linear(4, 3)
    model, plan = zeta.record(Taught)
    with pytest.warns(zeta.ZetaNotice, match="have loaded values instead") as caught:
        zeta.adapt_(model, old, plan, seed=0, device="cpu", name_map={"student": ""})
    lines = str(caught[0].message).splitlines()[1:]
    assert [line.strip(" -") for line in lines] == [
        "sizes, of student.weight",
        "teacher.weight, of student.weight",
        "teacher.bias, of student.bias",
    ]
    assert torch.equal(model.student.weight, old.weight)  # type: ignore[union-attr, arg-type]


def test_what_is_loaded_with_its_source_or_drawn_with_it_has_no_notice(recwarn: pytest.WarningsRecorder) -> None:
    for names in ((), ("head.weight",), ("student.weight", "student.bias", "teacher.weight", "teacher.bias", "sizes")):
        model, plan = zeta.record(Taught)
        state = {name: value for name, value in Taught().state_dict().items() if name in names}
        zeta.adapt_(model, state, plan, seed=0, device="cpu")
    assert not [one for one in recwarn if issubclass(one.category, zeta.ZetaNotice)]
