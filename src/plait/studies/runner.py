"""Running a study: a process per run, several at a time, with a progress bar throughout.

`run_study` is for programs and notebooks: it returns what was measured. `run` is what the command
line calls: it returns how the runs ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from plait.config.files import save_yaml
from plait.data import corpora
from plait.notebook.bars import progress
from plait.parallel import default_device
from plait.storage.metrics_file import NewRows
from plait.storage.run_folder import CONFIG, LOG, METRICS, RunFolder
from plait.studies.forecast import forecast
from plait.studies.plan import PlannedRun
from plait.studies.results import StudyResults, read_study
from plait.studies.stages import ALL, next_stage
from plait.studies.study import Study
from plait.studies.throughput import threads
from plait.studies.worker import HELD

POLL_SECONDS = 0.2


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


def worker_command(folder: Path, device: str | None = None) -> list[str]:
    """The command that trains one run folder."""
    chosen = [] if device is None else [device]
    return [sys.executable, "-m", "plait.studies.worker", str(folder), *chosen]


def run_study(
    study: Study,
    runs: str | Path = "runs",
    *,
    jobs: int | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> StudyResults:
    """Train every run of the study that is not finished yet, and return what all have measured.

    A named corpus is built where it is not there yet. Progress is drawn in the terminal, or below
    the cell of a notebook. Call it again to go on after an interruption: finished runs are not
    trained again, and those under way resume bit for bit.

    Args:
        study: what to run; it may be defined in the notebook itself.
        runs: the folder of all studies.
        jobs: processes at a time; None: a few steps tell what is fastest here, where that pays.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        console: where progress is drawn.

    Raises:
        KeyboardInterrupt: on Ctrl-C or a notebook's stop button, once the runs under way have saved
            their checkpoints.
        RuntimeError: runs failed; the others are finished, and `read_study` reads them.
        ValueError: a setting makes no sense, or every rate of a tuning grid diverged.
    """
    root, console = Path(runs), console or Console()
    for corpus in dict.fromkeys(config.data.corpus for config in study.variants.values()):
        if corpora.is_missing(corpus):
            with progress(console) as bars:
                corpora.ensure(corpus, bars)
    if jobs is None:
        jobs = forecast(study, root, cpu=default_device(device).type == "cpu").jobs
    outcome = run(study, root, jobs=jobs, device=device, console=console)
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.failed:
        raise RuntimeError(
            f"study {study.name}: {', '.join(outcome.failed)} failed: {LOG} in each folder says "
            "why; run the study again to try them once more"
        )
    return read_study(root / study.name)


def run(
    study: Study,
    root: Path,
    *,
    jobs: int = 1,
    device: str | None = None,
    console: Console | None = None,
    command: Callable[[Path], list[str]] | None = None,
) -> Outcome:
    """Train every run of the study that is not finished yet.

    Args:
        study: what to run.
        root: the folder of all studies (`runs`).
        jobs: processes at a time; the processor's threads are divided among them.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        console: where progress is drawn.
        command: from a run folder to the command that trains it; None: ours.

    A failed run is reported in one line and the others go on. A run that another launcher trains is
    left to it, and taken up where that dies. The first SIGINT or SIGTERM lets the
    running processes save their checkpoints, a second one kills them; run again to resume.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one run at a time")
    console = console or Console()
    command = command or partial(worker_command, device=device)
    outcome = Outcome()
    met: set[str] = set()  # folders of the stages before
    with _Stop() as stop:
        while not stop.asked:
            stage = next_stage(study, root)
            new = [planned for planned in stage.runs if planned.folder.name not in met]
            waiting = [planned for planned in stage.waiting if planned in new]
            before = [planned.folder.name for planned in new if planned not in waiting]
            met |= {planned.folder.name for planned in new}
            outcome.skipped += before
            if not waiting:
                break  # all is trained, or what is left has failed
            if before:
                console.print(f"{len(before)} runs were finished before, {len(waiting)} to do")
            title = study.name if stage.name == ALL else f"{study.name}, {stage.name}"
            with _bars(console) as bars:
                _train(waiting, jobs, command, stop, outcome, bars, escape(title))
    outcome.interrupted = bool(stop.asked)
    if outcome.interrupted:
        console.print(f"interrupted: run study {escape(study.name)} again to go on from here")
    return outcome


