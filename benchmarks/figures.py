"""Write the figures of the documentation, each from one place.

``make figures`` takes the JSON of ``make bench`` and the other benchmarks, where there is any, into
``docs/performance.json``, and writes every page of ``PAGES`` again. What is between ``<!-- figures: NAME -->`` and
``<!-- end -->`` there is the result of the function ``NAME`` below, from that file and ``docs/architectures.md``.

``python -m benchmarks.figures build/bench/cpu.json --machine "2 cores of an AMD EPYC (Zen 5)"`` says on what machine
the figures were taken, in more words than the processor gives; with ``--other`` they become a column of the table of
other machines. A run of ``benchmarks.cpu`` that measured only some
parts is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

ROOT: Final = Path(__file__).parents[1]
DATA: Final = Path("docs/performance.json")
ARCHITECTURES: Final = Path("docs/architectures.md")
PAGES: Final = ("README.md", "docs/performance.md", "docs/sharding.md", "docs/recording.md", "docs/adapting.md")

Run = Mapping[str, Any]
Figures = Mapping[str, Any]

#: what is kept of a row
ROW: Final = ("what", "seconds", "ratios", "amounts")
#: what the rows of the table are called, in its order; and the names of their rows in the JSON, to the first number
ROWS: Final = {
    "uniform, fp32": "uniform",
    "normal, fp32": "normal",
    "truncated normal, 2 sigma, fp32": "truncated normal, ±2 sigma",
    "orthogonal, 2048 x 2048": "orthogonal, 2048 x 2048",
    "GPT-2, ": "GPT-2 of {} billion parameters, planned, written and measured",
    "10,000 parameters, ": "a model of 10,000 parameters of a few elements, written and measured",
}


class MissingFigureError(LookupError):
    """A run has no such figure."""


# -- a run -----------------------------------------------------------------------------------------------------------


def rows(run: Run, what: str) -> list[Mapping[str, Any]]:
    """The rows of a run whose description begins or, with a leading ``*``, ends like this."""
    if what.startswith("*"):
        return [row for row in run["rows"] if row["what"].endswith(what[1:])]
    return [row for row in run["rows"] if row["what"].startswith(what)]


def numbers(run: Run, what: str, name: str, part: str = "ratios") -> list[float]:
    """All numbers of that name in these rows."""
    found = [row[part][name] for row in rows(run, what) if name in row.get(part, {})]
    if not found:
        raise MissingFigureError(f"no {part} {name!r} in the rows {what!r}: was this part of the benchmark run?")
    return found


def number(run: Run, what: str, name: str, part: str = "ratios") -> float:
    """The number of that name."""
    return numbers(run, what, name, part)[0]


def first_number(run: Run, what: str) -> str:
    """The first number in the description of the row that begins like this."""
    found = next((re.search(r"[\d.]+", row["what"][len(what) :]) for row in rows(run, what)), None)
    if found is None:
        raise MissingFigureError(f"no row {what!r}")
    return found[0]


# -- numbers as texts ------------------------------------------------------------------------------------------------


def times(ratio: float) -> str:
    """A ratio of speeds.

    >>> times(157.2), times(9.44), times(0.1)
    ('157x', '9.4x', '0.10x')
    """
    return f"{plain(ratio)}x"


def plain(ratio: float) -> str:
    """A ratio without a sign: two figures, or all before the point."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def span(values: Iterable[float]) -> str:
    """The least and the most of some numbers near 1."""
    texts = sorted(f"{value:.2f}" for value in values)
    low, high = texts[0], texts[-1]
    return low if low == high else f"{low} to {high}"


def against_torch(run: Run, what: str) -> str:
    """The speed compared with torch's; a row may give the inverse."""
    if what.startswith("10,000"):
        return times(1 / number(run, what, "zeta.apply_"))
    return times(number(run, what, "torch"))


def called(run: Run, what: str) -> str:
    """What a row is called on the page."""
    return ROWS[what].format(first_number(run, what) if "{}" in ROWS[what] else "")


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# -- what the pages say ----------------------------------------------------------------------------------------------


def machine(figures: Figures) -> str:
    """What the figures were taken on, and when."""
    about = figures["cpu"]["machine"]
    return f"Taken on {about['date']}, on {about['name']}, with torch {about['torch']} and {about['threads']} threads:"


