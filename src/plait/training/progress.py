"""Progress of one run: loss, tokens per second, load balance, time left."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from plait.config import TrainConfig
from plait.notebook.bars import progress
from plait.storage.metrics_file import Row


class TrainingBar:
    """A context that draws a bar, in a terminal or a notebook; call it with each row of metrics.

    Elsewhere it prints a plain line each time another twentieth is done.
    """

    def __init__(self, config: TrainConfig, console: Console | None = None) -> None:
        self.steps, self.console = config.steps, console or Console()
        self.drawn = self.console.is_terminal or self.console.is_jupyter
        self.progress = progress(
            self.console,
            TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            disable=not self.drawn,
        )
        self.task = self.progress.add_task("", total=config.steps, status="")
        self._printed = -1

    def __enter__(self) -> "TrainingBar":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def __call__(self, row: Row) -> None:
        """Show one row; evaluations are printed above the bar."""
        if "evaluation" in row:
            overall = row["evaluation"]["all"]
            self._print(
                f"step {row['step']:,}: held-out {overall['loss']:.4f} nats/token, "
                f"{overall['bits_per_byte']:.4f} bits per byte"
            )
            return
        if "recovery" in row:
            self._print(
                f"step {row['recovery']['step']:,}: steps were not finite; back at step "
                f"{row['step']:,}, and on past {row['recovery']['tokens_skipped']:,} tokens"
            )
            return
        if "compiling" in row:
            on_cpu = ", slower than without --compile: the C++ kernels are left out"
            slower = on_cpu if row["compiling"] == "cpu" else ""
            self._print(f"the first step compiles each kind of depth{slower}")
            return
        if "first_step_seconds" in row:
            self._print(f"compiled: the first step took {row['first_step_seconds']:,.0f} seconds")
            return
        status = _status(row)
        self.progress.update(self.task, completed=row["step"], status=status)
        twentieth = 20 * row["step"] // self.steps
        if not self.drawn and twentieth > self._printed:
            self._printed = twentieth
            self._print(f"step {row['step']:,} of {self.steps:,}: {status}")

    def _print(self, line: str) -> None:
        self.progress.print(line, soft_wrap=True, highlight=False)


def _status(row: Row) -> str:
    loss = row["loss"]
    status = "loss " + ("not finite, step skipped" if loss is None else f"{loss:.3f}")
    status += f" · {row['tokens_per_second']:,.0f} tokens/s"
    peaks = [peak for peak in row["load_max_over_mean"] if peak is not None]
    if peaks:
        status += f" · load max/mean {max(peaks):.2f}"
    dead = sum(count or 0 for count in row["dead_experts"])
    return status + (f" · dead experts {dead}" if dead else "")
