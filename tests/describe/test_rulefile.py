"""Rules out of TOML, JSON and Python files: the same plan in each form, and errors that name file, rule and key."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.errors import UsageError
from zeta.fans import Axes
from zeta.initializers import (
    Constant,
    Dirac,
    Initializer,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    kaiming_uniform,
    lecun_truncated_normal,
    xavier_normal,
)
from zeta.rules import glob, kind, module, ndim, regex, shape
from zeta.rules.file import read_rules

Write = Callable[..., Rules]


CONDITIONS = "name, regex, module, kind, role, shape, ndim"


@pytest.fixture
def read(tmp_path: Path) -> Write:
    def write_and_read(text: str | bytes, suffix: str = ".toml", model: nn.Module | None = None) -> Rules:
        path = tmp_path / f"my_rules{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_rules(path, model or nn.Linear(2, 2))

    return write_and_read


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.h = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(3))
        self.mixer = nn.Parameter(nn.Linear(6, 8).weight.detach())
        self.conv = nn.Conv2d(8, 4, 3)
        self.register_buffer("table", nn.Linear(6, 8).weight.detach())


TOML = r"""
[[rules]]
name = "h.*.2.weight"
initializer = { name = "TruncatedNormal", std = 0.02, cutoff = 3 }
residual = true

[[rules]]
module = "Linear"
shape = ["*", 8]
ndim = 2
initializer = { name = "xavier_normal", gain = 0.5 }

[[rules]]
name = "mixer"
initializer = "lecun_truncated_normal"
axes = { fan_in = [0], fan_out = [1], blocks = [[1, 2]] }

[[rules]]
kind = "norm_scale"
initializer = "Ones"

[[rules]]
regex = '(embed|conv)\.weight'
initializer = { name = "kaiming_uniform", nonlinearity = "leaky_relu", a = 0.2 }

[[rules]]
name = "table"
label = "tables"
buffers = true
initializer = { name = "Constant", value = -2 }

[[rules]]
name = "gates"
optional = true
initializer = { name = "Blocks", i = "Zeros", f = "Ones", o = "Zeros", g = { name = "xavier_normal" } }

[[rules]]
name = "halves"
optional = true
initializer = { name = "Blocks", parts = ["Zeros", { name = "Normal", std = 0.1 }], dim = -1 }

[[rules]]
name = "nowhere"
optional = true
initializer = "Keep"

[[rules]]
name = "*.bias"
kind = "bias"
initializer = "Zeros"
"""

PYTHON = """
from zeta import Rule, Rules
from zeta.fans import Axes
from zeta.initializers import *
from zeta.rules import glob, kind, module, ndim, regex, shape