def main_table(figures: Figures) -> str:
    """Laws, a matrix and models, compared with torch and others."""
    run = figures["cpu"]

    def others(what: str) -> str:
        if what.startswith("10,000"):
            return f"{number(run, what, 'zeta.apply_', 'seconds') * 1e3 / 1e4:.2f} ms for each parameter"
        said = [
            f"{times(number(run, what, name))} {title}"
            for name, title in (("numpy", "NumPy's Philox"), ("jax", "JAX"))
            if any(name in row["ratios"] for row in rows(run, what))
        ]
        return ", ".join(said)

    def filling(what: str) -> str:
        return f"{number(run, what, 'fill_'):.2f}" if "fp32" in what else ""

    body = [(called(run, what), against_torch(run, what), others(what), filling(what)) for what in ROWS]
    return table(
        ("what", "speed compared with `torch.nn.init`", "compared with others", "part of the speed of `fill_`"), body
    )


def scaling(figures: Figures) -> str:
    """Threads, dtypes, shards and memory."""
    run = figures["cpu"]
    halves = [1 / ratio for ratio in numbers(run, "*, fp32 time over that of", "bfloat16")]
    memory = number(run, "resident memory above", "MiB", "amounts")
    return "\n".join(
        (
            f"- Two threads are {span(numbers(run, '*, scaling', 'on 2 threads'))} times as fast as one.",
            f"- bf16 takes {span(halves)} times the time of fp32.",
            f"- A column shard of a weight is computed at {columns(figures)} of the speed of contiguous values.",
            f"- The peak of resident memory rises {memory:.1f} MiB above a model of 1 GiB.",
        )
    )


def columns(figures: Figures) -> str:
    """The speed of a column shard compared with that of a run."""
    return f"{number(figures['cpu'], 'normal, one of 8 column shards', 'run'):.2f}"


def ranks(figures: Figures) -> str:
    """One of 8 ranks: its part alone, or the whole and then a slice."""
    run, what = figures["cpu"], "rows of one of 8 ranks"
    slicing, by_torch = number(run, what, "by_slicing"), number(run, what, "by_torch")
    memory = number(run, what, "memory, by_slicing")
    return (
        f"{plain(slicing)} times faster than building the whole weight with zeta's kernels and keeping a slice, and\n"
        f"{plain(by_torch)} times faster than the same with `torch.nn.init.normal_`. "
        f"It needs {memory:.0f} times less memory."
    )


def check(figures: Figures) -> str:
    """What the fast health check costs."""
    run, what = figures["cpu"], "fast check of "
    return (
        f"The fast level of `zeta.check` takes {number(run, what, 'forward and backward'):.1f} times as long as a\n"
        f"forward and backward pass, for a GPT-2 of {first_number(run, what)} million parameters and 4 x 256 tokens."
    )


def streamed(figures: Figures) -> str:
    """What the check of a model that is larger than memory costs."""
    run = figures["streamed"]
    about = run["machine"]

    def line(row: Mapping[str, Any]) -> tuple[str, ...]:
        seconds, amounts = row["seconds"], row["amounts"]
        return (
            row["what"],
            f"{amounts['billion']:.2f}",
            f"{amounts['tokens']:.0f}",
            f"{amounts['GiB above']:.2f}",
            f"{amounts['s of the processor']:.0f}",
            f"{seconds['zeta.check']:.0f}",
            f"{seconds['the arithmetic alone']:.0f}",
        )

    head = ("model", "10^9 parameters", "tokens", "GiB above the process", "s of processor time", "s", "s at least")
    return "\n".join(
        (
            f"On {about['name']}, {about['date']}, in fp32, with a load of {about['load']:.0f} by other processes:\n"
            "the seconds that passed are many more than those of the processor, for the arithmetic alone too.",
            "",
            table(head, map(line, run["rows"])),
        )
    )


def checkpoint(figures: Figures) -> str:
    """How fast a large model is written, and in how much memory."""
    run, what = figures["checkpoint"], "Llama of "
    about, peak = run["machine"], "resident memory of that process"
    size = re.search(r"[\d.]+ GB in bf16", rows(run, what)[0]["what"])
    assert size is not None
    user, system = (number(run, "processor time", name, "amounts") for name in ("s user", "s system"))
    ways = {"zeta.save": "`zeta.save`", "dd": "`dd` of as many zeros", "values alone": "drawing and measuring alone"}
    speeds = table(
        ("what", "GB/s"), [(text, f"{number(run, what, f'GB/s {way}', 'amounts'):.2f}") for way, text in ways.items()]
    )
    return "\n".join(
        (
            f"A Llama of {first_number(run, what)} billion parameters, {size[0]}, on {about['name']}, {about['date']}:",
            "",
            speeds,
            "",
            f"The process reaches {number(run, peak, 'MiB at the peak', 'amounts'):.0f} MiB of resident memory, "
            f"{number(run, peak, 'MiB before', 'amounts'):.0f} of them before it saves.",
            f"Of {user + system:.0f} s of processor time the operating system's kernel takes {system:.0f}.",
        )
    )


