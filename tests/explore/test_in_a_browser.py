"""The page in a real browser: pointed at, clicked, moved by key, and deaf to hostile text."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plait.explore.explored_model import ExploredModel
from plait.explore.html import render

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
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>\n"
    "a\u202eb\u200bc </textarea>{{7*7}} עברית"
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


class Opened:
    """A page, what it asked for and what it complained of; at the end it must have been quiet."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.page = browser.new_context(
            viewport={"width": 1440, "height": 900}, **context
        ).new_page()
        self.page.set_default_timeout(180_000)  # a busy machine is no failure
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def trace(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.get_by_role("button", name="Trace").click()
        self.page.wait_for_selector("button.primary.fresh")
        self.page.wait_for_selector("main[aria-busy=false]")

    def tokens(self) -> list[str]:
        return self.page.locator("#tokens-0 .token").all_inner_texts()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Opened]:
    page = Opened(browser, address)
    yield page
    page.page.close()
    assert page.complaints == []
    assert all(url.startswith((address, "data:")) for url in page.asked)


def chips(opened: Opened, depth: int, side: int = 0) -> list[str]:
    row = opened.page.locator(f".model[data-side='{side}'] .path tbody tr").nth(depth)
    return row.locator("button.chip b").all_inner_texts()


def test_pointing_at_a_token_shows_its_experts_and_gates(opened: Opened, models) -> None:
    text = "def walk(depth): return depth"
    opened.trace(text)
    found = models[0].analyse(text)
    assert len(opened.tokens()) == len(found["tokens"]["id"])
    opened.page.hover("#tokens-0 [data-token='3']")
    for depth in range(5):
        experts = found["depths"][depth]["experts"][3]
        assert chips(opened, depth) == [str(expert) for expert in experts]
    assert f"loss {found['tokens']['loss'][3]:.2f} nats" in opened.page.inner_text(".path-head")
    assert opened.page.locator(".thread .first").count() == 5
    assert opened.page.locator(".thread .further").count() == 5


def test_clicking_an_expert_lights_up_the_tokens_that_it_received(opened: Opened, models) -> None:
    text = "The strands of a plait cross, and come back. The strands cross."
    opened.trace(text)
    depths = models[0].analyse(text)["depths"]
    opened.page.hover("#tokens-0 [data-token='2']")
    expert = int(chips(opened, 2)[1])
    opened.page.locator(".path tbody tr").nth(2).locator("button.chip").nth(1).click()
    opened.page.mouse.move(2, 2)

    def lit() -> list[int]:
        lighted = opened.page.locator("#tokens-0 .lit")
        return sorted(int(n) for n in lighted.evaluate_all("all => all.map(t => t.dataset.token)"))

    here = [t for t, experts in enumerate(depths[2]["experts"]) if expert in experts]
    assert lit() == here
    said = opened.page.inner_text("#selection")
    assert f"Expert {expert} at depth 2 received {len(here)} of" in said
    opened.page.get_by_role("button", name="at all of its bank: 1–3").click()
    anywhere = {t for d in (1, 2, 3) for t, e in enumerate(depths[d]["experts"]) if expert in e}
    assert lit() == sorted(anywhere)
    assert "of bank 1" in opened.page.inner_text("#selection")
    assert opened.page.locator(".flow .marks rect").count() == 3
    opened.page.get_by_role("button", name="clear").click()
    assert lit() == []


def test_the_picture_answers_to_pointer_and_keyboard(opened: Opened) -> None:
    opened.page.locator(".flow .hit").first.click()
    assert "Expert 0 at depth 0 received" in opened.page.inner_text("#selection")
    opened.page.keyboard.press("Escape")
    opened.page.focus(".flow")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
        opened.page.keyboard.press(key)
    assert "Expert 3 at depth 1 received" in opened.page.inner_text("#selection")
    opened.page.locator(".ribbons path").first.dispatch_event("click")
    assert "→ depth 1 expert" in opened.page.inner_text("#selection")


