"""The command line: what each command writes, gives and exits with, and how it refuses."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

import zeta
from zeta import Rule, Rules
from zeta.command import options
from zeta.command.cli import app
from zeta.command.requests import DTYPES
from zeta.compute import sampling
from zeta.initializers import Normal, Ones, kaiming_normal
from zeta.rules import kind, regex

NETS = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.emb = nn.Embedding(6, width)
        self.body = nn.Linear(width, 8)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.emb.weight

class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.register_buffer("steps", torch.arange(3.0))

class Unrecorded(Buffered):
    def __init__(self):
        super().__init__()
        self.noise = torch.rand(3)

def large(): return nn.Linear(100, 100)
def number(): return 3
def fails(): raise RuntimeError("no [bold] luck")
def interrupted(): raise KeyboardInterrupt
def leaves(): raise SystemExit(0)
"""
TOML = """
[[rules]]
regex = "(emb|head).weight"
initializer = { name = "Normal", std = 0.25 }
optional = true

[[rules]]
kind = "weight"
initializer = { name = "kaiming_normal", mode = "fan_out" }

[[rules]]
kind = "bias"
initializer = "Ones"
"""
RULES = Rules(
    [
        Rule(regex("(emb|head).weight"), Normal(0.25), optional=True),
        Rule(kind("weight"), kaiming_normal("fan_out")),
        Rule(kind("bias"), Ones()),
    ]
)
FILES = {"model.safetensors", "zeta.json"}


class Tied(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.emb = nn.Embedding(6, width)
        self.body = nn.Linear(width, 8)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.emb.weight


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own folder with ``nets.py`` and ``rules.toml``, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "rules.toml").write_text(TOML, encoding="utf-8")
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in ("nets", "broken"):
        sys.modules.pop(name, None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def init(*more: str, net: str = "Tied", out: str = "out") -> Result:
    return run("init", f"nets.py:{net}", "--rules", "rules.toml", "--out", out, *more)


def plan(*more: str, net: str = "Tied") -> Result:
    return run("plan", f"nets.py:{net}", "--rules", "rules.toml", *more)


def assert_done(result: Result) -> None:
    assert (result.exit_code, result.stderr) == (0, ""), result.output


def assert_refused(result: Result, message: str) -> None:
    """Exit code 2, or 130 after Ctrl-C, and a message on stderr that says what is wrong; no traceback."""
    assert result.exit_code == (130 if "zeta: interrupted; " in result.stderr else 2), result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stderr.startswith("zeta: ")
    assert re.search(message, result.stderr), result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}


