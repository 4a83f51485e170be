"""The site: it builds strictly, and reads well in a real browser, on a desk and on a phone."""

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import toys

from plait.cli.commands import COMMANDS

pytest.importorskip("furo", reason="the extra docs is not installed")
BUILDER = toys.ROOT / "docs" / "site"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
KINDS = (
    "index",
    "start",
    "methods",
    "commands/trace",
    "names/plait.optim",
    "lab/2026-11-22-tying-a-trained-model",
    "search",
)
"""a page of each kind"""
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": "# Tied\n\n[How](../docs/how.md)",
        },
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {},
            "source": "1 / 0",
            "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "as it was saved"}],
        },
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
ROOMS = ("atomic", "optim", "sharing")
"""folders of the package that the test's site describes; all take a minute (`make docs`)"""
UNDOCUMENTED = '''
"""A module. See `plait.nothing.at_all`."""

def lonely():
    return 1
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with a part of the package, built once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "site" / "built").exists():
            command = [sys.executable, str(BUILDER / "build.py"), str(shared / "site"), *ROOMS]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (shared / "site" / "built").touch()
    return shared / "site" / "html"


@pytest.mark.slow
def test_it_builds_strictly_with_every_command(site: Path) -> None:
    commands = {path.stem for path in (site / "commands").glob("*.html")}
    assert commands == {"index", *(name.replace(" ", "-") for name in COMMANDS)}
    names = {path.stem for path in (site / "names").glob("*.html")}
    assert names == {"index", *(f"plait.{room}" for room in ROOMS)}
    assert 'id="plait.sharing.Sharing"' in (site / "names" / "plait.sharing.html").read_text()
    option = 'id="cmdoption-plait-train-model.sharing.router"'
    assert option in (site / "commands" / "train.html").read_text()
    assert "<math" in (site / "methods.html").read_text()


class SmallSite:
    """A repository of a few pages, and what comes of building it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(BUILDER))
        import build

        self.folder, self.build = folder, build
        self.names: dict[str, str] = {}
        monkeypatch.setattr(build, "ROOT", folder / "repository")
        monkeypatch.setattr(build, "command_pages", dict)  # none
        monkeypatch.setattr(build, "name_pages", lambda rooms: self.names)
        for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
            self.write(name, "---\norphan: true\n---\n# Title\n")
        self.write("docs/how.md", "# How\n")
        toctree = "```{toctree}\n:glob:\n\nhow\nexamples/*\nnames/*\n```\n"
        self.write("docs/index.md", f"# Start\n\n{toctree}")

    def write(self, place: str, text: str) -> None:
        path = self.folder / "repository" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def made(self) -> int:
        return self.build.main(self.folder / "out")

    def page(self, name: str) -> str:
        return (self.folder / "out" / "html" / f"{name}.html").read_text()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallSite:
    return SmallSite(tmp_path, monkeypatch)


def test_a_notebook_becomes_a_page_as_it_was_saved(small: SmallSite) -> None:
    assert small.made() == 0  # without any
    small.write("examples/tied.ipynb", json.dumps(NOTEBOOK))
    assert small.made() == 0
    assert 'href="examples/tied.html"' in small.page("index")
    page = small.page("examples/tied")
    assert "as it was saved" in page  # running it would fail
    assert 'href="../how.html"' in page
    (small.folder / "repository" / "examples" / "tied.ipynb").unlink()
    assert small.made() == 0
    assert "tied" not in small.page("index")


def test_what_leads_nowhere_or_says_nothing_fails(
    small: SmallSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small.write("docs/how.md", "# How\n\n[a](nowhere.md) [b](index.md#no-heading)\n")
    small.write("plait_undocumented.py", UNDOCUMENTED)
    monkeypatch.syspath_prepend(str(small.folder / "repository"))
    module = "plait_undocumented"
    small.names = {"one": f"One\n===\n\n.. automodule:: {module}\n   :members:\n"}
    assert small.made() != 0
    said = capsys.readouterr().err
    for wrong in ("nowhere.md", "no-heading", "plait.nothing.at_all", f"{module}.lonely has no"):
        assert wrong in said


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Reader:
    """A window; at the end nothing was asked of another place, and nothing complained."""

    def __init__(self, browser: Any, width: int, scheme: str) -> None:
        size = {"width": width, "height": 900}
        self.page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
        self.page.set_default_timeout(180_000)  # a busy machine is no failure
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def close(self, address: str) -> None:
        self.page.close()
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith((address, "data:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_a_page_of_each_kind_is_accessible_and_no_wider_than_the_window(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    reader = Reader(browser, width, scheme)
    for kind in KINDS:
        reader.page.goto(f"{address}/{kind}.html")
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= width, kind
        found = axe.run(reader.page).response["violations"]
        nodes = {v["id"]: [node["html"][:200] for node in v["nodes"][:3]] for v in found}
        assert nodes == {}, kind
    reader.close(address)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "page"),
    [("TOST", "fair-comparison.html"), ("--untie", "commands/export.html"), ("hub", "data.html")],
)
def test_a_word_finds_its_page(browser: Any, address: str, word: str, page: str) -> None:
    reader = Reader(browser, 1440, "light")
    reader.page.goto(f"{address}/start.html")
    reader.page.fill("input.sidebar-search", word)
    reader.page.press("input.sidebar-search", "Enter")
    reader.page.locator(f"ul.search a[href^='{page}']").first.click()
    reader.page.wait_for_url(f"**/{page}*")
    reader.close(address)
