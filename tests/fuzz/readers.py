"""What reads files and texts, each with whole documents to start from and what is done with one that is read.

A reader may refuse with a ``ZetaError``. What it takes must work: be shown, be written again, be applied.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from safetensors.torch import save_file
from torch import nn

import zeta
from tests.fuzz import mutate, sources
from tests.fuzz.programs import ODD as PROGRAM_ODD
from tests.fuzz.programs import computed, programs_of
from tests.helpers.check_results import healthy, odd
from tests.helpers.scaled import Gpt
from zeta import Rule, Rules
from zeta.adapting import adapt_folder
from zeta.check.show.serial import from_json, to_json
from zeta.command import options
from zeta.command.loading import load_model
from zeta.command.operands import Building, operands
from zeta.errors import CheckDocumentError
from zeta.fans import Axes
from zeta.initializers import (
    Blocks,
    Constant,
    DeltaOrthogonal,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
    lecun_truncated_normal,
)
from zeta.resolve.entries import Section
from zeta.resolve.plans import Entry, Plan
from zeta.rules.file import read_rules
from zeta.write.checkpoint import INDEX, MANIFEST, TENSORS, Manifest
from zeta.write.checkpoint.journal import JOURNAL, Journal
from zeta.write.checkpoint.manifest import changes
from zeta.write.checkpoint.open_folder import Directory


@dataclass(frozen=True, kw_only=True)
class Reader:
    """``mutated`` makes a document out of chance, ``read`` does with it what a user would; raises ``ZetaError``.

    ``whole`` is a document that must be taken.
    """

    whole: bytes
    mutated: Callable[[random.Random], bytes]
    read: Callable[[bytes], object]


class Net(nn.Module):
    """Something of everything: a tie, a buffer, a convolution, a padding row."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(6, 4, padding_idx=1)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.wte.weight
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
        self.register_buffer("kept", torch.arange(3.0))


RULES = Rules(
    [
        Rule("layers.0.weight", Orthogonal(0.5)),
        Rule("layers.1.weight", Sparse(0.5)),
        Rule("layers.2.weight", lecun_truncated_normal()),
        Rule("layers.3.weight", TruncatedNormal(0.1, low=-0.2, high=0.3)),
        Rule("layers.4.weight", Identity(2.0)),
        Rule("conv.weight", DeltaOrthogonal()),
        Rule("conv.bias", Blocks(Zeros(), Uniform(-0.1, 0.1))),
        Rule("*.bias", Uniform(-0.1, 0.1)),
        Rule("norm.weight", Constant(1.5)),
        Rule("*", Normal(0.02)),
    ]
)


def plain() -> Plan:
    """A plan with every initializer but programs, that keeps a part of a tensor."""
    made = zeta.plan(Net(), RULES)
    section = Section(dim=1, spans=((0, 1), (2, 4)))
    return Plan(tuple(replace(e, section=section) if e.name == "layers.2.weight" else e for e in made))


#: whole plans to start from; one with programs is another item
PLANS: list[Callable[[], Plan]] = [plain]