def state(seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    model = Tied(**sizes)
    zeta.init_(model, RULES, seed=seed)
    return model.state_dict()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_writes_what_the_python_function_gives(here: Path) -> None:
    result = init("--seed", "7")
    assert_done(result)
    assert {path.name for path in (here / "out").iterdir()} == FILES
    assert same(load_file("out/model.safetensors"), state(7))
    table, summary, *paths, check = result.stdout.rstrip().rsplit("\n", 4)
    assert check.startswith("not checked: no batch can be made from the model's configuration; give --batch")
    assert table == str(zeta.plan(Tied(), RULES))
    assert re.fullmatch(r"3 tensors written: 64 values, 256 B in [\d.]+ s \(seed 7, .*\); all as planned", summary)
    assert paths == [str(Path("out") / name) for name in sorted(FILES)]


def test_init_json() -> None:
    result = init("--seed", "7", "--json")
    assert_done(result)
    found, model = json.loads(result.stdout), Tied()
    decided = zeta.plan(model, RULES)
    expected = json.loads(zeta.apply_(model, decided, seed=7).to_json())
    assert found["report"] == {**expected, "seconds": found["report"]["seconds"]}
    assert found["plan"] == json.loads(decided.to_json())
    assert found["check"] == {
        "skipped": "no batch can be made from the model's configuration; give --batch path/to/batch.py:fn"
    }
    assert [Path(path) for path in found["files"]] == [Path("out") / name for name in sorted(FILES)]


@pytest.mark.parametrize(("text", "seed"), [("0x10", 16), (str(2**64 - 1), 2**64 - 1), ("0", 0)])
def test_seeds(text: str, seed: int) -> None:
    assert_done(init("--seed", text))
    assert same(load_file("out/model.safetensors"), state(seed))
    manifest = json.loads(Path("out/zeta.json").read_text())
    assert (manifest["seed"], manifest["model"]) == (seed, "nets.py:Tied")


def test_a_random_seed_is_recorded() -> None:
    seeds = [json.loads(init("--seed", "random", "--json", "--force").stdout)["report"]["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert json.loads(Path("out/zeta.json").read_text())["seed"] == seeds[1]
    assert same(load_file("out/model.safetensors"), state(seeds[1]))


@pytest.mark.parametrize(("options", "buffer"), [((), torch.float32), (("--cast-buffers",), torch.bfloat16)])
def test_buffers_keep_their_dtype_unless_asked(options: tuple[str, ...], buffer: torch.dtype) -> None:
    given = CliRunner().invoke(app, ["init", "nets.py:Buffered", "--out", "out", "--dtype", "bfloat16", *options])
    assert_done(given)
    saved = load_file("out/model.safetensors")
    assert {name: tensor.dtype for name, tensor in saved.items()} == {
        "body.weight": torch.bfloat16,
        "body.bias": torch.bfloat16,
        "steps": buffer,
    }


def test_dtype_rounds_the_same_values() -> None:
    assert_done(init("--dtype", "bfloat16"))
    assert same(load_file("out/model.safetensors"), {name: value.bfloat16() for name, value in state().items()})


def test_kwargs_reach_the_callable() -> None:
    assert_done(init("--kwargs", '{"width": 5}'))
    assert same(load_file("out/model.safetensors"), state(width=5))


@pytest.mark.parametrize(("option", "names"), [((), {"emb", "head"}), (("--drop-ties",), {"emb"})])
def test_ties(option: tuple[str, ...], names: set[str]) -> None:
    assert_done(init(*option))
    assert {name.split(".")[0] for name in load_file("out/model.safetensors")} == names | {"body"}


def test_buffers_have_the_values_of_the_constructor(here: Path) -> None:
    result = init("--device", "cpu", "--json", net="Buffered")
    assert_done(result)
    assert json.loads(result.stdout)["report"]["kept"] == ["steps"]
    assert load_file("out/model.safetensors")["steps"].tolist() == [0, 1, 2]
    assert_done(run("verify", "out"))
    result = init("--json", "--force", net="Buffered")  # on meta: the constructor is recorded
    assert_done(result)
    assert json.loads(result.stdout)["report"]["kept"] == []
    assert load_file("out/model.safetensors")["steps"].tolist() == [0, 1, 2]
    assert_done(run("verify", "out"))


def test_buffers_that_cannot_be_recorded_need_a_real_device(here: Path) -> None:
    assert_refused(init(net="Unrecorded"), r"cannot be recorded \((.|\n)*--device cpu:\s+- steps")
    assert not (here / "out").exists()
    assert_done(init("--device", "cpu", net="Unrecorded"))


def test_files_of_an_earlier_run_stay_unless_forced(here: Path) -> None:
    init("--seed", "1")
    before = contents(here)
    assert_refused(init("--seed", "2"), r"out already has model.safetensors and zeta.json; .*\(--force\)")
    assert contents(here) == before
    assert_done(init("--seed", "2", "--force"))
    assert same(load_file("out/model.safetensors"), state(2))
    assert_done(run("verify", "out"))


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, Tensor], Tensor]], None]:
    """Let a function (number of the tile, tile) decide what is written."""
    original, count = sampling.fill_, iter(range(1000))

    def replace(change: Callable[[int, Tensor], Tensor]) -> None:
        def spoilt(requests: Sequence[sampling.Request]) -> None:
            original(requests)
            for request in requests:
                request.outs[0].copy_(change(next(count), request.outs[0]))

        monkeypatch.setattr(sampling, "fill_", spoilt)

    return replace


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"cannot write to \S+: No space left on device; nothing was left there",
        ),
        (KeyboardInterrupt(), "interrupted; nothing was left half-written"),
        (zeta.TargetError("the middle"), "the middle"),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing_behind(
    error: BaseException, message: str, here: Path, spoil: Callable[[Any], None]
) -> None:
    init("--seed", "1", out="old")
    before = contents(here)

    def fail_late(number: int, tile: Tensor) -> Tensor:
        if number % 3 == 2:
            raise error
        return tile

    spoil(fail_late)
    assert_refused(init(out="new/deep"), message)
    assert_refused(init("--force", out="old"), message)
    assert contents(here) == before
    assert not (here / "new").exists()


