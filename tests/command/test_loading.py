"""Finding and building the model that the command line names."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from zeta.adapting.configuration import without_foreign_code
from zeta.command.loading import load_model
from zeta.errors import UsageError, ZetaNotice

NETS = """
from __future__ import annotations
import functools
from dataclasses import dataclass
from torch import nn
from torch.nn import Bilinear

if __name__ == "__main__":
    raise RuntimeError("run as a script")

@dataclass
class Sizes:
    inputs: int = 2
    outputs: int = 3

class Net(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.sizes = Sizes(**sizes)
        self.body = nn.Linear(self.sizes.inputs, self.sizes.outputs)

class Maker:
    def __call__(self, width=4):
        return nn.Linear(width, width)

def net(): return Net(inputs=7)
def _hidden(): return Net()
def nothing(): pass
def a_class(): return Net
def leaves(): raise SystemExit("enough")
def breaks(): raise ValueError("no luck")
def interrupted(): raise KeyboardInterrupt
partial = functools.partial(Net, outputs=9)
maker = Maker()
lambda_ = lambda: nn.Linear(1, 2)
constant = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own current folder with ``nets.py``; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).resolve().is_relative_to(tmp_path.resolve()):
            del sys.modules[name]


def shape(spec: str, device: str = "meta", **kwargs: Any) -> list[int]:
    """The shape of the model's first parameter."""
    return list(next(load_model(spec, kwargs, device).parameters()).shape)


def refusal(spec: str, device: str = "meta", **kwargs: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(spec, kwargs, device)
    return str(caught.value)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("Net", {}, [3, 2]),
        ("Net", {"inputs": 5, "outputs": 4}, [4, 5]),
        ("net", {}, [3, 7]),
        ("partial", {"inputs": 8}, [9, 8]),
        ("maker", {"width": 6}, [6, 6]),
        ("lambda_", {}, [2, 1]),
        ("_hidden", {}, [3, 2]),
        ("Bilinear", {"in1_features": 2, "in2_features": 3, "out_features": 4}, [4, 2, 3]),
    ],
)
def test_any_callable_of_a_file_builds_a_model(name: str, kwargs: dict[str, Any], expected: list[int]) -> None:
    assert shape(f"nets.py:{name}", **kwargs) == expected


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_model_is_built_on_the_device(device: str) -> None:
    model = load_model("nets.py:Net", {}, device)
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    assert torch.empty(1).device.type == "cpu"


@pytest.mark.parametrize("folder", ["deep/er", "with space", "a:b", "重み", "dot.py"])
def test_a_file_anywhere(folder: str, here: Path) -> None:
    (here / folder).mkdir(parents=True)
    (here / folder / "other.py").write_text("from torch import nn\ndef net(): return nn.Linear(5, 1)\n")
    assert shape(f"{folder}/other.py:net") == [1, 5]
    assert shape(f"{here / folder}/other.py:net") == [1, 5]


def test_a_file_may_import_its_neighbours(here: Path) -> None:
    (here / "deep").mkdir()
    (here / "deep" / "neighbour.py").write_text("WIDTH = 11\n")
    text = "from torch import nn\nfrom neighbour import WIDTH\ndef net(): return nn.Linear(WIDTH, 1)\n"
    (here / "deep" / "main_net.py").write_text(text)
    assert shape("deep/main_net.py:net") == [1, 11]


def test_files_of_the_same_name_are_not_confused(here: Path) -> None:
    for number, folder in enumerate(("one", "two"), 1):
        (here / folder).mkdir()
        text = f"from torch import nn\nWIDTH = {number}\ndef net(): return nn.Linear(WIDTH, 9)\n"
        (here / folder / "same.py").write_text(text)
    assert [shape(f"{folder}/same.py:net") for folder in ("one", "two", "one")] == [[9, 1], [9, 2], [9, 1]]


def test_each_file_of_a_name_is_a_module_of_its_own(here: Path) -> None:
    """Annotations that are texts are looked up in the module that their class names."""
    for folder, size in (("one", "int"), ("two", "float")):
        (here / folder).mkdir()
        text = f"from torch import nn\nSize = {size}\nclass Net(nn.Module):\n    width: 'Size'\n"
        (here / folder / "twin.py").write_text(text)
    kinds = [type(load_model(f"{folder}/twin.py:Net", {}, "meta")) for folder in ("one", "two")]
    assert [get_type_hints(kind)["width"] for kind in kinds] == [int, float]


def test_a_file_that_fails_leaves_no_module(here: Path) -> None:
    (here / "broken.py").write_text("1 / 0\n")
    refusal("broken.py:net")
    assert "broken" not in sys.modules


