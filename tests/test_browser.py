"""The site in a browser: opened from disk, without network, by mouse and by keyboard, wide and narrow, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sites import everything

from geometry_bench.report.site import contents_of, pages
from geometry_bench.storage import write_folder

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'geometry-bench[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

KINDS = (
    "index.html",
    "board/safety.html",
    "claims.html",
    "claims/safety.baseline_sign.html",
    "subjects.html",
    "subjects/qwen-*.html",
    "subjects/group-zoo-aligned-*.html",
    "comparisons.html",
    "comparisons/zoo-*.html",
    "audit.html",
    "published/safety_compassion.html",
)
"""One page of each kind."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "out"
    write_folder(folder, pages(contents_of(everything())), ".mark")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Seen:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, site: Path, width: int = 1280, scheme: str = "light") -> None:
        self.site, self.said, self.asked = site, [], []  # type: Path, list[str], list[str]
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.extend([message.text] if message.type == "error" else []))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, place: str) -> Any:
        (path,) = sorted(self.site.glob(place))[:1]
        self.page.goto(path.as_uri())
        return self.page

    def drawn(self, figure: str) -> Any:
        """A figure of the page, once it is drawn."""
        element = self.page.locator(f'main > .drawing[data-figure="{figure}"]')
        element.scroll_into_view_if_needed()
        self.page.wait_for_selector(f'main > .drawing[data-figure="{figure}"][data-drawn] svg')
        return element

    def is_quiet(self) -> bool:
        """No error was told on the console, and nothing asked for but files of the site and data of the page."""
        assert self.said == []
        assert [url for url in self.asked if not url.startswith((self.site.as_uri(), "data:", "blob:"))] == []
        return True


@pytest.fixture
def seen(browser: Any, site: Path) -> Iterator[Seen]:
    found = Seen(browser, site)
    yield found
    assert found.is_quiet()
    found.context.close()


def names(page: Any) -> list[str]:
    return list(page.locator("#board tbody tr:visible th a").all_inner_texts())


def column(page: Any, label: str) -> int:
    heads = page.locator("#board thead th .sort").all_inner_texts()
    return next(place for place, text in enumerate(heads) if text.startswith(label))


def values(page: Any, label: str) -> list[float]:
    cells = page.locator(f"#board tbody tr:visible > *:nth-child({column(page, label) + 1}) .v").all_inner_texts()
    return [float(text.replace("−", "-")) for text in cells]


def test_the_board_is_sorted_by_a_column_when_asked_and_by_no_value_before(seen: Seen) -> None:
    page = seen.open("index.html")
    page.wait_for_selector("#board[data-whole]")
    first = names(page)
    assert first[0] == "Apertus 8B"
    assert first[-1].startswith("zoo/")
    head = page.locator("#board thead th", has=page.get_by_role("button", name="safety ↔ compassion"))
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    *found, unreadable = values(page, "safety ↔ compassion")
    assert found == sorted(found, reverse=True)
    assert min(found) < unreadable == 0.5 < max(found)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert values(page, "safety ↔ compassion") == [*sorted(found), unreadable]
    page.keyboard.press("Space")
    assert (head.get_attribute("aria-sort"), names(page)) == ("none", first)


def test_the_board_is_searched_and_filtered(seen: Seen) -> None:
    page = seen.open("index.html")
    every = len(names(page))
    page.get_by_label("Search").fill("smollm2 float32")
    assert names(page) == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert page.locator("#count").inner_text() == f"1 of {every} rows"
    page.get_by_label("Search").fill("")
    for kind in ("measured", "zoo"):
        page.get_by_role("checkbox", name=kind).uncheck()
    assert len(names(page)) == 9
    page.locator("#alignment").select_option("SFT + DPO")
    assert names(page) == ["Llama 3.1 8B", "Phi-4"]
    page.get_by_role("checkbox", name="measured").check()
    page.locator("#verdict").select_option(label="F fails")
    assert names(page) == ["HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"]
    assert page.locator("tr:visible td.hit").count() == page.locator("tbody tr:visible .mark.bad").count() > 0


def test_the_block_slider_moves_the_headline_figure(seen: Seen) -> None:
    page = seen.open("index.html")
    figure = seen.drawn("headline")
    before = figure.locator("svg.marks").inner_html()
    slider = figure.locator("input[type=range]")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("before => document.querySelector('.drawing svg.marks').innerHTML !== before", arg=before)


def test_from_a_claim_to_a_measurement(seen: Seen) -> None:
    page = seen.open("index.html")
    page.locator("#board thead a", has_text="baseline_").click()
    assert page.locator("h1").inner_text() == "safety.baseline_sign"
    page.get_by_role("link", name="+0.432 ± 0.134").click()
    assert page.url.endswith("#safety.baseline_sign")
    page.wait_for_selector("details.measured[open]")
    (opened,) = page.locator("details.measured[open]").all()
    assert "geometry-bench run --model FOLDER" in opened.inner_text()
    assert opened.is_visible()
    assert opened.get_by_role("link", name="inputs").count() == 1


def test_a_figure_is_saved_as_svg_and_png(seen: Seen) -> None:
    page = seen.open("index.html")
    figure = seen.drawn("headline")
    figure.get_by_label("Save the figure").first.click()
    for kind in ("SVG", "PNG"):
        with page.expect_download() as saved:
            figure.get_by_role("link", name=f"Save as {kind}").click()
        assert saved.value.suggested_filename == f"headline.{kind.lower()}"


def test_a_keyboard_reaches_the_table_its_cells_and_the_controls(seen: Seen) -> None:
    page = seen.open("index.html")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.textContent.trim().slice(0, 30))(document.activeElement)"))
    assert reached[0] == "Skip to the content"
    assert {"search", "alignment", "verdict", "board", "Apertus 8B", "+0.51"} <= set(reached)


def test_hostile_names_do_nothing(seen: Seen) -> None:
    for place in ("index.html", "subjects.html", "claims/safety.compassion_alignment.html", "subjects/script-*.html"):
        page = seen.open(place)
        assert page.evaluate("window.evil") is None
        assert page.locator("text=<script>window.evil=1</script>").count() > 0


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_the_narrow_board_shows_numbers(browser: Any, site: Path, width: int) -> None:
    seen = Seen(browser, site, width)
    for place in (*KINDS, "subjects/script-*.html"):
        page = seen.open(place)
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, (place, over)
    page = seen.open("index.html")
    box = page.locator("#board .v").first.bounding_box()
    assert 0 < box["x"] < box["x"] + box["width"] <= width
    assert seen.is_quiet()
    seen.context.close()


@pytest.mark.parametrize(
    ("scheme", "places", "rules"),
    [("light", KINDS, {}), ("dark", (KINDS[0], KINDS[3], KINDS[5]), {"runOnly": ["color-contrast"]})],
    ids=["light", "dark"],
)
def test_axe_finds_no_serious_issue(
    browser: Any, site: Path, scheme: str, places: tuple[str, ...], rules: dict[str, Any]
) -> None:
    """On one page of each kind; in the dark, where styles alone differ, by their contrast on a board, a claim, a subject."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    options = {"resultTypes": ["violations"], "preload": False, **rules}  # it would load style sheets again
    seen = Seen(browser, site, scheme=scheme)
    issues = []
    for place in places:
        page = seen.open(place)
        for figure in page.locator("main > .drawing").all():
            seen.drawn(figure.get_attribute("data-figure"))
        issues += [
            (place, one["id"], one["nodes"][0]["html"][:200], len(one["nodes"]))
            for one in axe.run(page, options=options).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
    assert issues == []
    assert seen.is_quiet()
    seen.context.close()
