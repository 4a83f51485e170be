"""Stage by stage what waits, and how it ended: shared by the runner and by jobs of a cluster."""

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from plait.storage.run_folder import LOG, RunFolder
from plait.studies.plan import PlannedRun
from plait.studies.stages import ALL, next_stage
from plait.studies.study import Study

_TORCHRUN = "torch/distributed/elastic/multiprocessing/api.py"
"""in what torchrun says of a process that failed, before its traceback"""


Printer = Console | Progress
"""what is printed through: bars, where there are some, since they print above themselves"""


@dataclass
class Outcome:
    """How the runs of a study ended, by their folders' names."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 when every run is finished, else 1."""
        return 1 if self.failed or self.interrupted else 0


def rounds(
    study: Study, root: Path, outcome: Outcome, stop: "Stop", console: Console
) -> Iterator[tuple[str, list[PlannedRun]]]:
    """Give a title and the runs that wait, stage by stage, until all is trained or has failed.

    Each run is given once; those that were finished before are noted as skipped.
    """
    met: set[str] = set()  # folders of the stages before
    while not stop.asked:
        stage = next_stage(study, root)
        new = [planned for planned in stage.runs if planned.folder.name not in met]
        waiting = [planned for planned in stage.waiting if planned in new]
        before = [planned.folder.name for planned in new if planned not in waiting]
        met |= {planned.folder.name for planned in new}
        outcome.skipped += before
        if not waiting:
            return
        if before:
            console.print(f"{len(before)} runs were finished before, {len(waiting)} to do")
        yield escape(study.name if stage.name == ALL else f"{study.name}, {stage.name}"), waiting


class Stop:
    """Counts SIGINT and SIGTERM while the study runs, and puts the old handlers back.

    Outside the main thread signals cannot be caught, and nothing is.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._handled = 0

    def take_request(self) -> bool:
        """Whether a signal came since the last call."""
        new = self.asked > self._handled
        self._handled = self.asked
        return new

    def __enter__(self) -> "Stop":
        caught = (signal.SIGINT, signal.SIGTERM) if _in_main_thread() else ()
        self._old = {number: signal.signal(number, self._ask) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked += 1


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def leave(planned: PlannedRun, elsewhere: list[PlannedRun], console: Printer) -> None:
    """Leave a run to the process that trains it."""
    elsewhere.append(planned)
    console.print(f"{escape(planned.name)}: another process trains it, and it is left to that")


def back(
    elsewhere: list[PlannedRun], outcome: Outcome
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Take the runs back that nobody trains any more: those that are finished, and the others."""
    ended = [planned for planned in elsewhere if not RunFolder(planned.folder).held]
    for planned in ended:
        elsewhere.remove(planned)
    done = [planned for planned in ended if RunFolder(planned.folder).finished]
    outcome.skipped += [planned.folder.name for planned in done]
    return done, [planned for planned in ended if planned not in done]


def report_end(
    planned: PlannedRun,
    outcome: Outcome,
    console: Printer,
    last_words: Callable[[], str],
    stopped: str | None,
) -> None:
    """Say in one line how a run ended.

    Args:
        planned: the run.
        outcome: where it is noted.
        console: where it is said.
        last_words: of its process: of a failure, the reason.
        stopped: where it stopped, if it was asked to.
    """
    folder, name = planned.folder, escape(planned.name)
    result = RunFolder(folder).result()
    if result is not None:
        outcome.finished.append(folder.name)
        loss = f"{result.held_out():.4f}"
        console.print(f"{name}: held-out loss {loss} nats/token, {result.seconds:.0f} s")
    elif planned.tunes and RunFolder(folder).diverged:
        outcome.finished.append(folder.name)
        rate = planned.config.optimizer.learning_rate
        console.print(f"{name}: diverged, so its learning rate of {rate:g} is not chosen")
    elif stopped is not None:
        console.print(f"{name}: stopped {stopped}")
    else:
        outcome.failed.append(folder.name)
        reason = escape(f"{last_words()} (log: {folder / LOG})")
        console.print(f"[red]{name} failed:[/] {reason}", soft_wrap=True)


def last_words(log: Path, start: int = 0) -> str:
    """Return the last line of a log from a byte on; empty where there is none.

    What torchrun adds when a process of it fails is passed over.
    """
    text = log.read_bytes()[start:] if log.exists() else b""
    lines = text.decode("utf-8", errors="replace").split("\n")
    of_torchrun = [n for n, line in enumerate(lines) if _TORCHRUN in line and "failed" in line]
    lines = [line for line in lines[: max(of_torchrun, default=None)] if _TORCHRUN not in line]
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1] if spoken else ""