def adapting(figures: Figures) -> str:
    """How fast a large checkpoint is adapted from folder to folder, and in how much memory."""
    run, what = figures["adapting"], "Llama of "
    about = run["machine"]
    size = re.search(r"[\d.]+ GB in bf16", rows(run, what)[0]["what"])
    assert size is not None
    ways = {"zeta adapt": "`zeta adapt`", "cp": "`cp -r`", "zeta verify": "`zeta verify` of the result"}
    body = [
        (
            text,
            f"{number(run, what, f'GB/s {way}', 'amounts'):.2f}",
            f"{number(run, 'processor time', f's {way}', 'amounts'):.0f}",
        )
        for way, text in ways.items()
    ]
    peak = number(run, "resident memory of zeta adapt", "MiB at the peak", "amounts")
    return "\n".join(
        (
            f"A folder of a Llama, {size[0]}, on {about['name']}, {about['date']}:",
            "",
            table(("what", "GB/s", "processor time, s"), body),
            "",
            f"`zeta adapt` reaches {peak:.0f} MiB of resident memory.",
        )
    )


def vocabulary(figures: Figures) -> str:
    """New rows of a vocabulary, beside those of transformers."""
    run = figures["vocabulary"]
    about, before = run["machine"], number(run, "before", "nats", "amounts")

    def line(row: Mapping[str, Any]) -> tuple[str, ...]:
        amounts, seconds = row["amounts"], row.get("seconds", {}).values()
        return (
            f"`{row['what']}`",
            f"{amounts['nats']:.3f}",
            f"{amounts.get('distance', 0):.2g}",
            *(f"{value:.2f}" for value in seconds),
            *(f"{amounts['MiB']:.0f}" for _ in seconds),
        )

    head = ("new rows", "loss, nats", "distance", "s", "MiB")
    body = [line(row) for row in run["rows"] if row["what"] != "before"]
    return "\n".join(
        (
            "A GPT-2 of four layers, trained for 300 steps on the help texts that Python ships, gets 256 more tokens",
            "than its 2,000. On other texts, in which they do not occur, its loss rises by the probability that they",
            f"take, from {before:.3f} nats. The distance is the median one of two new rows, over that of two old ones.",
            "Time and memory are those of a tied table of 32,000 x 4,096 in fp32 that gets 304 rows, medians, on",
            f"{about['name']}, {about['date']}.",
            "",
            table(head, [row + ("",) * (len(head) - len(row)) for row in body]),
        )
    )


def others(figures: Figures) -> str:
    """The same rows on other machines."""
    runs = figures["others"]

    def cell(run: Run, what: str) -> str:
        try:
            return against_torch(run, what)
        except MissingFigureError:
            return ""

    head = ("what", *(f"{run['machine']['name']}, {run['machine']['date']}" for run in runs))
    body = [(called(figures["cpu"], what), *(cell(run, what) for run in runs)) for what in ROWS]
    saved = "a checkpoint of 13.5 GB, GB/s (compared with `dd`)"
    body.append((saved, *(_saved(run) for run in runs)))
    return table(head, body)


def _saved(run: Run) -> str:
    try:
        speed, compared = (
            number(run, "Llama of ", name, part) for name, part in (("GB/s zeta.save", "amounts"), ("dd", "ratios"))
        )
    except MissingFigureError:
        return ""
    return f"{speed:.2f} ({times(compared)})"


def summary(figures: Figures) -> str:
    """For the README: the speed on the machine of the tables, and on the slowest of the others."""
    run = figures["cpu"]
    slowest = min(figures["others"], key=lambda other: number(other, "uniform, fp32", "torch"))
    threads, size = run["machine"]["threads"], first_number(run, "GPT-2, ")
    uniform, normal, cut, gpt = (times(number(run, what, "torch")) for what in [*list(ROWS)[:3], "GPT-2, "])
    elsewhere = ", ".join(times(number(slowest, what, "torch")) for what in [*list(ROWS)[:3], "GPT-2, "])
    return (
        f"Speed compared with `torch.nn.init`, on {threads} CPU threads: uniform values {uniform}, normal {normal}, "
        f"truncated normal {cut},\na GPT-2 of {size} billion parameters {gpt}; on {slowest['machine']['name']}: "
        f"{elsewhere}."
    )


