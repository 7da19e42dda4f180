"""The README's code runs, and prints what the README says."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_code_prints_what_is_shown() -> None:
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    compared = 0
    for language, text in blocks():
        if language == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(text, str(README), "exec"), namespace)
        elif language == "text":
            pattern = re.escape(text.strip()).replace(re.escape("in ... s"), r"in [\d.]+ s")
            pattern = pattern.replace(re.escape("native ..."), r"(native \w+|reference)")
            assert re.fullmatch(pattern, printed.getvalue().strip()), printed.getvalue()
            printed = io.StringIO()
            compared += 1
    assert compared == 5


def test_the_rule_file_is_one(tmp_path: Path) -> None:
    from examples.gpt import gpt2
    from zeta.rules.file import read_rules

    (toml,) = (text for language, text in blocks() if language == "toml")
    path = tmp_path / "rules.toml"
    path.write_text(toml, encoding="utf-8")
    model = gpt2(n_layer=2, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
    import zeta

    plan = zeta.plan(model, read_rules(path, model))
    assert plan["h.0.attn.c_proj.weight"].std == 0.01
