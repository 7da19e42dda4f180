"""The HTML of a check, as text; test_check_browser.py looks at it in a browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from tests.helpers.check_results import ALL, healthy, odd, sick
from zeta.check.show import html
from zeta.check.show.html import page
from zeta.check.show.serial import from_json
from zeta.errors import UsageError


def script(shown: str, name: str) -> str:
    """What the element of that id holds, unpacked."""
    (packed,) = re.findall(rf'<script type="application/gzip" id="{name}">([A-Za-z0-9+/=]*)</script>', shown)
    return gzip.decompress(base64.b64decode(packed)).decode()


@pytest.mark.parametrize("name", ALL)
def test_it_holds_all_results_and_plotly(name: str) -> None:
    results = ALL[name]()
    shown = page(results)
    assert repr(from_json(json.loads(script(shown, "data")))) == repr(results)
    assert script(shown, "plotly") == get_plotlyjs()


def test_nothing_is_loaded_from_elsewhere() -> None:
    shown = page(sick())
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|@import|url\(', shown) == []
    assert "default-src 'none'" in shown


def test_only_its_own_scripts_may_run() -> None:
    shown = page(odd())
    (inline,) = re.findall(r"<script>(.*?)</script>", shown, re.DOTALL)
    (policy,) = re.findall(r"script-src ([^;]*);", shown)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (inline, get_plotlyjs())]
    assert policy == " ".join(f"'sha256-{digest}'" for digest in digests)


def test_names_stay_out_of_the_markup() -> None:
    assert "<title>zeta check: &lt;script&gt;alert(1)&lt;/script&gt;</title>" in page(odd())
    empty, full = page(healthy()), page(odd())
    assert [full.count(mark) for mark in ("<script", "<img", "<u>")] == [
        empty.count(mark) for mark in ("<script", "<img", "<u>")
    ]


def test_a_name_has_no_control_characters_in_the_title() -> None:
    shown = page(replace(healthy(), model="Net\x1b[2J\u202e"))
    assert r"<title>zeta check: Net\x1b[2J\u202e</title>" in shown
    assert "\x1b" not in shown


def test_its_size_is_that_of_plotly_compressed_and_little_more() -> None:
    few, many = len(page(healthy())), len(page(sick()))
    assert few < 2_200_000
    assert many - few < 200_000


def test_it_is_the_same_every_time() -> None:
    assert page(sick()) == page(sick())


@pytest.fixture
def forgotten_plotly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No module of plotly is known yet, as far as the code can tell."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    html._plotly.cache_clear()
    yield
    html._plotly.cache_clear()


def test_without_plotly_it_says_what_to_install(forgotten_plotly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UsageError, match=r"needs plotly; install it with pip install 'zeta-init\[html\]'"):
        page(healthy())


def test_a_broken_plotly_is_not_taken_for_a_missing_one(
    forgotten_plotly: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plotly").mkdir()
    (tmp_path / "plotly" / "__init__.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="plotly cannot be imported: No module named 'no_such_package'"):
        page(healthy())