def readers(folder: Path) -> dict[str, Reader]:
    """Every reader, with files in ``folder`` where it wants some."""
    plans = [make() for make in PLANS]
    documents = [json.loads(plan.to_json()) for plan in plans]
    checks = [to_json(results) for results in (healthy(), odd())]
    one, several = folder / "one", folder / "several"
    zeta.save(Net(), plain(), one, seed=0)
    zeta.save(Net(), plain(), several, seed=0, max_shard_size=700)
    manifest = json.loads((one / MANIFEST).read_text())
    manifests = [{**manifest, "plan": document} for document in documents]
    (folder / "source").mkdir()
    save_file({name: value.clone() for name, value in Net().state_dict().items()}, folder / "source" / TENSORS)
    (folder / "source" / "tokenizer.json").write_text("{}")
    adapt_folder(Net(), folder / "source", folder / "adapted", seed=0, allow="*")
    manifests.append(json.loads((folder / "adapted" / MANIFEST).read_text()))
    request = Manifest.read(one / MANIFEST)
    tensors, index = (one / "model.safetensors").read_bytes(), json.loads((several / INDEX).read_text())
    shards = sorted(several.glob("*.safetensors"))
    entries = [entry for document in documents for entry in document["entries"]]

    def of(*seeds: Any, read: Callable[[bytes], object], odd: Sequence[Any] = mutate.ODD) -> Reader:
        return Reader(
            whole=mutate.dumped(seeds[0]),
            mutated=lambda rng: mutate.document(rng.choice(seeds), rng, odd),
            read=read,
        )

    def in_file(name: str, use: Callable[[Path], object]) -> Callable[[bytes], object]:
        def read(content: bytes) -> object:
            path = folder / name
            path.write_bytes(content)
            return use(path)

        return read

    def in_place(name: str, where: Path, use: Callable[[Path], object]) -> Callable[[bytes], object]:
        original = (where / name).read_bytes()

        def read(content: bytes) -> object:
            try:
                (where / name).write_bytes(content)
                return use(where)
            finally:
                (where / name).write_bytes(original)

        return read

    def verified(name: str, where: Path) -> Callable[[bytes], object]:
        return in_place(name, where, lambda path: str(zeta.verify(path)))

    saved, metadata = sources.archive(), sources.distributed(folder / "distributed")
    return {
        "plan": of(*documents, read=_plan_read),
        "entry": of(*entries, read=lambda content: _mapping(content, Entry.from_json)),
        "initializer": of(
            *(entry["initializer"] for entry in entries),
            read=lambda content: _mapping(content, Initializer.from_json),
        ),
        "program": of(*programs_of(), odd=PROGRAM_ODD, read=lambda content: _mapping(content, computed)),
        "axes": of(
            {"fan_in": [1, 2], "fan_out": [0, 2], "blocks": [[0, 3]], "batch": [3], "lookup": [4]},
            read=lambda content: _mapping(content, Axes.from_json),
        ),
        "plan file": of(
            *documents,
            *manifests,
            read=in_file("plan.json", lambda path: str(operands(str(path), str(one), _BUILDING)[0].plan)),
        ),
        "manifest": of(*manifests, read=verified(MANIFEST, one)),
        "manifest of a copy": of(
            manifests[-1],
            read=in_place(MANIFEST, folder / "adapted", lambda path: str(zeta.verify(path, source=folder / "source"))),
        ),
        "resume state": of(
            *manifests, read=in_file("request.json", lambda path: list(changes(Manifest.read(path), request)))
        ),
        "journal": of(
            {
                "format": "zeta journal 2",
                "files": {"model.safetensors": 11, MANIFEST: 12},
                "earlier": [MANIFEST],
                "states": {"model.safetensors": [100, 1_700_000_000_000_000_000], MANIFEST: [50, 1]},
            },
            read=in_file(JOURNAL, lambda path: _journal(path.parent)),
        ),
        "safetensors": Reader(
            whole=tensors, mutated=lambda rng: _tensors(tensors, rng), read=verified("model.safetensors", one)
        ),
        "one of several": Reader(
            whole=shards[0].read_bytes(),
            mutated=lambda rng: mutate.text(rng.choice(shards).read_bytes(), rng),
            read=verified(shards[0].name, several),
        ),
        "index": of(index, read=verified(INDEX, several)),
        "source in safetensors": Reader(
            whole=tensors, mutated=lambda rng: _tensors(tensors, rng), read=in_file("s.safetensors", sources.read)
        ),
        "source with an index": of(index, read=in_place(INDEX, several, sources.read)),
        "source by torch.save": Reader(
            whole=saved, mutated=lambda rng: sources.mutated_archive(saved, rng), read=in_file("s.pt", sources.read)
        ),
        "metadata of a source": Reader(
            whole=metadata,
            mutated=lambda rng: sources.mutated_pickle(metadata, rng),
            read=in_place(".metadata", folder / "distributed", sources.read),
        ),
        "rules in TOML": Reader(
            whole=_TOML,
            mutated=_toml,
            read=in_file("rules.toml", lambda path: _planned(read_rules(path, Net()))),
        ),
        "rules in JSON": of(*_RULES, read=in_file("rules.json", lambda path: _planned(read_rules(path, Net())))),
        "hf configuration": of(
            _CONFIGURATION,
            read=in_file("config.json", lambda path: load_model(f"hf:{path}", {}, "meta")),
            odd=_SMALL,
        ),
        "arguments": of(
            {"n_layer": 2, "sizes": [1, 2], "deep": {"a": {"b": None}}},
            read=lambda content: options.arguments_of(content.decode(errors="surrogateescape")),
        ),
        "scaling": of(*scalings(), read=_scaling_read),
        "check report": of(*checks, read=lambda content: _mapping(content, from_json)),
    }


