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
    lines = page.locator("section:has(h2:text-is('While training')) .mark-line path")
    page.locator(".key button[data-variant=tied]").last.click()
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