def _train(
    waiting: list[PlannedRun],
    jobs: int,
    command: Callable[[Path], list[str]],
    stop: "_Stop",
    outcome: Outcome,
    bars: Progress,
    title: str,
) -> None:
    """Train runs that need nothing of one another."""
    active: list[_Active] = []
    elsewhere: list[PlannedRun] = []  # in the hands of another launcher
    overall = bars.add_task(f"study {title}", total=_tokens(waiting), status="")
    gone = 0  # tokens of the runs that have ended, whether well or not
    while active or ((waiting or elsewhere) and not stop.asked):
        while waiting and len(active) < jobs and not stop.asked:
            planned = waiting.pop(0)
            if RunFolder(planned.folder).held:
                _leave(planned, elsewhere, bars)
            else:
                active.append(_Active(planned, jobs, command, bars))
        if stop.take_request():
            bars.console.print("stopping: the runs save their checkpoints (again to kill them)")
            for run_ in active:
                run_.interrupt(kill=stop.asked > 1)
        time.sleep(POLL_SECONDS)
        for run_ in list(active):
            run_.follow(bars)
            if run_.process.poll() is None:
                continue
            active.remove(run_)
            if run_.process.returncode == HELD:
                run_.close(bars)
                _leave(run_.planned, elsewhere, bars)
                continue
            gone += run_.planned.tokens
            _report_end(run_, stop, outcome, bars)
        for planned in list(elsewhere):
            if RunFolder(planned.folder).held:
                continue
            elsewhere.remove(planned)
            if RunFolder(planned.folder).finished:
                gone += planned.tokens
                outcome.skipped.append(planned.folder.name)
            else:  # whoever had it is gone
                waiting.append(planned)
        bars.update(overall, completed=gone + sum(run_.tokens for run_ in active))


class _Active:
    """A run under way: its process, and its metrics as far as they have been read."""

    def __init__(
        self,
        planned: PlannedRun,
        jobs: int,
        command: Callable[[Path], list[str]],
        bars: Progress,
    ) -> None:
        self.planned = planned
        self.tokens = 0
        self._printed = 0
        folder = planned.folder
        self._rows = NewRows(folder / METRICS)
        folder.mkdir(parents=True, exist_ok=True)
        save_yaml(planned.config, folder / CONFIG)
        each = str(max(1, threads() // jobs))
        with (folder / LOG).open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                command(folder),
                stdin=subprocess.PIPE,  # closes when we die: the worker's sign to stop
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each},
                start_new_session=True,  # the terminal's Ctrl-C reaches it through us, once
            )
        self.bar: TaskID = bars.add_task(
            f"  {escape(planned.name)}", total=planned.tokens, status="starting"
        )

    def interrupt(self, kill: bool) -> None:
        """Ask the process to save and stop, or end it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)

    def follow(self, bars: Progress) -> None:
        """Read the metrics written since the last look, and move the bar."""
        for row in self._rows.take():
            self.tokens = int(row.get("tokens", self.tokens))
            if "tokens_per_second" in row:
                loss = "not finite" if row["loss"] is None else f"{row['loss']:.3f} nats"
                status = f"loss {loss}  {row['tokens_per_second']:,.0f} tok/s"
                if self.tokens >= self.planned.tokens:
                    status = "scoring held-out text"
                bars.update(self.bar, completed=self.tokens, status=status)
                self._print_parts(status, bars)

    def _print_parts(self, status: str, bars: Progress) -> None:
        """Where no bar is drawn, since the output is a file: a line for each quarter."""
        quarter = 4 * self.tokens // self.planned.tokens
        drawn = bars.console.is_terminal or bars.console.is_jupyter
        if quarter > self._printed and not drawn:
            self._printed = quarter
            bars.print(f"{escape(self.planned.name)}: {25 * quarter} %  {status}")

    def close(self, bars: Progress) -> None:
        """Take the bar away, once the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        bars.remove_task(self.bar)

    def last_words(self) -> str:
        """The last line that the process printed: of a failure, its reason."""
        text = (self.planned.folder / LOG).read_bytes()[self._log_start :]
        lines = text.decode("utf-8", errors="replace").split("\n")
        spoken = [line.strip() for line in lines if line.strip()]
        return spoken[-1] if spoken else f"no message, exit status {self.process.returncode}"


class _Stop:
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

    def __enter__(self) -> "_Stop":
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


def _leave(planned: PlannedRun, elsewhere: list[PlannedRun], bars: Progress) -> None:
    elsewhere.append(planned)
    bars.print(f"{escape(planned.name)}: another process trains it, and it is left to that")


def _report_end(run_: _Active, stop: _Stop, outcome: Outcome, bars: Progress) -> None:
    folder, name = run_.planned.folder, escape(run_.planned.name)
    run_.close(bars)
    result = RunFolder(folder).result()
    if result is not None:
        outcome.finished.append(folder.name)
        loss = f"{result.held_out():.4f}"
        bars.print(f"{name}: held-out loss {loss} nats/token, {result.seconds:.0f} s")
    elif run_.planned.tunes and RunFolder(folder).diverged:
        outcome.finished.append(folder.name)
        rate = run_.planned.config.optimizer.learning_rate
        bars.print(f"{name}: diverged, so its learning rate of {rate:g} is not chosen")
    elif stop.asked:
        bars.print(f"{name}: stopped at {run_.tokens:,} tokens")
    else:
        outcome.failed.append(folder.name)
        reason = escape(f"{run_.last_words()} (log: {folder / LOG})")
        bars.print(f"[red]{name} failed:[/] {reason}", soft_wrap=True)


def _bars(console: Console) -> Progress:
    return progress(
        console,
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        expand=True,
    )


def _tokens(runs: list[PlannedRun]) -> int:
    return sum(planned.tokens for planned in runs)