def test_banks_that_depths_share_are_drawn_as_the_plans_say(opened: Opened) -> None:
    titles = opened.page.locator(".lane .bank title").all_text_contents()
    assert "experts bank 1: depths 1–3" in titles
    assert "experts bank 0: depth 0 alone" in titles
    assert "router bank 0: depths 0–2" in titles
    assert "decision bank 3: depths 3–4" in titles
    assert opened.page.locator(".lane").count() == 3  # attention and norms share nothing


def test_tokens_are_walked_pinned_and_cleared_by_key(opened: Opened) -> None:
    opened.trace("one two three\nfour five six")
    opened.page.focus("#tokens-0")

    def active() -> tuple[int, bool]:
        token = opened.page.locator("#tokens-0 .active")
        name = opened.page.get_attribute("#tokens-0", "aria-activedescendant")
        assert token.get_attribute("id") == name
        return int(token.get_attribute("data-token")), "pinned" in token.get_attribute("class")

    opened.page.keyboard.press("Home")
    assert active() == (0, False)
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("Enter")
    assert active() == (1, True)
    opened.page.hover("#tokens-0 [data-token='5']")
    assert active() == (1, True)
    opened.page.keyboard.press("ArrowDown")
    line = opened.tokens().index("⏎")
    assert active()[0] > line
    opened.page.keyboard.press("ArrowUp")
    assert active()[0] < line
    sync_api.expect(opened.page.locator("#live")).to_contain_text("pinned")
    opened.page.keyboard.press("Escape")
    assert not active()[1]
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#tokens-0 .active").count() == 0


def test_two_models_are_compared_on_the_same_tokens(opened: Opened, models) -> None:
    opened.page.select_option("#model-1", label="plain")
    opened.page.wait_for_selector(".model[data-side='1'] .flow")
    opened.page.get_by_role("button", name="loss A − B").click()
    assert opened.page.locator("#tokens-0 [data-heat]").count() == len(opened.tokens())
    opened.page.hover("#tokens-0 [data-token='4']")
    text = opened.page.input_value("#text")
    for side in (0, 1):
        depths = models[side].analyse(text)["depths"]
        assert chips(opened, 1, side) == [str(e) for e in depths[1]["experts"][4]]
    opened.page.locator(".model[data-side='1'] button.chip").first.click()
    assert opened.page.locator(".model[data-side='0'] .lit path").count() > 0
    assert not opened.page.locator("#notice").is_visible()


def test_tokenizers_that_differ_are_said_and_both_shown(opened: Opened) -> None:
    opened.page.select_option("#model-1", label="finer")
    opened.page.wait_for_selector("#tokens-1")
    assert "The tokenizers differ" in opened.page.inner_text("#notice")
    both = [opened.page.locator(f"#tokens-{side} .token").count() for side in (0, 1)]
    assert both[0] < both[1]
    opened.page.hover("#tokens-0 [data-token='0']")
    cut = opened.page.locator("#tokens-1 .active").all_inner_texts()
    assert "".join(cut) == opened.tokens()[0]
    assert opened.page.locator("button", has_text="loss A − B").count() == 0


def test_hostile_text_is_shown_and_never_run(opened: Opened) -> None:
    title = opened.page.title()
    opened.trace(HOSTILE)
    shown = opened.page.inner_text("#tokens-0").replace("\n", "")
    assert "<script>" in shown.replace("·", " ")
    assert not {"\u202e", "\u200b"} & set(shown)
    assert {"E2", "80"} & set(opened.tokens()) or "RLO" in shown
    for token in range(0, len(opened.tokens()), 5):
        opened.page.hover(f"#tokens-0 [data-token='{token}']")
    assert opened.page.title() == title
    assert opened.page.locator("main img, main script, main iframe").count() == 0
    assert opened.page.locator("#tokens-0 *:not(span, br)").count() == 0


def test_text_that_is_too_long_is_refused_in_words(opened: Opened) -> None:
    opened.page.fill("#text", "7x" * 300)
    opened.page.get_by_role("button", name="Trace").click()
    error = sync_api.expect(opened.page.locator("#error"))
    error.to_contain_text("tokens for woven, at most 255")
    assert len(opened.complaints) == 1  # the browser's own line on the 413
    opened.complaints.clear()
    opened.page.fill("#text", "a" * 40_000)
    assert "at most 32,768 are read" in opened.page.inner_text("#size")
    assert opened.page.get_by_role("button", name="Trace").is_disabled()