def test_several_files(here: Path) -> None:
    result = init("--max-shard-size", "100B")
    assert_done(result)
    names = {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)} | {"model.safetensors.index.json", "zeta.json"}
    assert set(contents(here / "out")) == names
    assert all(f"out/{name}" in result.stdout for name in names)
    assert_done(run("verify", "out"))
    again = init("--force", "--json", "--max-shard-size", "1 GB")
    assert json.loads(again.stdout)["files"] == ["out/model.safetensors", "out/zeta.json"]
    assert_refused(init("--max-shard-size", "100", out="new"), "max_shard_size must be .*, got '100'")
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("error", "message"), [(KeyboardInterrupt(), "^zeta: interrupted; "), (zeta.TargetError("the middle"), "middle; ")]
)
def test_an_interrupted_run_says_what_it_left_and_goes_on(
    error: BaseException, message: str, here: Path, spoil: Callable[[Any], None]
) -> None:
    def fail_late(number: int, tile: Tensor) -> Tensor:
        if number == 2:
            raise error
        return tile

    spoil(fail_late)
    assert_refused(init("--max-shard-size", "100B"), rf"{message}what is written stays in out/\.zeta-partial")
    assert_refused(init("--max-shard-size", "1MB"), "asked for something else")
    result = init("--max-shard-size", "100B")
    assert_done(result)
    assert "of it found from an interrupted run" in result.stdout
    assert_done(run("verify", "out"))


def test_values_that_are_not_as_planned_exit_with_1(spoil: Callable[[Any], None]) -> None:
    spoil(lambda number, tile: tile * 1.1)
    result = init(net="large")
    assert (result.exit_code, result.stderr) == (1, "")
    assert re.search(r"^weight: std 0\.15\d+, planned 0\.141421: .* standard errors$", result.stdout, re.MULTILINE)
    assert "2 NOT as planned" in result.stdout
    as_json = json.loads(init("--force", "--json", net="large").stdout)["report"]
    spoil(lambda number, tile: tile)
    assert run("verify", "out").exit_code == 1
    assert as_json["ok"] is False
    assert [item["name"] for item in as_json["parameters"] if item["findings"]] == ["weight", "bias"]


# -- plan, verify, recipes ---------------------------------------------------------------------------------------------


def test_plan_shows_and_writes_nothing(here: Path) -> None:
    before = contents(here)
    result = plan()
    assert_done(result)
    assert result.stdout == f"{zeta.plan(Tied(), RULES)}\n"
    assert re.search(r"body\.weight +8 x 4 .* 0\.5 +4/8 ", result.stdout), "std sqrt(2 / fan_out)"
    as_json = plan("--json", "--dtype", "float16", "--kwargs", '{"width": 5}', "--device", "cpu")
    assert_done(as_json)
    assert zeta.Plan.from_json(as_json.stdout) == zeta.plan(Tied(5), RULES).with_dtype(torch.float16)
    assert contents(here) == before


