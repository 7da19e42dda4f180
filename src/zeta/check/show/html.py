"""Results as one self-contained HTML file with plotly's charts, filters, links and histograms.

The folder ``page/`` has its template, style and scripts.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from importlib import resources
from typing import Final

from zeta.base.html import escaped
from zeta.base.names import short_name
from zeta.base.text import fold
from zeta.check.facts.results import Results
from zeta.check.show.pictures.choosing import pictures
from zeta.check.show.serial import to_json
from zeta.check.show.terminal import opening
from zeta.errors import UsageError

#: cells of a name in a chart
LABEL: Final = 40
_SCRIPTS: Final = ("model.js", "charts.js", "tables.js", "main.js")


def page(results: Results) -> str:
    """The results as the text of one HTML file. About 2 MB of it are plotly.js, compressed.

    The page loads nothing, and runs only its own scripts: a content security policy has their hashes. Names and
    messages are untrusted: they are embedded as compressed JSON, and shown as text only.

    Raises:
        UsageError: if plotly is not installed.
    """
    packed, plotly_hash = _plotly()
    script = _script()
    scripts = " ".join((_source(script), plotly_hash))
    filled = {
        "policy": f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:",
        "title": escaped(f"zeta check: {results.model}"),
        "style": _read("style.css"),
        "data": _packed(json.dumps(to_json(results), separators=(",", ":"), allow_nan=False)),
        "labels": _packed(json.dumps(_labels(results), separators=(",", ":"))),
        "pictures": "".join(f'<figure data-finding="{at}">{svg}</figure>' for at, svg in pictures(results).items()),
        "plotly": packed,
        "script": script,
    }
    pieces = _read("page.html").split("{{")
    shown = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        shown += [filled[name], rest]
    return "".join(shown)


def _labels(results: Results) -> dict[str, object]:
    """What the page says: its opening, names that are shortened (by name), the rows of the map of units."""
    names = [layer.name for layer in results.layers] + [one.name for one in results.parameters]
    names += [point.layer for point in results.points]
    compared = [at for at, one in enumerate(results.parameters) if one.units is not None and one.distinct is not None]
    rows = fold((results.parameters[at].name, None, at) for at in compared)
    shortened = {name: short_name(name, LABEL) for name in dict.fromkeys(names)}
    return {
        "opening": opening(results),
        "names": {name: short for name, short in shortened.items() if short != name},
        "rows": [[short_name(name, LABEL), members] for name, members in rows],
    }


@functools.cache
def _plotly() -> tuple[str, str]:
    """plotly.js, compressed and in base64, and the hash of its source."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "plotly":
            raise UsageError(f"plotly cannot be imported: {error}") from error
        raise UsageError("the HTML of a check needs plotly; install it with pip install 'zeta-init[html]'") from None
    # browsers normalize newlines before they compute the hash
    source = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    return _packed(source), _source(source)


def _packed(text: str) -> str:
    """The text compressed and in base64, which contains no characters with a meaning in HTML."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


@functools.cache
def _script() -> str:
    text = "\n".join(_read(name) for name in _SCRIPTS)
    assert "</script" not in text
    return f'(() => {{\n"use strict";\n{text}}})();'


def _source(script: str) -> str:
    """The name of a script in a content security policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


@functools.cache
def _read(name: str) -> str:
    return resources.files("zeta.check.show").joinpath("page", name).read_text(encoding="utf-8")
