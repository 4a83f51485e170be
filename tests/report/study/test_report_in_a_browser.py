"""The report in a real browser: drawn, quiet, offline, and deaf to hostile names."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from made_up_study import write_study
from plait.report.study.study_report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(
        write_study(
            tmp_path_factory.mktemp("runs"),
            {"plain": [0.0, 0.1, 0.2], "tied": [0.03, 0.1, 0.22], HOSTILE: [-0.1, 0.0, 0.12]},
            domains={HOSTILE: 0.1, "code": -0.1},
        )
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


def opened(browser: Any, report: Path, width: int = 1200) -> tuple[Any, list[str], list[str]]:
    """The page with its charts drawn, everything that it asked for, and what it complained of."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(180_000)  # a busy machine is no failure
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-charts=drawn]")
    return page, asked, complaints


def test_it_opens_offline_and_quietly_with_every_chart(browser: Any, report: Path) -> None:
    page, asked, complaints = opened(browser, report)
    assert asked == [report.as_uri()]
    assert complaints == []
    charts = page.locator(".chart").count()
    assert charts == page.locator(".chart svg.marks").count() > 6
    assert page.locator("section table tbody tr").first.is_visible()
    assert page.locator("tbody td.best").first.inner_text().startswith("4.007")


def test_hostile_names_are_text(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report)
    assert HOSTILE in page.locator("tbody th.name").nth(2).inner_text()
    assert page.locator("img").count() == 0
    assert page.title() != "owned"
    page.locator(".key button").nth(2).click()
    assert page.title() != "owned"


def test_the_key_brings_one_variant_out(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report)
    section = page.locator("section:has(h2:text-is('While training'))")
    lines = section.locator(".mark-line path")
    section.locator(".key button[data-variant=tied]").click()
    page.mouse.move(0, 0)
    opacities = {
        float(value) for value in lines.evaluate_all("e => e.map(p => getComputedStyle(p).opacity)")
    }
    assert min(opacities) < 0.2 < 0.8 < max(opacities)


def test_a_phone_scrolls_down_only(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    widest = page.locator(".chart svg").evaluate_all(
        "e => Math.max(...e.map(s => s.getBoundingClientRect().right))"
    )
    assert widest <= 390


def test_a_dark_page_is_dark_and_its_charts_with_it(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report)
    label = page.locator(".chart svg text").first
    colour = "e => getComputedStyle(e).fill"
    light = label.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert label.evaluate(colour) != light
    page.emulate_media(color_scheme="dark", media="print")
    assert label.evaluate(colour) == light  # on paper it is light again


VARIANTS = [f"variant-{i}" for i in range(10)]


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten variants with one seed each."""
    root = tmp_path_factory.mktemp("ten")
    return write_report(
        write_study(root, {name: [0.01 * i] for i, name in enumerate(VARIANTS)}, bigram=5.0)
    )


def test_the_answers_come_first_then_the_table_then_figures(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report, width=1440)

    def top(selector: str) -> float:
        return float(page.locator(selector).first.evaluate("e => e.getBoundingClientRect().top"))

    assert top(".answers") < top("section table") < top("figure")
    assert top(".answers") < 250
    answers = page.locator(".answer")
    assert answers.count() == 2
    assert "undecided" in answers.nth(0).inner_text()
    assert "would decide it if the difference stays" in answers.nth(0).inner_text()


def test_one_seed_is_never_bold(browser: Any, ten: Path) -> None:
    page, _, _ = opened(browser, ten)
    heaviest = page.locator(".answers *, #comparison table *").evaluate_all(
        "e => Math.max(...e.map(x => Number(getComputedStyle(x).fontWeight)))"
    )
    assert heaviest < 600
    assert "Bold:" not in page.locator("#comparison").inner_text()


def test_ten_variants_have_symbols_and_colours_of_their_own(browser: Any, ten: Path) -> None:
    page, _, _ = opened(browser, ten)
    marks = page.locator("tbody th .mark path").evaluate_all(
        "e => e.map(m => [m.getAttribute('d'), getComputedStyle(m).fill])"
    )
    assert len(marks) == 10
    assert len({symbol for symbol, _ in marks}) == len({colour for _, colour in marks}) == 10
    points = page.locator("figure:has(h3:text-is('Loss against size')) .mark-symbol path")
    drawn = points.evaluate_all("e => e.map(m => [m.getAttribute('d'), getComputedStyle(m).fill])")
    assert len({tuple(point) for point in drawn}) == 10


def test_contents_stay_in_sight(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report, width=1440)
    side, bar = page.locator(".contents.side"), page.locator(".contents.bar")
    assert not bar.is_visible()
    titles = side.locator("a").all_inner_texts()
    assert titles[:2] == ["Answers", "Comparison"]
    assert titles[2:] == page.locator("section h2").all_inner_texts()[1:]
    page.evaluate("window.scrollTo(0, 3000)")
    assert side.locator("a").first.is_visible()
    box = side.bounding_box()
    assert box is not None
    assert box["y"] >= 0
    page.locator(".contents.side a", has_text="Load of the experts").click()
    assert page.locator("section:has(h2:text-is('Load of the experts')) .chart").first.is_visible()


def test_a_phone_has_its_contents_in_a_bar(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report, width=390)
    bar = page.locator(".contents.bar")
    assert not page.locator(".contents.side").is_visible()
    page.evaluate("window.scrollTo(0, 3000)")
    box = bar.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 5
    assert box["height"] < 60
    bar.locator("summary").click()
    bar.locator("a", has_text="How it was measured").click()
    page.wait_for_timeout(100)
    heading = page.locator("#measured h2").bounding_box()
    assert heading is not None
    assert box["height"] <= heading["y"] < 900
    assert not bar.locator("ol").is_visible()


def test_the_first_column_stays_where_a_table_scrolls(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report, width=390)
    scroll = page.locator("#comparison .scroll")
    assert scroll.evaluate("e => e.scrollWidth > e.clientWidth")
    name = scroll.locator("tbody th.name").first
    before = name.bounding_box()
    scroll.evaluate("e => { e.scrollLeft = 200; }")
    after = name.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] == before["x"]
    assert after["width"] < 390 / 2


def test_paper_opens_what_the_screen_folds(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report)
    chart = page.locator("section:has(h2:text-is('Load of the experts')) .chart svg.marks").first
    assert not chart.is_visible()
    page.emulate_media(media="print")
    assert chart.is_visible()
    box = chart.bounding_box()
    assert box is not None
    assert box["width"] > 100
    assert box["height"] > 50
    assert not page.locator(".contents.side, .contents.bar").first.is_visible()
    page.emulate_media(media="screen")
    assert not chart.is_visible()


def test_the_page_is_short(browser: Any, ten: Path) -> None:
    page, _, _ = opened(browser, ten, width=1440)
    assert page.evaluate("document.documentElement.scrollHeight") < 4500
