"""The HTML of a check in a real browser: Debian's Chromium, headless and offline."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.helpers.check_results import ALL, ODD_NAMES
from zeta.check.show.html import page as html_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium to look at the HTML with: make chromium installs Debian's, where it can"
)

PATIENCE = 30_000  # milliseconds, for a machine that is busy with other things
expect.set_options(timeout=PATIENCE)

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def opener(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Opens each page once, and again as it was; its ``complaints`` are what the browser's console says."""
    pages: dict[str, Page] = {}
    folder = tmp_path_factory.mktemp("html")

    def opened(name: str) -> Page:
        if name not in pages:
            file = folder / f"{name}.html"
            file.write_text(html_page(ALL[name]()), encoding="utf-8")
            context = browser.new_context(offline=True, reduced_motion="reduce")
            context.set_default_timeout(PATIENCE)
            made = context.new_page()
            made.complaints = []  # type: ignore[attr-defined]
            made.on("console", lambda message: made.complaints.append(message.text))  # type: ignore[attr-defined]
            made.on("pageerror", lambda error: made.complaints.append(str(error)))  # type: ignore[attr-defined]
            made.goto(file.as_uri())
            made.locator("html[data-ready]").wait_for()
            pages[name] = made
        pages[name].set_viewport_size({"width": 1400, "height": 900})
        pages[name].emulate_media(color_scheme="light")
        pages[name].keyboard.press("Escape")
        pages[name].locator("#filters button[type=reset]").click()
        return pages[name]

    return opened


@pytest.fixture
def sick(opener: Open) -> Iterator[Page]:
    page = opener("sick")
    yield page
    assert page.complaints == []  # type: ignore[attr-defined]


