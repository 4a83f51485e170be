"""Progress in a notebook: bars that are drawn in the output of their cell, and change in place."""

import time
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from plait.notebook.tables import note

_SECONDS = 0.2
"""between two drawings at the least"""


def progress(console: Console, *columns: ProgressColumn, **options: Any) -> Progress:
    """Return a display of bars, as rich draws them in a terminal or as a notebook shows them."""
    kind = NotebookProgress if console.is_jupyter else Progress
    return kind(*columns, console=console, **options)


class NotebookProgress(Progress):
    """The bars of rich as HTML, with what is printed beside them below; no widgets are needed."""

    def __init__(self, *columns: ProgressColumn, console: Console, **options: Any) -> None:
        super().__init__(*columns, console=console, auto_refresh=False, **options)
        self.printed: list[str] = []
        self._shown: Any = None
        self._drawn = 0.0
        self.print = self._print  # rich sets it on each object

    def start(self) -> None:
        """Show it below the cell."""
        from IPython.display import display

        self._shown = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Draw it for the last time, without the bars that are done."""
        for task in self.tasks:
            task.visible = not task.finished
        self._draw()

    def refresh(self) -> None:
        """Draw it anew, unless it was drawn just before."""
        if time.monotonic() - self._drawn >= _SECONDS:
            self._draw()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See `rich.progress.Progress.update`."""
        super().update(task_id, **changes)
        self.refresh()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """See `rich.progress.Progress.advance`."""
        super().advance(task_id, advance)
        self.refresh()

    def _print(self, *objects: Any, **_: Any) -> None:
        self.printed.append(" ".join(Text.from_markup(str(one)).plain for one in objects))
        self.refresh()

    def _draw(self) -> None:
        if self._shown is not None:
            self._drawn = time.monotonic()
            self._shown.update(self)

    def _repr_mimebundle_(self, *_: object, **__: object) -> dict[str, str]:
        """Take the place of rich's own, which draws a terminal."""
        bars = "".join(_bar(task) for task in self.tasks if task.visible)
        html = f"<div>{bars}{''.join(map(note, self.printed))}</div>"
        return {"text/html": html, "text/plain": "\n".join(self.printed)}


def _bar(task: Task) -> str:
    said = f"{task.percentage:.0f} %"
    if task.time_remaining is not None:
        said += f" · {task.time_remaining:.0f} s left"
    if status := task.fields.get("status"):
        said += f" · {status}"
    amount = "" if task.total is None else f'value="{task.completed:.0f}" max="{task.total:.0f}"'
    name = Text.from_markup(task.description).plain
    return (
        f'<div><progress {amount} style="width: 16em; vertical-align: middle"></progress> '
        f"{escape(name)} <small>{escape(said)}</small></div>"
    )