def test_a_changed_file_is_read_again(here: Path) -> None:
    assert shape("nets.py:Net") == [3, 2]
    (here / "nets.py").write_text("from torch import nn\ndef Net(): return nn.Linear(1, 10)  # longer\n")
    assert shape("nets.py:Net") == [10, 1]


def test_a_file_named_like_a_module_does_not_replace_it(here: Path) -> None:
    (here / "random.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 2)\n")
    assert shape("random.py:net") == [2, 2]
    assert sys.modules["random"] is random


# -- packages ----------------------------------------------------------------------------------------------------------


def test_a_package_in_the_current_folder(here: Path) -> None:
    (here / "own_package" / "sub").mkdir(parents=True)
    (here / "own_package" / "__init__.py").write_text("")
    (here / "own_package" / "sub" / "models.py").write_text(NETS)
    assert shape("own_package.sub.models:Net", inputs=6) == [3, 6]
    assert "own_package.sub.models has no callable 'Nets'; it defines Maker, Net, " in refusal(
        "own_package.sub.models:Nets"
    )


def test_an_installed_package() -> None:
    assert shape("torch.nn:Linear", in_features=4, out_features=8) == [8, 4]
    assert isinstance(load_model("torch.nn.modules.activation:ReLU", {}, "meta"), nn.ReLU)


# -- refusals ----------------------------------------------------------------------------------------------------------

FORMS = "expected path/to/file.py:callable, package.module:callable or hf:path/to/config.json"


@pytest.mark.parametrize("spec", ["", ":", "nets.py", "nets.py:", ":net", "nets"])
def test_a_text_that_names_no_model(spec: str) -> None:
    assert refusal(spec) == f"cannot tell what model {spec!r} is: {FORMS}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.py:net", "no such file: none.py"),
        ("folder.py:net", "no such file: folder.py"),
        ("none:net", "module 'none' cannot be imported: ModuleNotFoundError: No module named 'none'"),
        ("torch.none:net", "module 'torch.none' cannot be imported: ModuleNotFoundError: No module named 'torch.none'"),
        (".nets:Net", "module '.nets' cannot be imported: TypeError: "),
        ("nets.py:constant", "nets.py has no callable 'constant'; it defines Maker, Net, "),
        ("nets.py:Sizes.inputs", "nets.py has no callable 'Sizes.inputs'; it defines"),
        ("nets.py:nothing", "nets.py:nothing returned NoneType, expected a torch.nn.Module"),
        ("nets.py:a_class", "nets.py:a_class returned type, expected a torch.nn.Module"),
        ("nets.py:Sizes", "nets.py:Sizes returned Sizes, expected a torch.nn.Module"),
        ("nets.py:breaks", "nets.py:breaks fails on device 'meta': ValueError: no luck"),
        ("nets.py:leaves", "nets.py:leaves fails on device 'meta': SystemExit: enough"),
    ],
)
def test_what_is_wrong_is_said(spec: str, message: str, here: Path) -> None:
    (here / "folder.py").mkdir()
    assert refusal(spec).startswith(message)


def test_only_what_the_file_defines_for_others_is_suggested() -> None:
    message = refusal("nets.py:Nett")
    names = "Maker Net Sizes a_class breaks interrupted lambda_ leaves maker net nothing"
    assert message.partition("it defines ")[2].split(", ") == names.split()


def test_a_model_that_is_built_already(here: Path) -> None:
    (here / "built.py").write_text("from torch import nn\nmodel = nn.Linear(2, 2)\n")
    assert refusal("built.py:model").startswith("built.py:model is a model that is built already; give its class, or")