rules = Rules([
    Rule("h.*.2.weight", lambda m: TruncatedNormal(0.02, cutoff=3) * (2 * m.depth) ** -0.5),
    Rule(module("Linear") & shape(None, 8) & ndim(2), xavier_normal(0.5)),
    Rule("mixer", lecun_truncated_normal(), axes=Axes(fan_in=(0,), fan_out=(1,), blocks=((1, 2),))),
    Rule(kind("norm_scale"), Ones()),
    Rule(regex(r"(embed|conv)\\.weight"), kaiming_uniform(nonlinearity="leaky_relu", a=0.2)),
    Rule("table", Constant(-2), buffers=True, label="tables"),
    Rule("gates", Blocks(Zeros(), Ones(), xavier_normal(), Zeros()), optional=True),
    Rule("halves", Blocks(Zeros(), Normal(0.1), dim=-1), optional=True),
    Rule("nowhere", Keep(), optional=True),
    Rule(glob("*.bias") & kind("bias"), Zeros()),
])
"""


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (TOML, ".toml"),
        (json.dumps(tomllib.loads(TOML)), ".json"),
        (json.dumps(tomllib.loads(TOML)["rules"]), ".json"),
        (PYTHON, ".py"),
        (PYTHON.replace("rules =", "def rules(model):\n  assert model.embed\n  return"), ".py"),
    ],
    ids=["toml", "json", "json_list", "python", "python_function"],
)
def test_every_form_gives_the_plan_of_the_python_form(text: str, suffix: str, read: Write) -> None:
    net = Net()
    expected = {
        "embed.weight": kaiming_uniform(nonlinearity="leaky_relu", a=0.2),
        "h.0.0.weight": xavier_normal(0.5),
        "h.2.2.weight": TruncatedNormal(0.02 / 6**0.5, cutoff=3),
        "h.1.1.weight": Ones(),
        "h.1.1.bias": Zeros(),
        "mixer": lecun_truncated_normal(),
        "conv.weight": kaiming_uniform(nonlinearity="leaky_relu", a=0.2),
        "table": Constant(-2),
    }
    plan = zeta.plan(net, read(text, suffix, net))
    for name, spec in expected.items():
        entry = plan[name]
        solved = spec.solve(entry.site)
        assert type(entry.initializer) is type(solved), name
        assert entry.std == pytest.approx(solved.moments(entry.site).std, rel=1e-12), name  # type: ignore[union-attr]
        assert entry.mean == solved.moments(entry.site).mean, name  # type: ignore[union-attr]
    assert (plan["mixer"].fans.fan_in, plan["mixer"].fans.fan_out) == (8, 3)  # type: ignore[union-attr]
    assert [plan[name].rule for name in ("h.0.0.weight", "h.0.0.bias", "conv.weight")] == [
        "((module Linear & shape (*, 8)) & ndim 2)",
        "(*.bias & kind bias)",
        r"/(embed|conv)\.weight/",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('name = "*.w"', glob("*.w")),
        ('regex = "h.+"', regex("h.+")),
        ('module = "Linear"', module("Linear")),
        ('kind = "bias"', kind("bias")),
        ('shape = [4, "*"]', shape(4, None)),
        ("shape = []", shape()),
        ("ndim = 2", ndim(2)),
        ('ndim = 2\nname = "*.w"', ndim(2) & glob("*.w")),
    ],
)
def test_conditions(line: str, expected: Any, read: Write) -> None:
    assert read(f'[[rules]]\n{line}\ninitializer = "Zeros"') == Rules([Rule(expected, Zeros())])


def test_optional_buffers_and_axes(read: Write) -> None:
    text = '[[rules]]\nname = "*"\ninitializer = "Zeros"\n'
    assert read(text + "optional = true") == Rules([Rule("*", Zeros(), optional=True)])
    assert read(text + "buffers = true") == Rules([Rule("*", Zeros(), buffers=True)])
    assert read(text + "optional = false\nbuffers = false\nresidual = false") == Rules([Rule("*", Zeros())])
    axes = Axes(fan_in=(1, 3), fan_out=(2, 3), batch=(0,), blocks=((1, 2),))
    written = "axes = { fan_in = [1, 3], fan_out = [2, 3], batch = [0], blocks = [[1, 2]] }"
    assert read(text + written) == Rules([Rule("*", Zeros(), axes=axes)])


@pytest.mark.parametrize(
    "spec",
    [
        Keep(),
        Zeros(),
        Ones(),
        Constant(0.1),
        Uniform(-1 / 3, 0.5),
        Normal(1 / 3, -0.1),
        TruncatedNormal(0.02, 0.1, cutoff=2.5, correct_std=True),
        TruncatedNormal(0.5, low=-0.7),
        VarianceScaling(2 / 3, "fan_avg", "truncated_normal"),
        Orthogonal(2**0.5),
        Dirac(0.5),
        Sparse(0.1, 0.3),
    ],
    ids=str,
)
def test_an_initializer_written_as_json_is_read_back(spec: Initializer, read: Write) -> None:
    (rule,) = read(json.dumps([{"name": "*", "initializer": spec.to_json()}]), ".json")
    assert rule.initializer == spec
    assert type(rule.initializer) is type(spec)


@pytest.mark.parametrize("depth", [1, 3, 12])
def test_residual_divides_by_the_square_root_of_twice_the_depth(depth: int, read: Write) -> None:
    model = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(depth))
    rules = read('[[rules]]\nname = "*"\ninitializer = { name = "Normal", std = 0.02 }\nresidual = true')
    for entry in zeta.plan(model, rules):
        assert entry.std == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=1e-14)


def test_every_reading_of_a_python_file_runs_it_anew(read: Write) -> None:
    text = (
        "from zeta import Rule, Rules\nfrom zeta.initializers import Constant\nrules = Rules([Rule('*', Constant({}))])"
    )
    assert [read(text.format(i), ".py")[0].initializer for i in (1, 22)] == [Constant(1), Constant(22)]


def test_a_python_file_may_define_a_dataclass(read: Write) -> None:
    text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    assert len(read(text + PYTHON, ".py")) == 10


# -- errors -----------------------------------------------------------------------------------------------------------

HEAD = '[[rules]]\nname = "a"\ninitializer = "Zeros"\n[[rules]]\n'


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('nmae = "*"\ninitializer = "Zeros"', "unknown key 'nmae'; did you mean 'name'?"),
        ('name = "*"\ninitialiser = "Zeros"', "unknown key 'initialiser'; did you mean 'initializer'?"),
        ('name = "*"\ninitializer = "Zeros"\nq = 1', "unknown key 'q'; expected one of name, regex, module, kind"),
        ('name = "*"', f"needs an initializer and at least one of {CONDITIONS}"),
        ('initializer = "Zeros"', f"needs an initializer and at least one of {CONDITIONS}"),
        ('name = "*"\ninitializer = "Nromal"', "unknown initializer 'Nromal'; did you mean 'Normal'?"),
        ('name = "*"\ninitializer = "kaiming_norml"', "unknown initializer 'kaiming_norml'; did you mean 'kaiming_no"),
        ('name = "*"\ninitializer = 3', "an initializer is a name, or a table with one, got 3"),
        ('name = "*"\ninitializer = { std = 3 }', "an initializer is a name, or a table with one, got {'std': 3}"),
        ('name = "*"\ninitializer = { name = "Blocks", i = "Zeros" }', "Blocks: give the initializers in order"),
        ('name = "*"\ninitializer = { name = "Blocks", parts = 3 }', "Blocks: parts is a list of initializers, got 3"),
        ('name = "*"\ninitializer = { name = "Blocks", parts = ["Zeros", "Zreos"] }', "unknown initializer 'Zreos'"),
        ('name = "*"\ninitializer = { name = "Normal", sdt = 3 }', "Normal: unknown field ['sdt']; it takes ['std', "),
        ('name = "*"\ninitializer = { name = "Normal", std = -1 }', "Normal: std must be at least 0, got -1.0"),
        ('name = "*"\ninitializer = { name = "Normal", std = nan }', "Normal: std must be a finite number, got nan"),
        ('name = "*"\ninitializer = "Constant"', "Constant: value must be given"),
        ('name = "*"\ninitializer = { name = "xavier_normal", gian = 1 }', "unexpected keyword argument 'gian'"),
        ('name = "*"\ninitializer = { name = "he_normal", nonlinearity = "x" }', "unknown nonlinearity 'x'"),
        ('name = "*.{a"\ninitializer = "Zeros"', "name glob '*.{a': '{' is not closed"),
        ('name = 3\ninitializer = "Zeros"', "glob"),
        ('regex = "("\ninitializer = "Zeros"', "not a regular expression: '('"),
        ('kind = "wieght"\ninitializer = "Zeros"', "unknown kind 'wieght': expected one of weight, bias"),
        ('module = 3\ninitializer = "Zeros"', "module() needs a subclass of torch.nn.Module, several"),
        ('shape = [4, "x"]\ninitializer = "Zeros"', "shape() takes numbers and None, got (4, 'x')"),
        ('shape = 4\ninitializer = "Zeros"', "shape"),
        ('name = "*"\nlabel = 3\ninitializer = "Zeros"', "rule '*': label must be a text, got 3"),
        ('ndim = "2"\ninitializer = "Zeros"', "ndim"),
        ('name = "*"\ninitializer = "Zeros"\naxes = { fanin = [1] }', "Axes: unknown ['fanin']; expected some of ["),
        ('name = "*"\ninitializer = "Zeros"\naxes = { fan_in = [1, 1] }', "fan_in must be distinct dimension numbers"),
        ('name = "*"\ninitializer = "Zeros"\noptional = "no"', "optional"),
        ('name = "*"\ninitializer = "Zeros"\nbuffers = "no"', "buffers"),
        ('name = "*"\ninitializer = "Zeros"\nresidual = "no"', "residual"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_rule_and_what_is_wrong(second: str, message: str, read: Write) -> None:
    with pytest.raises(UsageError, match=rf"rule file .*my_rules\.toml, rule 2: .*{re.escape(message)}"):
        read(HEAD + second)


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("[[rules]\n", ".toml", "cannot be read as TOML: .*line 1"),
        ('[[rules]]\nname = "*"\nname = "b"', ".toml", "cannot be read as TOML: .*overwrite"),
        ("{", ".json", "cannot be read as JSON: .*line 1"),
        (b"\xff\xfe", ".toml", "cannot be read as TOML: .*utf-8"),
        ('[[rule]]\nname = "*"\ninitializer = "Zeros"', ".toml", r"list of tables called 'rules', got \['rule'\]"),
        ('x = 1\n[[rules]]\nname = "*"\ninitializer = "Zeros"', ".toml", r"got \['rules', 'x'\]"),
        ('{"rules": [{"name": "a", "name": "b"}]}', ".json", "has the name 'name' twice in one object"),
        ("{}", ".json", r"list of tables called 'rules', got \[\]"),
        ("3", ".json", "list of tables called 'rules', got 3"),
        ('{"rules": {"name": "*"}}', ".json", "list of tables called 'rules'"),
        ('["*"]', ".json", r"rule 1: expected a table, got '\*'"),
        ("[]", ".json", "at least one rule"),
        ("rules = [", ".py", "fails: SyntaxError: "),
        ("1 / 0", ".py", "fails: ZeroDivisionError: division by zero"),
        ("def rules(model):\n    return model.nothing", ".py", "fails: AttributeError: .*no attribute 'nothing'"),
        ("def rules():\n    pass", ".py", r"fails: TypeError: rules\(\) takes 0 positional arguments"),
        ("import zeta\nzeta.Rule('*', 3)", ".py", r"fails: SpecError: rule '\*': write Constant\(3\)"),
        ("ruels = 3", ".py", r"must define rules = Rules\(\[\.\.\.\]\), or a function rules\(model\), got None"),
        ("rules = [3]", ".py", r"must define rules = Rules\(\[\.\.\.\]\).*got \[3\]"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(text: str | bytes, suffix: str, message: str, read: Write) -> None:
    with pytest.raises(UsageError, match=rf"(?s)rule file .*my_rules\{suffix}.*{message}"):
        read(text, suffix)


@pytest.mark.parametrize("name", ["none.toml", "none.py", "."])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such rule file: |is a folder, expected a regular file") as error:
        read_rules(tmp_path / name, nn.Linear(1, 1))
    assert str(tmp_path / name) in str(error.value)
