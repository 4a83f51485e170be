"""Running a study: a process per run, several at a time, with a progress bar throughout."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
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
from plait.storage.lease import HELD
from plait.storage.metrics_file import NewRows
from plait.storage.run_folder import CONFIG, LOG, METRICS, RunFolder
from plait.studies.devices import (
    ask_to_stop,
    own_gpus,
    require_gpus,
    visible_gpus,
    worker_command,
)
from plait.studies.plan import PlannedRun
from plait.studies.stages import ALL, next_stage
from plait.studies.study import Study
from plait.studies.throughput import threads

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
"""between two looks at the runs that others train"""
_TORCHRUN = "torch/distributed/elastic/multiprocessing/api.py"
"""in what torchrun says of a process that failed, before its traceback"""


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


def run(
    study: Study,
    root: Path,
    *,
    jobs: int = 1,
    device: str | None = None,
    gpus_per_run: int = 1,
    console: Console | None = None,
    command: Callable[[Path], list[str]] | None = None,
) -> Outcome:
    """Train every run of the study that is not finished yet.

    Args:
        study: what to run.
        root: the folder of all studies (`runs`).
        jobs: runs at a time; the processor's threads, and GPUs, are divided among them.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        gpus_per_run: a process for each; on the CPU just processes.
        console: where progress is drawn.
        command: from a run folder to the command that trains it; None: ours.

    A failed run is reported in one line and the others go on. A run that another launcher trains is
    left to it, and taken up where that dies. The first SIGINT or SIGTERM lets the
    running processes save their checkpoints, a second one kills them; run again to resume.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one run at a time")
    console = console or Console()
    gpus = visible_gpus(device)
    require_gpus(gpus_per_run, gpus, device)
    command = command or partial(worker_command, device=device, processes=gpus_per_run)
    places = [
        _Place(
            gpus_per_run,
            max(1, threads() // (jobs * gpus_per_run)),
            own_gpus(slot, gpus_per_run, gpus),
        )
        for slot in range(jobs)
    ]
    outcome = Outcome()
    with Stop() as stop:
        for title, waiting in rounds(study, root, outcome, stop, console):
            with _bars(console) as bars:
                _train(waiting, places, command, stop, outcome, bars, title)
    outcome.interrupted = bool(stop.asked)
    if outcome.interrupted:
        console.print(f"interrupted: `plait study run {escape(study.name)}` goes on from here")
    return outcome


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


def _train(
    waiting: list[PlannedRun],
    free: list["_Place"],
    command: Callable[[Path], list[str]],
    stop: "Stop",
    outcome: Outcome,
    bars: Progress,
    title: str,
) -> None:
    """Train runs that need nothing of one another."""
    active: list[_Active] = []
    elsewhere: list[PlannedRun] = []  # in the hands of another launcher
    overall = bars.add_task(f"study {title}", total=_tokens(waiting), status="")
    looked = time.monotonic()
    gone = 0  # tokens of the runs that have ended, whether well or not
    while active or ((waiting or elsewhere) and not stop.asked):
        while waiting and free and not stop.asked:
            planned = waiting.pop(0)
            if RunFolder(planned.folder).held:
                leave(planned, elsewhere, bars.console)
            else:
                active.append(_Active(planned, free.pop(0), command, bars))
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
            free.append(run_.place)
            code = run_.process.returncode
            if code == HELD or (code and RunFolder(run_.planned.folder).held):
                run_.close(bars)
                leave(run_.planned, elsewhere, bars.console)
                continue
            gone += run_.planned.tokens
            run_.close(bars)
            stopped = f"at {run_.tokens:,} tokens" if stop.asked else None
            report_end(run_.planned, outcome, bars.console, run_.last_words, stopped)
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            done, left = back(elsewhere, outcome)
            gone += _tokens(done)
            waiting += left
        bars.update(overall, completed=gone + sum(run_.tokens for run_ in active))


@dataclass(frozen=True)
class _Place:
    """What of this machine one of the runs at a time has for itself."""

    processes: int
    threads: int
    gpus: dict[str, str]


class _Active:
    """A run under way: its process, and its metrics as far as they have been read."""

    def __init__(
        self,
        planned: PlannedRun,
        place: _Place,
        command: Callable[[Path], list[str]],
        bars: Progress,
    ) -> None:
        self.planned = planned
        self.place = place
        self.tokens = 0
        self._printed = 0
        folder = planned.folder
        self._rows = NewRows(folder / METRICS)
        folder.mkdir(parents=True, exist_ok=True)
        save_yaml(planned.config, folder / CONFIG)
        each = str(place.threads)
        with (folder / LOG).open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                command(folder),
                stdin=subprocess.PIPE,  # closes when we die: the worker's sign to stop
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each} | place.gpus,
                start_new_session=True,  # the terminal's Ctrl-C reaches it through us, once
            )
        self.bar: TaskID = bars.add_task(
            f"  {escape(planned.name)}", total=planned.tokens, status="starting"
        )

    def interrupt(self, kill: bool) -> None:
        """Ask the process to save and stop, or end it at once."""
        if kill:
            self.process.kill()
        else:
            ask_to_stop(self.process, self.place.processes)

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
        """Where the output is no terminal, and so no bar is drawn: a line for each quarter."""
        quarter = 4 * self.tokens // self.planned.tokens
        if quarter > self._printed and not bars.console.is_terminal:
            self._printed = quarter
            bars.print(f"{escape(self.planned.name)}: {25 * quarter} %  {status}")

    def close(self, bars: Progress) -> None:
        """Take the bar away, once the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        bars.remove_task(self.bar)

    def last_words(self) -> str:
        """The last line that the process printed: of a failure, its reason."""
        said = last_words(self.planned.folder / LOG, self._log_start)
        return said or f"no message, exit status {self.process.returncode}"


class Stop:
    """Counts SIGINT and SIGTERM while the study runs, and puts the old handlers back."""

    def __init__(self) -> None:
        self.asked = 0
        self._handled = 0

    def take_request(self) -> bool:
        """Whether a signal came since the last call."""
        new = self.asked > self._handled
        self._handled = self.asked
        return new

    def __enter__(self) -> "Stop":
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked += 1


def leave(planned: PlannedRun, elsewhere: list[PlannedRun], console: Console) -> None:
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
    console: Console,
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


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )


def _tokens(runs: list[PlannedRun]) -> int:
    return sum(planned.tokens for planned in runs)
