"""Running a study: a process per run, several at a time, with a progress bar throughout.

`run_study` is for programs and notebooks: it returns what was measured. `run` is what the command
line calls: it returns how the runs ended.
"""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from plait.parallel import default_device, require_compiler
from plait.storage.lease import HELD
from plait.storage.metrics_file import NewRows
from plait.storage.places import Address
from plait.storage.run_folder import CONFIG, LOG, METRICS, RunFolder
from plait.studies.devices import (
    ask_to_stop,
    own_gpus,
    require_gpus,
    visible_gpus,
    worker_command,
)
from plait.studies.forecast import forecast
from plait.studies.plan import PlannedRun
from plait.studies.results import StudyResults, read_study
from plait.studies.rounds import Outcome, Stop, back, last_words, leave, report_end, rounds
from plait.studies.study import Study
from plait.studies.throughput import threads

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
"""between two looks at the runs that others train"""


def run_study(
    study: Study,
    runs: str | Path = "runs",
    *,
    jobs: int | None = None,
    device: str | None = None,
    compile: bool = False,
    checkpoints: str | None = None,
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
        compile: each depth by torch.compile, in steps of training.
        checkpoints: address that fsspec knows, beneath which those of all runs are kept; None: in
            their folders, or where those of a run are already.
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
    outcome = run(
        study,
        root,
        jobs=jobs,
        device=device,
        compile=compile,
        checkpoints=checkpoints,
        console=console,
    )
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
    gpus_per_run: int = 1,
    compile: bool = False,
    checkpoints: str | None = None,
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
        compile: as for `run_study`.
        checkpoints: as for `run_study`.
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
    if compile:
        require_compiler(default_device(device))
    if checkpoints is not None:
        Address(checkpoints, root)  # what fsspec does not know is said once, and not by every run
    command = command or partial(
        worker_command,
        device=device,
        processes=gpus_per_run,
        compile=compile,
        checkpoints=checkpoints,
    )
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
        console.print(f"interrupted: run study {escape(study.name)} again to go on from here")
    return outcome


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
                leave(planned, elsewhere, bars)
            else:
                active.append(_Active(planned, free.pop(0), command, bars))
        if stop.take_request():
            bars.print("stopping: the runs save their checkpoints (again to kill them)")
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
                leave(run_.planned, elsewhere, bars)
                continue
            gone += run_.planned.tokens
            run_.close(bars)
            stopped = f"at {run_.tokens:,} tokens" if stop.asked else None
            report_end(run_.planned, outcome, bars, run_.last_words, stopped)
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
        said = last_words(self.planned.folder / LOG, self._log_start)
        return said or f"no message, exit status {self.process.returncode}"


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