def test_verify_finds_a_single_flipped_bit() -> None:
    init("--seed", "5")
    good = run("verify", "out")
    assert_done(good)
    assert good.stdout == "verified: 4 tensors equal, bit by bit, those of seed 5\n"
    path = Path("out/model.safetensors")
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little") + header["body.weight"]["data_offsets"][0]
    data[start + 4 * (2 * 4 + 3)] ^= 1  # the lowest bit of element [2, 3]
    path.write_bytes(data)
    bad = run("verify", "out")
    assert (bad.exit_code, bad.stderr) == (1, "")
    assert re.match(r"body\.weight: 1 element\(s\) differ, first at \[2, 3\]: found \S+, expected \S+\n", bad.stdout)
    as_json = run("verify", "out", "--json")
    assert as_json.exit_code == 1
    found = json.loads(as_json.stdout)
    assert found == zeta.verify("out").as_dict()
    assert (found["ok"], found["differences"][0]["first"], found["compared"]) == (False, [2, 3], 4)


def test_verify_finds_missing_and_surplus_bytes() -> None:
    init()
    path = Path("out/model.safetensors")
    for change in (lambda data: data[:-1], lambda data: data + b"\0"):
        data = path.read_bytes()
        path.write_bytes(change(data))
        result = run("verify", "out")
        assert (result.exit_code, result.stderr) == (1, "")
        assert result.stdout.startswith("model.safetensors: ")
        path.write_bytes(data)
    assert_refused(run("verify", str(path)), f"{path} is a file; give the folder with its zeta.json, out")
    path.unlink()
    assert_refused(run("verify", "out"), "model.safetensors does not exist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist: out was not written by zeta"),
        ("{", "cannot be read"),
        ("[]", "cannot be read as a manifest: Expected `object`, got `array`"),
        ('{"format": "zeta manifest 0"}', "is not a manifest"),
        ('{"format": "zeta manifest 1", "stream": 0}', "stream version 0; this zeta has version 1"),
        ('{"format": "zeta manifest 1", "stream": 1.0}', "stream version 1.0; this zeta has version 1"),
        ('{"format": "zeta manifest 1", "stream": true}', "stream version True; this zeta has version 1"),
        ('{"format": "zeta manifest 1", "stream": 1, "seed": -1}', "damaged: Object missing required field"),
        ('{"format": "zeta manifest 1", "stream": 1}', "damaged"),
    ],
)
def test_verify_refuses_what_is_no_manifest(text: str | None, message: str) -> None:
    Path("out").mkdir()
    if text is not None:
        Path("out/zeta.json").write_text(text)
    assert_refused(run("verify", "out"), message)


@pytest.mark.parametrize(
    ("key", "value"), [("kept_sha256", "x"), ("name", ["emb"]), ("shape", "x"), ("shape", [None, 4]), ("ties", [[1]])]
)
def test_verify_refuses_a_damaged_manifest(key: str, value: Any) -> None:
    init()
    path = Path("out/zeta.json")
    manifest = json.loads(path.read_text())
    (manifest if key in manifest else manifest["plan"]["entries"][0])[key] = value
    path.write_text(json.dumps(manifest))
    assert_refused(run("verify", "out"), "zeta.json is damaged")


def test_recipes() -> None:
    result, as_json = run("recipes"), run("recipes", "--json")
    assert_done(result)
    assert_done(as_json)
    found = json.loads(as_json.stdout)
    assert {family: sorted(about) for family, about in found.items()} == zeta.recipes.families()
    families = result.stdout.split("\n\n")
    assert [family.splitlines()[0] for family in families] == list(found)
    for family, about in zip(families, found.values(), strict=True):
        assert dict(line.split(maxsplit=1) for line in family.splitlines()[1:]) == about
    named = [name for about in found.values() for name in about]
    assert sorted(named) == zeta.recipes.names()
    assert all(text.endswith(".") for about in found.values() for text in about.values())


