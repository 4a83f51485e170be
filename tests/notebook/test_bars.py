"""Bars in a notebook: what is drawn in the place of the cell's output, and how often."""

import io
from xml.etree import ElementTree

import IPython.display
import pytest
from IPython.core.formatters import DisplayFormatter
from rich.console import Console
from rich.progress import Progress

from plait.notebook import bars
from plait.notebook.bars import NotebookProgress, progress


class Handle:
    """The place of an output: what was drawn there, one after another."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def update(self, shown: NotebookProgress) -> None:
        self.bundle, _ = DisplayFormatter().format(shown)
        self.drawn.append(self.bundle["text/html"])


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    return handle


def test_only_a_notebook_gets_its_own_bars() -> None:
    assert type(progress(Console(file=io.StringIO()))) is Progress
    assert type(progress(Console(file=io.StringIO(), force_jupyter=True))) is NotebookProgress


def test_bars_move_in_place_and_leave_what_was_printed(
    place: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "_SECONDS", 0.0)
    output = io.StringIO()
    with progress(Console(file=output, force_jupyter=True)) as shown:
        task = shown.add_task("study [b]<a>[/b]", total=200, status="")
        shown.update(task, completed=50, status="loss 3.1")
        [bar] = ElementTree.fromstring(place.drawn[-1]).iter("progress")
        assert (bar.attrib["value"], bar.attrib["max"]) == ("50", "200")
        assert "study <a>" in "".join(ElementTree.fromstring(place.drawn[-1]).itertext())
        assert "loss 3.1" in place.drawn[-1]
        shown.print("[red]a failed:[/] why")
        shown.advance(task, 150)
    assert "<progress" not in place.drawn[-1]  # it is done
    assert "a failed: why" in place.drawn[-1]
    assert place.bundle["text/plain"] == "a failed: why"
    assert output.getvalue() == ""


def test_what_is_not_done_stays_to_be_seen(place: Handle) -> None:
    with progress(Console(file=io.StringIO(), force_jupyter=True)) as shown:
        shown.update(shown.add_task("half", total=2), completed=1)
    assert 'value="1" max="2"' in place.drawn[-1]


def test_it_is_not_drawn_for_every_step(place: Handle) -> None:
    with progress(Console(file=io.StringIO(), force_jupyter=True)) as shown:
        task = shown.add_task("steps", total=None)
        for _ in range(1000):
            shown.advance(task)
    assert 1 <= len(place.drawn) < 100