def until(page: Page, condition: str) -> None:
    """Wait in Python, as the page's policy forbids the browser to evaluate what it is told again and again."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def shown_rows(page: Page, table: str) -> int:
    rows = f"[...document.getElementById('{table}').tBodies[0].rows]"
    counted: int = page.evaluate(f"{rows}.filter(row => row.getClientRects().length).length")
    return counted


@pytest.mark.parametrize("name", ALL)
def test_it_opens_without_a_complaint(opener: Open, name: str) -> None:
    page, results = opener(name), ALL[name]()
    assert page.complaints == []  # type: ignore[attr-defined]
    assert shown_rows(page, "layers") == len(results.layers)
    assert shown_rows(page, "parameters") == len(results.parameters)
    assert page.locator("#profile svg.main-svg").count() > 0
    expect(page.locator("h1")).to_have_text(results.model)
    expect(page.locator("#verdict")).to_contain_text("Can learn" if results.ok else "Cannot learn")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def test_names_are_text_and_never_code(opener: Open) -> None:
    page = opener("odd")
    page.locator("#layer-1 td.name").click()
    expect(page.locator("#panel h3")).to_have_text(ODD_NAMES[1])
    assert page.evaluate("window.hacked") is None
    assert page.locator("main u, main img, main s, #panel img").count() == 0
    assert page.locator("#layers td.name").all_text_contents() == list(ODD_NAMES)
    for i, name in enumerate(ODD_NAMES[:4]):  # in plotly's labels too
        label = page.locator("#symmetry .yaxislayer-above text, #symmetry .ytick text").nth(i).text_content()
        assert label is not None
        assert name.startswith(label.partition("…")[0])


def test_a_script_that_came_in_does_not_run(browser: Browser, tmp_path: Path) -> None:
    text = html_page(ALL["healthy"]()).replace("<main>", "<script>window.hacked = 1</script><main>")
    (tmp_path / "changed.html").write_text(text, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "changed.html").as_uri())
    assert page.evaluate("window.hacked") is None
    page.context.close()


def test_filters(sick: Page) -> None:
    expect(sick.locator("#shown")).to_have_text("58 of 58 findings, 1,000 of 1,000 layers, 1,601 of 1,601 parameters")
    sick.locator("#severities input[value=fail]").uncheck()
    expect(sick.locator("#shown")).to_contain_text("41 of 58 findings")
    assert sick.locator("#finding-list .badge.fail").count() == 0
    until(sick, "document.getElementById('profile').data.find(d => d.meta === 'output fail').x.length === 0")
    sick.get_by_label("Rule").select_option("Z502")
    expect(sick.locator("#shown")).to_contain_text("1 of 58 findings")
    expect(sick.locator("#finding-list .places li")).to_have_text("unused.weight: no gradient reaches it")
    sick.locator("#filters button[type=reset]").click()
    expect(sick.locator("#shown")).to_contain_text("58 of 58 findings")
    sick.get_by_label("Name").fill("MLP.fc1")
    expect(sick.locator("#shown")).to_have_text("15 of 58 findings, 100 of 1,000 layers, 200 of 1,601 parameters")
    sick.get_by_label("only places").check()
    expect(sick.locator("#shown")).to_have_text("15 of 58 findings, 15 of 1,000 layers, 15 of 1,601 parameters")
    assert shown_rows(sick, "layers") == 15
    sick.get_by_label("Name").fill("no such name")
    expect(sick.locator("#finding-list")).to_have_text("None passes the filters.")


def test_findings_lead_to_layers_and_back(sick: Page) -> None:
    sick.locator("#finding-list a[title='blocks.35.mlp.fc1']", has_text="layer 357").click()
    row = sick.locator("#layer-357")
    expect(row).to_be_focused()
    expect(row).to_be_in_viewport()
    expect(sick.locator("#panel h3")).to_have_text("blocks.35.mlp.fc1")
    row.get_by_role("link", name="Z301").click()
    expect(sick.locator("#finding-5")).to_be_focused()
    expect(sick.locator("#finding-5")).to_contain_text("blocks.35.mlp.fc1.weight")
    expect(sick.locator("#finding-5")).to_be_in_viewport()


def test_a_link_shows_what_filters_or_folding_hide(sick: Page) -> None:
    row = sick.locator("#layer-997")  # blocks.99.mlp.fc1 has none; blocks.99.mlp.fc2, two below, has the last finding
    expect(row).to_contain_text("blocks.99.mlp.fc1")
    assert sick.locator("#finding-56").count() == 0, "folded: only the first few places of a rule are shown"
    sick.locator("#layer-999").get_by_role("link", name="Z401").click()
    expect(sick.locator("#finding-56")).to_be_focused()
    sick.get_by_label("Name").fill("blocks.33.attn.q")
    sick.locator("#finding-list a").first.click()
    expect(sick.locator("#parameter-530")).to_be_focused()
    sick.get_by_label("Rule").select_option("Z401")
    sick.locator("#parameter-530").get_by_role("link", name="Z102").click()
    expect(sick.locator("#finding-list .places li", has_text="values are NaN")).to_be_focused()
    expect(sick.locator("#shown")).to_contain_text("58 of 58")


def test_all_places_of_a_rule_are_shown_when_asked_for(sick: Page) -> None:
    group = sick.locator(".group", has_text="no-gradient")
    assert group.get_by_role("button").count() == 0
    group = sick.locator(".group", has_text="duplicated-units")
    if group.get_by_role("button", name="Show all 15").count():
        group.get_by_role("button", name="Show all 15").click()
    assert group.locator(".places li").count() == 15


def test_whole_blocks_are_joined(sick: Page) -> None:
    joined = sick.evaluate("document.getElementById('profile').data.filter(d => d.meta === 'blocks').map(d => d.x)")
    assert joined == [list(range(9, 1000, 10))] * 2


def bars(page: Page) -> int:
    return page.locator("#panel-chart .barlayer path").count()


def test_a_click_shows_a_layer_and_then_pointing_does(sick: Page) -> None:
    sick.locator("#layer-4 td.name").hover()
    expect(sick.locator("#panel")).to_be_hidden()
    sick.locator("#layer-4 td.name").click()
    expect(sick.locator("#panel h3")).to_have_text("blocks.0.attn:scaled_dot_product_attention")
    expect(sick.locator("#panel-chart .subplot")).to_have_count(2)  # output and gradient
    assert bars(sick) == 2 * 40
    sick.locator("#layer-5 td.name").hover()
    expect(sick.locator("#panel-chart .subplot")).to_have_count(4)  # and its two parameters
    sick.locator("#profile").scroll_into_view_if_needed()
    box = sick.locator("#profile .nsewdrag").first.bounding_box()
    assert box is not None
    sick.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    expect(sick.locator("#panel h3")).to_have_text(re.compile(r"blocks\.(49|50)\."))
    sick.keyboard.press("Escape")
    expect(sick.locator("#panel")).to_be_hidden()


def test_the_keyboard_is_enough(sick: Page) -> None:
    sick.locator("#profile").focus()
    for key, index in (("Home", 0), ("ArrowRight", 1), ("End", 999), ("ArrowLeft", 998), ("PageUp", 988)):
        sick.keyboard.press(key)
        expect(sick.locator("#panel")).to_have_attribute("data-shows", f"layer-{index}")
    assert bars(sick) > 0
    sick.keyboard.press("Enter")
    expect(sick.locator("#layer-988")).to_be_focused()
    sick.keyboard.press("ArrowDown")
    expect(sick.locator("#layer-989")).to_be_focused()
    expect(sick.locator("#panel")).to_have_attribute("data-shows", "layer-989")
    sick.keyboard.press("Home")
    sick.keyboard.press("Shift+Tab")
    assert sick.evaluate("document.activeElement.closest('th') !== null"), "the headings, which sort"
    sick.locator("body").press("Tab")


def test_tables_sort(sick: Page) -> None:
    heading = sick.locator("#parameters th", has_text=re.compile("^std$"))
    heading.get_by_role("button").click()
    first = sick.locator("#parameters tbody tr").first
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(first).to_contain_text("blocks.50.attn.k.weight")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(first).to_contain_text("bias")
    expect(sick.locator("#parameters tbody tr").last).to_contain_text("blocks.33.attn.q.weight")  # NaN is last


def test_names_are_copied_whole(sick: Page) -> None:
    copied = sick.evaluate(
        """() => {
            const name = document.querySelector("#layer-4 td.name");
            getSelection().selectAllChildren(name);
            return getSelection().toString();
        }"""
    )
    assert copied == "blocks.0.attn:scaled_dot_product_attention"


#: whether the charts have the width of their places, which plotly gives them a moment after these change
DRAWN_AGAIN = """[...document.querySelectorAll('main .chart')]
    .every(one => Math.abs(one._fullLayout?.width - one.clientWidth) < 1)"""

LUMINANCE = """(part) => {
    const [r, g, b] = getComputedStyle(document.body)[part].match(/\\d+/g).map(Number);
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


def test_light_and_dark(opener: Open) -> None:
    page = opener("healthy")

    def check(theme: str) -> None:
        page.locator(f"html[data-theme={theme}]").wait_for()
        back, text = (page.evaluate(LUMINANCE, part) for part in ("backgroundColor", "color"))
        assert (back - text > 0.7) if theme == "light" else (text - back > 0.7)
        chart = page.evaluate("getComputedStyle(document.querySelector('#profile .xtick text')).fill")
        assert chart == page.evaluate("getComputedStyle(document.body).color"), "charts follow"

    check("light")
    page.emulate_media(color_scheme="dark")
    check("dark")
    toggle = page.locator("#theme")
    for text, theme in (("light", "light"), ("dark", "dark"), ("auto", "dark")):
        toggle.click()
        expect(toggle).to_have_text(f"Theme: {text}")
        check(theme)
    page.emulate_media(color_scheme="light")
    check("light")


def test_charts_keep_their_height_when_the_window_changes(opener: Open) -> None:
    page = opener("odd")
    heights = "[...document.querySelectorAll('main .chart')].map(chart => chart.clientHeight)"
    before = page.evaluate(heights)
    assert min(before) > 100
    page.set_viewport_size({"width": 1000, "height": 700})
    until(page, DRAWN_AGAIN)
    assert page.evaluate(heights) == before


def test_a_narrow_window(opener: Open) -> None:
    page = opener("sick")
    page.locator("#layer-9 td.name").click()
    expect(page.locator("#panel h3")).to_have_text("blocks.0.mlp.fc2")
    page.set_viewport_size({"width": 420, "height": 800})
    until(page, "document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#panel")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#panel")).to_be_hidden()
    page.locator("#layer-2").scroll_into_view_if_needed()
    page.locator("#layer-2 td.name").click()
    expect(page.locator("#panel h3")).to_have_text("blocks.0.attn.k")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#panel")).to_be_hidden()


#: elements of which a part cannot be seen without scrolling sideways
CLIPPED = """() => [...document.querySelectorAll('body *')]
    .filter(one => !one.closest('svg, select, .js-plotly-plot') && one.clientWidth)
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => `${one.tagName} ${one.id} ${one.className}: ${one.scrollWidth} > ${one.clientWidth}`)"""


@pytest.mark.parametrize("width", [500, 1024, 1300, 1900])
@pytest.mark.parametrize("name", ["sick", "odd", "deep"])
def test_nothing_is_clipped_at_any_width(opener: Open, name: str, width: int) -> None:
    page = opener(name)
    page.set_viewport_size({"width": width, "height": 900})
    until(page, f"innerWidth === {width} && {DRAWN_AGAIN}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CLIPPED) == []
    page.locator("#layer-0 td.name").click()
    expect(page.locator("#panel")).to_be_visible()
    assert page.evaluate(CLIPPED) == []
    page.keyboard.press("Escape")


def test_the_width_is_used(opener: Open) -> None:
    page = opener("deep")
    right = "name => document.querySelector(name).getBoundingClientRect().right"
    for width in (1300, 1900):
        page.set_viewport_size({"width": width, "height": 900})
        for place in ("#layers", "#parameters", "#finding-list .group", "#finding-list svg", ".charts"):
            assert page.evaluate(right, place) > width - 60, place


def test_each_finding_with_a_picture_shows_it_beside_its_words(opener: Open) -> None:
    page = opener("deep")
    page.set_viewport_size({"width": 1300, "height": 900})
    groups = page.locator("#finding-list .group")
    assert groups.count() == 3
    for number, (rule, said) in enumerate((("Z201", "layers.11"), ("Z603", "layers.11"), ("Z405", "layers.7"))):
        group = groups.nth(number)
        expect(group).to_contain_text(rule)
        assert said in str(group.locator("svg title").text_content())
        words, figure = group.locator(".words").bounding_box(), group.locator("figure").bounding_box()
        assert words is not None
        assert figure is not None
        assert words["x"] + words["width"] <= figure["x"]
    page.get_by_label("Name").fill("layers.12.")
    expect(groups).to_have_count(1)
    expect(groups.locator("svg title")).to_contain_text("layers.11", timeout=PATIENCE)  # the picture is the group's
    mark = "getComputedStyle(document.querySelector('#finding-list svg text')).fill"
    light = page.evaluate(mark)
    page.emulate_media(color_scheme="dark")
    page.locator("html[data-theme=dark]").wait_for()
    assert page.evaluate(mark) != light, "pictures follow the theme"