@pytest.mark.parametrize("name", zeta.recipes.names())
def test_the_rules_of_a_recipe(name: str) -> None:
    result, as_json = run("recipes", "show", name), run("recipes", name, "--json")
    assert_done(result)
    assert_done(as_json)
    found = json.loads(as_json.stdout)
    assert (found["name"], found["summary"]) == (name, zeta.recipes.summary(name))
    assert found["options"] == zeta.recipes.options(name)
    rules = zeta.recipes.rules_for(name, nn.Module())
    assert [rule["where"] for rule in found["rules"]] == [rule.label for rule in rules]
    for shown, rule in zip(found["rules"], rules, strict=True):
        assert shown["by_parameter"] is not isinstance(rule.initializer, zeta.Initializer)
        assert shown["by_parameter"] or shown["initializer"] == repr(rule.initializer)
    rest = " ".join(result.stdout.split())
    assert found["summary"] in rest
    assert all(" ".join(rule["where"].split()) in rest for rule in found["rules"])
    assert f"zeta recipes show {name} MODEL shows the values" in rest
    assert all(len(line) <= 80 or "  " in line.strip() or "─" in line for line in result.stdout.splitlines())


GPT = ("examples/gpt.py:gpt2", "--kwargs", '{"n_layer": 2}')


def test_a_recipe_and_its_plan_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    result, alone = run("recipes", "show", "gpt2", *GPT), run("recipes", "gpt2")
    assert_done(result)
    assert result.stdout.startswith(alone.stdout)
    assert "h.{0..1}.mlp.c_proj.weight" in result.stdout
    as_json = json.loads(run("recipes", "show", "gpt2", *GPT, "--json").stdout)
    assert as_json["name"] == "gpt2"
    assert as_json["plan"] == json.loads(run("plan", *GPT, "--recipe", "gpt2", "--json").stdout)


def test_options_of_a_recipe() -> None:
    Path("nets.py").write_text(RESIDUAL)
    norm = {True: "Zeros", False: "Ones"}
    for zero, given in (
        (False, ()),
        (True, ("--option", "zero_init_residual=true")),
        (False, ("--option", "zero_init_residual=false")),
    ):
        result = run("plan", "nets.py:Net", "--recipe", "resnet", *given, "--json")
        assert_done(result)
        initializers = {entry["name"]: entry["initializer"]["name"] for entry in json.loads(result.stdout)["entries"]}
        assert initializers["0.bn2.weight"] == norm[zero]


RESIDUAL = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)


def Net():
    return nn.Sequential(Block())
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recipes", "nope"), "unknown recipe 'nope': expected one of "),
        (("recipes", "show", "gpt"), "did you mean 'gpt2'?"),
        (("recipes", "show"), "expected zeta recipes show NAME [MODEL], got show"),
        (("recipes", "show", "gpt2", "nets.py:Net", "more"), "expected zeta recipes show NAME [MODEL], got show gpt2"),
        (("recipes", "show", "resnet", "--option", "a=1"), "--option is for a plan; give the model"),
        (("plan", "nets.py:Net", "--option", "a=1"), "--option is an option of a recipe; give --recipe too"),
        (("plan", "nets.py:Net", "--recipe", "resnet", "--option", "a"), "--option must be KEY=VALUE, such as "),
        (
            ("plan", "nets.py:Net", "--recipe", "resnet", "--option", "zero_init=true"),
            "the recipe 'resnet' has no option 'zero_init'; its options are zero_init_residual; did you mean "
            "'zero_init_residual'?",
        ),
        (("plan", "nets.py:Net", "--recipe", "nerf", "--option", "a=1"), "has no option 'a', or any other"),
        (
            ("plan", "nets.py:Net", "--recipe", "resnet", "--option", "zero_init_residual=yes"),
            "the recipe 'resnet': zero_init_residual must be True or False, got 'yes'",
        ),
    ],
)
def test_what_recipes_refuse(arguments: tuple[str, ...], message: str) -> None:
    Path("nets.py").write_text(RESIDUAL)
    assert_refused(run(*arguments), re.escape(message))


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        ("bf16 BF16 bfloat16 torch.bfloat16", torch.bfloat16),
        ("fp16 f16 half float16 torch.float16 torch.half", torch.float16),
        ("fp32 F32 float float32 torch.float32", torch.float32),
        ("fp64 f64 double float64", torch.float64),
        ("fp8_e4m3 F8_E4M3 float8_e4m3fn", torch.float8_e4m3fn),
        ("f8_e5m2 torch.float8_e5m2", torch.float8_e5m2),
    ],
)
def test_the_usual_names_of_dtypes(names: str, dtype: torch.dtype) -> None:
    assert {options.dtype_of(name) for name in names.split()} == {dtype}
    assert options.dtype_of(None) is None