def architectures(figures: Figures) -> str:
    """How many architectures of transformers are recorded, as the head of docs/architectures.md says."""
    page = figures["architectures"]

    def found(pattern: str) -> re.Match[str]:
        match = re.search(pattern, page)
        if match is None:
            raise MissingFigureError(f"{ARCHITECTURES} does not say {pattern!r}")
        return match

    (version,) = found(r"transformers ([\d.]+\d)").groups()
    (buildable,) = found(r"of which (\d+) can be built").groups()
    (complete,) = found(r"- (\d+) \([\d.]+%\) record completely").groups()
    compared, equal = found(r"values of (\d+) were computed.*?: (\d+) are equal").groups()
    smaller, most = found(r"(\d+) of them have more than ([\d,]+) elements").groups()
    return (
        f"transformers {version} has {buildable} architectures that can be built from a default configuration.\n"
        f"{complete} of them record completely. The values of {compared} were compared with those of a real\n"
        f"constructor on the same random numbers; {equal} are equal. {smaller} of these have more than {most}\n"
        "values, and were compared in a smaller configuration."
    )


PARTS: Final[Mapping[str, Callable[[Figures], str]]] = {
    part.__name__.replace("_", " "): part
    for part in (
        *(machine, main_table, scaling, columns, ranks, check),
        *(streamed, checkpoint, adapting, vocabulary, others, summary, architectures),
    )
}

# -- the pages -------------------------------------------------------------------------------------------------------

_MARKED: Final = re.compile(r"(<!-- figures: ([a-z ]+) -->)(\n?).*?(<!-- end -->)", re.DOTALL)


def read(root: Path = ROOT) -> dict[str, Any]:
    """The figures: ``docs/performance.json``, and the text of ``docs/architectures.md``."""
    data: dict[str, Any] = json.loads((root / DATA).read_text(encoding="utf-8"))
    return {**data, "architectures": (root / ARCHITECTURES).read_text(encoding="utf-8").split("\n|")[0]}


def written(page: str, figures: Figures) -> str:
    """A page with the figures between its markers. A marker at the end of a line has its text on lines of its own."""

    def text(match: re.Match[str]) -> str:
        begin, name, line, end = match.groups()
        return f"{begin}{line}{PARTS[name](figures)}{line}{end}"

    return _MARKED.sub(text, page)


def take(run: dict[str, Any], name: str | None) -> dict[str, Any]:
    """A run of a benchmark as ``docs/performance.json`` keeps it."""
    about = run["machine"]
    facts = {key: about[key] for key in ("date", "threads", "torch", "backend", "load")}
    return {
        "machine": {"name": name or f"{about['cores']} cores of {about['processor']}", **facts},
        "rows": [{part: short(row[part]) for part in ROW if row.get(part)} for row in run["rows"]],
    }


def short(value: Any) -> Any:
    """A number with four digits, and all that is in a mapping likewise."""
    if isinstance(value, Mapping):
        return {key: short(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def kept(figures: Figures) -> str:
    """The text of ``docs/performance.json``: a line for each row."""

    def run(each: Run) -> str:
        body = ",\n   ".join(json.dumps(row, ensure_ascii=False) for row in each["rows"])
        return f'{{\n  "machine": {json.dumps(each["machine"])},\n  "rows": [\n   {body}\n  ]}}'

    parts = (
        f' "{key}": ' + (f"[{', '.join(map(run, value))}]" if key == "others" else run(value))
        for key, value in figures.items()
        if key != "architectures"
    )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(
    runs: Annotated[list[Path] | None, typer.Argument(help="the JSON of benchmarks, such as cpu.json")] = None,
    name: Annotated[str | None, typer.Option("--machine", help="what the figures were taken on, in words")] = None,
    other: Annotated[
        bool, typer.Option("--other", help="a column of the table of other machines, by this name")
    ] = False,
) -> None:
    """Take the runs, then write the pages."""
    figures = read()
    for path in runs or ():
        run = take(json.loads(path.read_text(encoding="utf-8")), name)
        if other:
            rest = [each for each in figures["others"] if each["machine"]["name"] != run["machine"]["name"]]
            figures["others"] = [*rest, run]
        else:
            figures[path.stem] = run
    pages = {ROOT / page: written((ROOT / page).read_text(encoding="utf-8"), figures) for page in PAGES}
    if runs:
        pages[ROOT / DATA] = kept(figures)
    for path, text in pages.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            typer.echo(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