_BUILDING = Building(kwargs={}, dtype=None, fallback=None)


def _plan_read(content: bytes) -> object:
    plan = Plan.from_json(content)
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again.to_json() == text
    str(plan), str(zeta.diff(plan, plain())), plan.nbytes
    model = Net()
    return str(zeta.apply_(model, plan, seed=0)), zeta.verify(model, plan, seed=0).ok


def scalings() -> list[Any]:
    """Whole documents of scalings: of a model with every class and multiplier, and one that absorbs these."""
    base, target = {"width": 4, "layers": 1}, {"width": 8, "layers": 2}
    made = [
        zeta.scale(partial(Gpt, tied=True, experts=2), base, target, "completep", alpha=0.75),
        zeta.scale(Gpt, base, target, "completep", multipliers=False),
        zeta.scale(Gpt, base, target, "spectral", depth="deepnorm"),
    ]
    return [json.loads(each.to_json()) for each in made]


def _scaling_read(content: bytes) -> object:
    scaling = zeta.Scaling.from_json(content)
    text = scaling.to_json()
    again = zeta.Scaling.from_json(text)
    assert again.to_json() == text
    assert again == scaling
    for optimizer in ("adamw", "adam", "sgd", "lion", "adafactor"):
        scaling.text(optimizer=optimizer)
    model = Gpt(8, 2, tied=True, experts=2) if any("router" in row.name for row in scaling.rows) else Gpt(8, 2)
    zeta.init_(model, scaling, seed=0)
    scaling.apply_multipliers_(model)
    for optimizer in ("adamw", "adam", "sgd", "lion", "adafactor"):
        scaling.param_groups(model, optimizer, lr=0.1, weight_decay=0.1)
    scaling.muon_groups(model, lr=0.1, adamw_lr=0.1)
    return str(scaling), repr(scaling), scaling._repr_html_()


def _journal(folder: Path) -> object:
    with Directory.open(folder) as partial:
        return Journal.read(partial)


def _planned(rules: Rules) -> object:
    model = Net()
    plan = zeta.plan(model, rules)
    return str(plan), str(zeta.apply_(model, plan, seed=0))


def _mapping(content: bytes, read: Callable[[Any], object]) -> object:
    """Read what is JSON at all, as whoever calls with a dictionary has parsed it already."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise CheckDocumentError("no JSON") from None
    return repr(read(data))


def _tensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose length, header or bytes are changed."""
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.3:
        return mutate.text(content, rng)
    header = mutate.document(json.loads(content[8 : 8 + size]), rng)
    length = len(header) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, size))
    return length.to_bytes(8, "little") + header + content[8 + size :]