def test_the_names_that_completion_offers_are_dtypes() -> None:
    assert all(options.dtype_of(name) is getattr(torch, DTYPES[name]) for name in DTYPES)


@pytest.mark.parametrize(
    ("recipe", "spec", "kwargs", "name", "std"),
    [
        ("torch", "torch.nn:Linear", {"in_features": 4, "out_features": 5}, "bias", 0.5 / 3**0.5),
        (
            "gpt2",
            "examples.gpt:gpt2",
            {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 8},
            "h.1.mlp.c_proj.weight",
            0.01,
        ),
    ],
)
def test_recipes_are_used_by_name(recipe: str, spec: str, kwargs: dict[str, int], name: str, std: float) -> None:
    result = run("plan", spec, "--recipe", recipe, "--kwargs", json.dumps(kwargs), "--json")
    assert_done(result)
    stds = {entry["name"]: entry["std"] for entry in json.loads(result.stdout)["entries"]}
    assert stds[name] == pytest.approx(std, rel=1e-12)


@pytest.mark.parametrize(
    ("architectures", "prefix"),
    [({"architectures": ["GPT2Model"]}, ""), ({"architectures": None}, "transformer."), ({}, "transformer.")],
)
def test_transformers_configuration(architectures: dict[str, Any], prefix: str, here: Path) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 8}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    (here / "config.json").write_text(json.dumps({**config, **tokens, **architectures}))
    for spec in ("hf:config.json", "hf:."):
        result = run("plan", spec, "--recipe", "gpt2", "--json", "--kwargs", '{"n_layer": 8}')
        assert_done(result)
        entries = {entry["name"]: entry for entry in json.loads(result.stdout)["entries"]}
        assert entries[f"{prefix}h.7.attn.c_proj.weight"]["std"] == pytest.approx(0.02 / 4, rel=1e-12)
        assert entries[f"{prefix}wte.weight"]["ties"] == (["lm_head.weight"] if prefix else [])


def test_what_is_no_transformers_configuration(here: Path) -> None:
    pytest.importorskip("transformers")
    for text, message in (
        ('{"n_layer": 2}', "it has no model_type"),
        ("{", "cannot read"),
        ("[]", "has no model_type"),
    ):
        (here / "config.json").write_text(text)
        assert_refused(run("plan", "hf:config.json", "--recipe", "gpt2"), message)
    assert_refused(run("plan", "hf:missing.json", "--recipe", "gpt2"), "cannot read the configuration missing.json")


# -- wrong use ---------------------------------------------------------------------------------------------------------

