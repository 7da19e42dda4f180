"""What transformers' ``from_pretrained`` does not find comes from zeta, in this thread and this block alone."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zeta
from tests.helpers.checkpoints import bert, built, gpt2, saved, t5, transformers
from zeta import Rule, Rules
from zeta.errors import SpecError
from zeta.initializers import Constant, Normal

HEAD = ("classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(built(transformers.BertForMaskedLM, bert()), tmp_path)


def load(folder: Path, **more: Any) -> Any:
    kind = transformers.BertForSequenceClassification
    return kind.from_pretrained(folder, num_labels=3, **more)


def everything(model: Any) -> None:
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.25)


@pytest.mark.parametrize("by", ["recipe", "plan", "rules", "function"])
def test_missing_keys_get_what_a_full_run_gives(folder: Path, by: str) -> None:
    full, plan = zeta.record(transformers.BertForSequenceClassification, bert(num_labels=3))
    rules = Rules([Rule("*.bias", Constant(0.5)), Rule("*", Constant(0.25))])
    how: Any = {"recipe": "bert", "plan": plan, "rules": rules, "function": everything}[by]
    if by == "plan":
        zeta.materialize_(full, plan, 3)
    elif by == "rules":
        full = transformers.BertForSequenceClassification(bert(num_labels=3))
        zeta.init_(full, rules, 3)
    elif by == "recipe":
        full = transformers.BertForSequenceClassification(bert(num_labels=3))
        zeta.init_(full, "bert", 3)
    with zeta.missing_keys(how, seed=3) as reports:
        model = load(folder)
    old = built(transformers.BertForMaskedLM, bert()).state_dict()
    assert {item.name for item in reports[0]} == {*HEAD}
    for name, tensor in model.state_dict().items():
        if name in old:
            assert torch.equal(tensor, old[name]), name
        elif by == "function":
            assert bool((tensor == 0.25).all()), name
        else:
            assert torch.equal(tensor, full.state_dict()[name]), name
    assert model.bert.embeddings.position_ids.tolist() == [[*range(32)]]


def test_a_model_of_which_a_part_is_on_a_disk(folder: Path, tmp_path: Path) -> None:
    """That part is on meta, and not missing."""
    pytest.importorskip("accelerate")
    how = Rules([Rule("*", Normal(0.1))])
    full = transformers.BertForSequenceClassification(bert(num_labels=3))
    zeta.init_(full, how, 3)
    places = {"bert.encoder": "disk", "bert.embeddings": "cpu", "bert.pooler": "cpu", "classifier": "cpu"}
    with zeta.missing_keys(how, seed=3) as reports:
        model = load(folder, device_map=places, offload_folder=str(tmp_path / "offloaded"))
    assert {item.name for item in reports[0]} == {*HEAD}
    assert model.bert.encoder.layer[0].output.dense.weight.is_meta
    assert torch.equal(model.classifier.weight, full.classifier.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_missing_keys_in_a_short_dtype(folder: Path, dtype: torch.dtype) -> None:
    full = transformers.BertForSequenceClassification(bert(num_labels=3)).to(dtype)
    zeta.init_(full, "bert", 3)
    with zeta.missing_keys("bert", seed=3):
        model = load(folder, dtype=dtype)
    assert model.classifier.weight.dtype is dtype
    assert torch.equal(model.classifier.weight, full.classifier.weight)


def test_a_head_of_another_size(tmp_path: Path) -> None:
    old = built(transformers.BertForSequenceClassification, bert(num_labels=5))
    saved(old, tmp_path)
    with zeta.missing_keys("bert", seed=1) as reports:
        model = load(tmp_path, ignore_mismatched_sizes=True)
    assert {item.name for item in reports[0]} == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.bert.pooler.dense.weight, old.bert.pooler.dense.weight)


def test_nothing_missing_writes_nothing(folder: Path) -> None:
    with zeta.missing_keys("bert", seed=3) as reports:
        transformers.BertForMaskedLM.from_pretrained(folder)
    assert reports == []


def test_transformers_is_as_before_even_if_it_raises(folder: Path) -> None:
    method = transformers.PreTrainedModel._initialize_missing_keys
    with pytest.raises(zeta.PlanError, match="no rule matches"), zeta.missing_keys(Rules([Rule("none", Constant(1))])):
        load(folder)
    assert transformers.PreTrainedModel._initialize_missing_keys is method
    with zeta.missing_keys("bert"), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert transformers.PreTrainedModel._initialize_missing_keys is method


def test_inner_blocks_count_and_other_threads_do_not(folder: Path) -> None:
    found: list[Any] = []
    ones, twos = (Rules([Rule("*", Constant(value))]) for value in (1.0, 2.0))
    with zeta.missing_keys(ones):
        thread = threading.Thread(target=lambda: found.append(load(folder)))
        thread.start()
        thread.join()
        with zeta.missing_keys(twos):
            inner = load(folder)
        outer = load(folder)
    assert bool((inner.classifier.weight == 2).all())
    assert bool((outer.classifier.weight == 1).all())
    assert 0.005 < float(found[0].classifier.weight.detach().std()) < 0.04


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3,), "expected rules, the name of a recipe, a plan or a function"), (("bert", -1), "seed")],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message), zeta.missing_keys(*arguments):
        pass


def test_a_block_may_end_in_another_thread() -> None:
    method = transformers.PreTrainedModel._initialize_missing_keys
    block = contextlib.ExitStack()
    block.enter_context(zeta.missing_keys("bert"))
    thread = threading.Thread(target=block.close)
    thread.start()
    thread.join()
    assert transformers.PreTrainedModel._initialize_missing_keys is method


def write(folder: Path, model: Any, state: dict[str, Any]) -> None:
    model.config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_tied_tensor_that_is_missing_under_all_its_names(tmp_path: Path) -> None:
    """transformers ties the others to one of them, whose name is not the canonical one."""
    kind = transformers.T5ForConditionalGeneration
    old, full = built(kind, t5()), kind(t5())
    ties = {"shared.weight", "lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    write(tmp_path, old, {name: tensor for name, tensor in old.state_dict().items() if name not in ties})
    how = Rules([Rule("*", Normal(0.1))])
    zeta.init_(full, how, 3)
    with zeta.missing_keys(how, seed=3):
        model = kind.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.shared.weight is model.decoder.embed_tokens.weight
    assert torch.equal(model.shared.weight, full.shared.weight)


@pytest.mark.parametrize("name", ["transformer.wte.weight", "lm_head.weight"])
def test_a_tied_tensor_that_is_there_under_one_name(tmp_path: Path, name: str) -> None:
    old = built(transformers.GPT2LMHeadModel, gpt2())
    state = {key: tensor for key, tensor in old.state_dict().items() if "wte" not in key and "lm_head" not in key}
    write(tmp_path, old, {**state, name: old.lm_head.weight.detach()})
    with zeta.missing_keys(Rules([Rule("*", Constant(1))]), seed=3):
        model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, old.lm_head.weight)
    assert model.lm_head.weight is model.transformer.wte.weight