def test_a_file_without_callables(here: Path) -> None:
    (here / "bare.py").write_text("from torch import nn\nfrom torch.nn import Linear\nmodel = None\n")
    assert refusal("bare.py:model") == "bare.py has no callable 'model'; it defines none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"def net(:\n", "SyntaxError: invalid syntax"),
        (b"net = '\xff'\n", "SyntaxError: "),
        (b"import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        (b"from torch import no_such_name\n", "ImportError: cannot import name 'no_such_name'"),
        (b"1 / 0\n", "ZeroDivisionError: division by zero"),
        (b"raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize(("spec", "label"), [("bad.py:net", "bad.py"), ("bad:net", "module 'bad'")])
def test_a_file_that_cannot_be_imported(text: bytes, message: str, spec: str, label: str, here: Path) -> None:
    (here / "bad.py").write_bytes(text)
    assert refusal(spec).startswith(f"{label} cannot be imported: {message}")


@pytest.mark.parametrize("spec", ["nets.py:interrupted", "stops.py:net", "stops:net"])
def test_an_interrupt_is_not_an_error_of_the_model(spec: str, here: Path) -> None:
    (here / "stops.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_model(spec, {}, "meta")


def test_the_default_device_stays_after_an_error() -> None:
    for name in ("breaks", "leaves", "nothing"):
        refusal(f"nets.py:{name}", device="meta")
        assert torch.get_default_device().type == "cpu"


# -- transformers ------------------------------------------------------------------------------------------------------

SIZES = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 8}
GPT2 = {"model_type": "gpt2", **SIZES, "bos_token_id": 0, "eos_token_id": 0}
T5 = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 16}


def configuration(here: Path, **data: Any) -> str:
    (here / "config.json").write_text(json.dumps(data))
    return "hf:config.json"


@pytest.mark.parametrize(
    ("config", "architectures", "expected"),
    [
        (GPT2, None, "GPT2LMHeadModel"),
        (GPT2, [], "GPT2LMHeadModel"),
        (GPT2, ["GPT2Model"], "GPT2Model"),
        (GPT2, ["NoSuchModel", "GPT2ForSequenceClassification", "GPT2Model"], "GPT2ForSequenceClassification"),
        (T5, None, "T5Model"),
        (T5, ["T5ForConditionalGeneration"], "T5ForConditionalGeneration"),
    ],
)
def test_the_architecture_of_the_configuration_is_built(
    config: dict[str, Any], architectures: list[str] | None, expected: str, here: Path
) -> None:
    pytest.importorskip("transformers")
    more = {} if architectures is None else {"architectures": architectures}
    model = load_model(configuration(here, **config, **more), {}, "meta")
    assert type(model).__name__ == expected
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["NoSuchModel"], "has no model NoSuchModel, which the configuration names as its architecture"),
        (["One", "Other"], "has no model One or Other, which"),
        (["GPT2PreTrainedModel"], "has no model GPT2PreTrainedModel, which"),
        ("GPT2Model", "architectures must be a list of class names, got 'GPT2Model'"),
        ([3], "architectures must be a list of class names, got [3]"),
    ],
)
def test_an_architecture_that_transformers_lacks_is_not_guessed(named: Any, message: str, here: Path) -> None:
    pytest.importorskip("transformers")
    spec = configuration(here, **GPT2, architectures=named)
    found = refusal(spec)
    assert found.startswith("config.json: ")
    assert message in found
    assert type(load_model(spec, {"architectures": None}, "meta")).__name__ == "GPT2LMHeadModel"


def test_the_dtype_does_not_depend_on_whether_an_architecture_is_named(here: Path) -> None:
    pytest.importorskip("transformers")
    found = [
        {parameter.dtype for parameter in load_model(configuration(here, **GPT2, **more), {}, "meta").parameters()}
        for more in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "architectures": ["GPT2LMHeadModel"]})
    ]
    assert found[0] == found[1] == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_keyword_arguments_choose_the_architecture(here: Path) -> None:
    pytest.importorskip("transformers")
    spec = configuration(here, **GPT2, architectures=["GPT2LMHeadModel"])
    assert type(load_model(spec, {"architectures": ["GPT2Model"]}, "meta")).__name__ == "GPT2Model"


def test_a_configuration_in_a_folder_with_a_colon(here: Path) -> None:
    pytest.importorskip("transformers")
    (here / "a:b").mkdir()
    (here / "a:b" / "config.json").write_text(json.dumps(GPT2))
    assert type(load_model("hf:a:b/config.json", {}, "meta")).__name__ == "GPT2LMHeadModel"


def test_keyword_arguments_change_the_configuration(here: Path) -> None:
    pytest.importorskip("transformers")
    model = load_model(configuration(here, **GPT2), {"n_layer": 3, "n_embd": 4}, "cpu")
    assert len(model.transformer.h) == 3
    assert model.transformer.wte.weight.shape == (16, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt0"}, "config.json: transformers "),
        ({"n_head": 3}, r"hf:config.json fails on device 'meta': ValueError: "),
        ({"n_embd": "wide"}, r"hf:config.json fails on device 'meta': "),
    ],
)
def test_a_senseless_configuration(changes: dict[str, Any], message: str, here: Path) -> None:
    pytest.importorskip("transformers")
    assert refusal(configuration(here, **{**GPT2, **changes})).startswith(message)


def test_transformers_that_lacks_something_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "transformers.py").write_text("import no_such_package\n")
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.syspath_prepend(here)
    message = "transformers cannot be imported: No module named 'no_such_package'"
    assert refusal(configuration(here, **GPT2)) == message


def test_without_transformers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = "hf: models need transformers; install it with pip install transformers"
    assert refusal(configuration(here, **GPT2)) == message


# -- what a configuration names elsewhere ------------------------------------------------------------------------------