R = ("--rules", "rules.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nets.py:Tied", *R, "--recipe", "gpt2"), "give one of them"),
        (("nets.py:Tied", *R, "--fallback", "real"), "--fallback is for recording; .* add a rule instead"),
        (
            ("nets.py:Tied", "--recipe", "gpt3"),
            "unknown recipe 'gpt3': expected one of bert, ",
        ),
        (("nets.py", *R), "cannot tell what model 'nets.py' is: expected path/to/file.py:callable"),
        (("nets.py:", *R), "cannot tell"),
        ((":Tied", *R), "cannot tell"),
        (("none.py:Tied", *R), "no such file: none.py"),
        (("nets.py:Tide", *R), "nets.py has no callable 'Tide'; it defines Buffered, Tied, Unrecorded, fails, "),
        (("no.such.module:Tied", *R), "module 'no.such.module' cannot be imported: ModuleNotFoundError"),
        (("nets.py:number", *R), "nets.py:number returned int, expected a torch.nn.Module"),
        (("nets.py:fails", *R), r"nets.py:fails fails on device 'meta': RuntimeError: no \[bold\] luck"),
        (("nets.py:interrupted", *R), "interrupted"),
        (("nets.py:Tied", *R, "--kwargs", "{"), "--kwargs is not JSON: .*; expected something like"),
        (("nets.py:Tied", *R, "--kwargs", "[1]"), r"--kwargs must be a JSON object, got \[1\]"),
        (("nets.py:Tied", *R, "--kwargs", '{"size": 1}'), "TypeError: .*unexpected keyword argument 'size'"),
        (("nets.py:Tied", *R, "--device", "cuda"), "--device must be meta or cpu, got 'cuda'"),
        (("nets.py:Tied", *R, "--dtype", "float31"), "--dtype: unknown dtype 'float31'; expected one such as bfloat16"),
        (("nets.py:Tied", *R, "--cast-buffers"), "--cast-buffers extends --dtype to buffers; give --dtype too"),
        (("nets.py:Tied", *R, "--dtype", "int8"), "--dtype must be a floating-point dtype, got 'int8'"),
        (("nets.py:Tied", "--rules", "none.toml"), "no such rule file: none.toml"),
        (("nets.py:Tied", "--rules", "."), r"rule file \. cannot be read: is a folder, expected a regular file"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "init"])
def test_wrong_use(command: str, arguments: tuple[str, ...], message: str, here: Path) -> None:
    before = contents(here)
    result = run(command, *arguments, *(("--out", "out") if command == "init" else ()))
    assert_refused(result, message)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert contents(here) == before
    assert not (here / "out").exists()


@pytest.mark.parametrize("seed", ["-1", str(2**64), "1.5", "", "seven", "nan"])
def test_wrong_seeds(seed: str, here: Path) -> None:
    assert_refused(init("--seed", seed), r"seed must be .* from 0 to 2\^64 - 1")
    assert not (here / "out").exists()


@pytest.mark.parametrize("out", ["nets.py", "nets.py/deep"])
def test_a_file_in_the_way(out: str, here: Path) -> None:
    before = contents(here)
    assert_refused(init(out=out), f"cannot write to {out}: ")
    assert contents(here) == before


def test_no_name_is_not_the_current_folder(here: Path) -> None:
    """As of a shell's variable that is not set."""
    before = contents(here)
    result = init(out="")
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert (result.exit_code, "it is empty, expected the name of a folder" in shown) == (2, True)
    assert contents(here) == before


def test_a_model_that_exits() -> None:
    assert_refused(init(net="leaves"), "SystemExit")


def test_everything_wrong_is_listed_at_once(here: Path) -> None:
    (here / "rules.toml").write_text('[[rules]]\nname = "*.wieght"\ninitializer = "Zeros"\n')
    result = plan()
    assert_refused(
        result, r"no rule matches these parameters.*\n  - emb.weight 6 x 4, kind embedding, in Embedding, tied"
    )
    assert "rule 1 (*.wieght): no parameter is named *.wieght; did you mean '*.weight'?" in result.stderr
    assert all(name in result.stderr for name in ("head.weight", "body.weight", "body.bias"))


def test_a_rule_file_with_a_number_for_a_name(here: Path) -> None:
    (here / "rules.toml").write_text('[[rules]]\nname = 5\ninitializer = "Zeros"\n')
    assert_refused(plan(), "rule 1: .*5")


def test_debug_shows_the_traceback() -> None:
    result = plan("--debug", "--recipe", "gpt2")
    assert isinstance(result.exception, zeta.ZetaError)
    assert run("verify", "none", "--debug").exception.__class__ is zeta.CheckpointError


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("init", "nets.py:Tied"), ("plan",), ("verify",), ("verify", "a", "b"), ("doctor", "--x")]
)
def test_unknown_commands_and_options(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr
