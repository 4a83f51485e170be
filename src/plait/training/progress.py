"""A bar for a terminal: loss, tokens per second, how balanced the experts are, time left."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from plait.training.metrics import Row


class TrainingBar:
    """Shows the rows that it is called with; give it to ``train`` as ``progress``.

    Where the output is no terminal it prints a plain line each time another twentieth is done.
    """

    def __init__(self, steps: int, title: str = "train", console: Console | None = None) -> None:
        self.steps, self.title = steps, title
        self.console = console or Console(stderr=True)
        self._printed = -1
        self._held_out = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=steps, figures="")

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, row: Row) -> None:
        """Show one row of the metrics."""
        if "evaluation" in row:
            self._held_out = f"  held out {row['evaluation']['all']['bits_per_byte']:.3f} bits/byte"
            return
        figures = _figures(row) + self._held_out
        self._progress.update(self._task, completed=row["step"], figures=figures)
        part = 20 * row["step"] // self.steps
        if not self.console.is_terminal and part > self._printed:
            self._printed = part
            self.console.print(
                f"{self.title}  {row['step']}/{self.steps}  {figures}", soft_wrap=True
            )


def _figures(row: Row) -> str:
    loss = "not finite, skipped" if row["loss"] is None else f"{row['loss']:.3f}"
    text = f"loss {loss}  {row['tokens_per_second']:,.0f} tok/s"
    loads = [load for load in row["load_max_over_mean"] if load is not None]
    if loads:
        text += f"  load max/mean {max(loads):.2f}"
    dead = sum(count or 0 for count in row["dead_experts"])
    return text + (f"  dead {dead}" if dead else "")