_RULES: list[Any] = [
    {
        "rules": [
            {"name": "*.bias", "initializer": "Zeros"},
            {"kind": "norm_scale", "initializer": {"name": "Constant", "value": 1.0}},
            {"regex": r"layers\.\d+\.weight", "ndim": 2, "residual": True,
             "initializer": {"name": "Normal", "std": 0.02}},
            {"shape": [4, "*", 3, 3], "initializer": {"name": "kaiming_normal", "mode": "fan_out", "a": 0.1,
                                                      "nonlinearity": "leaky_relu"}},
            {"name": "{wte,head}.weight", "initializer": {"name": "Orthogonal", "gain": 1.0}, "optional": True,
             "axes": {"fan_in": [1], "fan_out": [0]}},
            {"module": "BatchNorm2d", "initializer": "Ones", "optional": True, "label": "scales"},
            {"name": "*.gates", "optional": True,
             "initializer": {"name": "Blocks", "i": "Zeros", "f": {"name": "Constant", "value": 1},
                             "g": "Ones", "o": "Ones"}},
            {"name": "*.halves", "optional": True,
             "initializer": {"name": "Blocks", "parts": ["Zeros", {"name": "Normal", "std": 0.1}], "dim": 1}},
            {"name": "{kept,none}", "initializer": "Keep", "buffers": True, "optional": True},
            {"name": "*", "initializer": {"name": "xavier_uniform", "gain": 2}, "optional": True},
        ]
    }
]  # fmt: skip

_TOML = b"""# rules
[[rules]]
name = "*.bias"
initializer = "Zeros"
[[rules]]
regex = 'layers\\.\\d+\\.weight'
ndim = 2
initializer = { name = "Normal", std = 0.02 }
residual = true
[[rules]]
shape = [4, "*", 3, 3]
initializer = { name = "kaiming_normal", mode = "fan_out", nonlinearity = "relu" }
axes.fan_in = [1, 2, 3]
axes.fan_out = [0, 2, 3]
[[rules]]
name = "*"
optional = true
initializer.name = "TruncatedNormal"
initializer.std = 1_0e-2
initializer.cutoff = 3
"""


def _toml(rng: random.Random) -> bytes:
    lines = _TOML.splitlines(keepends=True)
    if rng.random() < 0.4:
        return mutate.text(_TOML, rng)
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(lines))
        head, equals, _ = lines[place].partition(b"=")
        match rng.randrange(4):
            case 0:
                lines[place] = head + equals + rng.choice(_TOML_ODD) + b"\n"
            case 1:
                lines.insert(place, rng.choice(lines))
            case 2:
                lines.insert(place, b"a" + b".a" * rng.choice((1, 300, 30_000)) + b" = 1\n")
            case 3:
                del lines[place]
    return b"".join(lines)


_TOML_ODD = (
    b"1979-05-27T07:32:00Z", b"07:32:00", b"inf", b"-nan", b"1e400", b"9" * 5000, b"0x" + b"f" * 6000, b"[" * 100_000,
    b"{a={a={a={a=1}}}}", b"'''x'''", b'"\\ud800"', b"{}", b"[]", b"-1", b"true", b'"{0..99999999999}"', b'"(((("',
    b'"a{99999999999}"', b'"' + b"(" * 5000 + b")" * 5000 + b'"', b'["x", [1]]', b'{name = "Dirac"}', b'"\\u0000"',
    b'{name = "TruncatedNormal", std = 1e10, low = -0.04, high = 0.04}', b'"norm_scale"', b"10" * 200,
)  # fmt: skip

_CONFIGURATION: Any = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_embd": 8, "n_head": 2,
    "vocab_size": 16, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0, "dtype": "float32",
    "attn_implementation": "kernels-community/flash-attn", "auto_map": {"AutoModel": "somebody/else--model.Net"},
    "trust_remote_code": True, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "summary_type": "cls_index",
    "quantization_config": {"quant_method": "awq", "bits": 4}, "id2label": {"0": "a"}, "task_specific_params": None,
    "activation_function": "gelu_new", "tie_word_embeddings": True, "use_cache": True,
}  # fmt: skip
#: a configuration says how large its model is, and that is built; these sizes are
_SMALL = tuple(value for value in mutate.ODD if not isinstance(value, int | float) or abs(value) < 100)