ELSEWHERE: dict[str, Any] = {
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "somebody/else@main:run",
    "_attn_implementation_internal": "flash_attention_2",  # fetched from a hub where it is not installed
    "experts_implementation": {"": "somebody/experts"},
    "auto_map": {"AutoModel": "somebody/else--model.Net", "AutoModelForCausalLM": "model.Net"},
    "trust_remote_code": True,
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "somebody/norms"},
    "adapters": {"a": "somebody/adapter"},
    "custom_pipelines": {"x": {"impl": "pipe.Pipe"}},
    "task_specific_params": {"deep": [{"auto_map": "model.Net"}]},
    "model_args": {"checkpoint_path": "weights.pth"},  # timm's create_model unpickles it
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer on which every way to a network or to another's code is an error."""
    import huggingface_hub
    import transformers.dynamic_module_utils

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"went out: {args} {kwargs}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(transformers.dynamic_module_utils, "get_class_from_dynamic_module", refuse)


@pytest.mark.parametrize("key", ELSEWHERE)
@pytest.mark.parametrize("architectures", [None, ["GPT2LMHeadModel"]])
def test_what_lies_elsewhere_is_not_fetched_and_said(
    key: str, architectures: list[str] | None, here: Path, alone: None
) -> None:
    spec = configuration(here, **GPT2, architectures=architectures, **{key: ELSEWHERE[key]})
    with pytest.warns(
        ZetaNotice, match=r"names code or weights from elsewhere, which are not fetched and not run:\n  - "
    ):
        model = load_model(spec, {}, "meta")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in load_model(configuration(here, **GPT2), {}, "meta").named_parameters()
    }


@pytest.mark.parametrize("source", ["hf-hub:somebody/else", "hf_hub:somebody/else", "local-dir:/somewhere"])
@pytest.mark.parametrize("key", ["architecture", "backbone"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_model_of_timm_is_named_alone(source: str, key: str, inside: bool, here: Path, alone: None) -> None:
    given = {"backbone_config": {key: source}} if inside else {key: source}
    message = refusal(configuration(here, **GPT2, **given))
    place = f"backbone_config.{key}" if inside else key
    assert f"{place} is '{source}', which lies elsewhere and is not fetched" in message


def test_arguments_of_timm_are_kept_but_for_files(here: Path) -> None:
    with pytest.warns(ZetaNotice, match=r"model_args.checkpoint_path = 'weights.pth'"):
        kept = without_foreign_code({"model_args": {"checkpoint_path": "weights.pth", "depth": 2}}, "config.json")
    assert kept == {"model_args": {"depth": 2}}


@pytest.mark.parametrize("way", ["eager", "sdpa", None])
def test_ways_of_transformers_itself_are_kept(way: str | None, here: Path) -> None:
    pytest.importorskip("transformers")
    model = load_model(configuration(here, **GPT2, attn_implementation=way), {}, "meta")
    assert model.config._attn_implementation == (way or "sdpa")


def test_hubs_are_out_of_reach_only_while_a_model_is_built(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    from huggingface_hub import constants

    seen = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    built = transformers.GPT2LMHeadModel.__init__

    def looking(*args: Any, **kwargs: Any) -> None:
        seen.append(constants.is_offline_mode())
        built(*args, **kwargs)

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "__init__", looking)
    load_model(configuration(here, **GPT2), {}, "meta")
    assert (seen, constants.is_offline_mode()) == ([True], False)


@pytest.mark.parametrize("name", ["pipeline", "AutoConfig", "__name__", "GPT2Config", "GPT2Tokenizer"])
def test_an_architecture_is_a_model(name: str, here: Path) -> None:
    pytest.importorskip("transformers")
    assert f"has no model {name}, which" in refusal(configuration(here, **GPT2, architectures=[name]))


@pytest.mark.parametrize("model_type", [3, None, ["gpt2"], {"a": 1}])
def test_a_model_type_is_a_text(model_type: Any, here: Path) -> None:
    pytest.importorskip("transformers")
    assert "knows no model_type" in refusal(configuration(here, model_type=model_type))


@pytest.mark.parametrize("inside", [False, True])
def test_labels_are_bounded(here: Path, inside: bool) -> None:
    pytest.importorskip("transformers")
    many = {"num_labels": 2**40}
    given = {"text_config": many} if inside else many
    place = "text_config.num_labels" if inside else "num_labels"
    message = refusal(configuration(here, **{**GPT2, **given}))
    assert message.endswith(f"{place} is 1099511627776, expected at most 1,048,576")


def test_a_configuration_that_is_a_pipe_or_without_end(here: Path) -> None:
    pytest.importorskip("transformers")
    os.mkfifo(here / "config.json")
    assert refusal("hf:config.json") == (
        "cannot read the configuration config.json: is a pipe (FIFO), expected a regular file"
    )
    (here / "deep.json").write_text("[" * 200_000)
    assert "nested more than 100 levels deep" in refusal("hf:deep.json")
    assert "cannot read the configuration" in refusal(f"hf:{'x' * 300}")