def test_nothing_jumps_while_pointing(opened: Opened) -> None:
    def places() -> list[Any]:
        return opened.page.evaluate(
            "[...document.querySelectorAll('#tokens, .flow, .path tbody tr, .keys')]"
            ".map(e => JSON.stringify(e.getBoundingClientRect()))"
        )

    opened.page.keyboard.press("Escape")
    before = places()
    for token in range(0, 30, 7):
        opened.page.hover(f"#tokens-0 [data-token='{token}']")
        assert places() == before
    opened.page.locator("button.chip").nth(3).click()
    assert places() == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_theme(browser: Any, address: str, scheme: str) -> None:
    opened = Opened(browser, address, has_touch=True, color_scheme=scheme)
    opened.page.set_viewport_size({"width": 390, "height": 844})
    opened.page.select_option("#model-1", label="finer")
    opened.page.wait_for_selector("#tokens-1")
    assert "tapping a token marks" in opened.page.inner_text("#notice")
    opened.page.locator("#tokens-0 [data-token='6']").tap()
    assert "→" in opened.page.inner_text("#readout")
    wide = "[document.documentElement.scrollWidth, innerWidth]"
    assert opened.page.evaluate(wide) == [390, 390]
    background = "getComputedStyle(document.documentElement).backgroundColor"
    bright = {"light": True, "dark": False}
    assert (opened.page.evaluate(background) > "rgb(2") == bright[scheme]
    order = ["light", "dark", "auto"]
    for theme in order:
        opened.page.click("#theme")
        expected = bright[scheme if theme == "auto" else theme]
        assert (opened.page.evaluate(background) > "rgb(2") == expected
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize("finger", [False, True])
def test_its_words_are_those_of_the_device(
    browser: Any, models: list[ExploredModel], tmp_path: Path, finger: bool
) -> None:
    described, found = models[0].describe(), models[0].analyse("The strands cross.")
    given = {"models": [described], "texts": [{"text": "The strands cross.", "analyses": [found]}]}
    (tmp_path / "page.html").write_text(render(given), encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()
    opened = Opened(browser, address, has_touch=finger, is_mobile=finger)
    opened.page.set_viewport_size({"width": 390, "height": 844})
    opened.page.keyboard.press("Escape")
    words = " ".join(opened.page.locator(":is(#selection, .path-head, #readout)").all_inner_texts())
    said = {verb: verb in words for verb in ("Point", "Click", "Tap")}
    assert said == {"Point": not finger, "Click": not finger, "Tap": finger}
    assert opened.page.locator(".keys").is_visible() is not finger
    assert opened.page.locator("select:visible").count() == 0, "one model is no choice"
    assert "woven" in opened.page.inner_text(".pick[data-side='0']")
    assert opened.complaints == []
    opened.page.close()


def test_a_static_page_needs_no_server(
    browser: Any, models: list[ExploredModel], tmp_path: Path
) -> None:
    texts = [HOSTILE, "The strands cross.</script>"]
    data = {
        "models": [model.describe() for model in models[:2]],
        "texts": [{"text": t, "analyses": [m.analyse(t) for m in models[:2]]} for t in texts],
    }
    file = tmp_path / "page.html"
    file.write_text(render(data), encoding="utf-8")
    opened = Opened(browser, file.as_uri())
    opened.page.locator("#texts button").nth(1).click()
    sync_api.expect(opened.page.locator("#text")).to_have_value(texts[1])
    assert opened.page.locator("textarea:visible, input:visible").count() == 0
    assert "it holds what was exported" in opened.page.inner_text("#given")
    opened.page.hover("#tokens-0 [data-token='1']")
    expected = data["texts"][1]["analyses"][0]["depths"][0]["experts"][1]
    assert chips(opened, 0) == [str(expert) for expert in expected]
    opened.page.select_option("#model-1", label="plain")
    opened.page.wait_for_selector(".model[data-side='1'] .flow")
    assert "owned" not in opened.page.title()
    assert opened.asked == [file.as_uri()]
    assert opened.complaints == []
    opened.page.close()
