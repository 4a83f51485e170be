"""A run as a job of a cluster: what submitit calls on each of its machines."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plait.storage.lease import VOID
from plait.storage.run_folder import LOG, RunFolder
from plait.studies.devices import ask_to_stop, worker_command

POLL_SECONDS = 0.5
FIRST_PORT, PORTS = 20_000, 10_000
"""of the machine where a run's processes meet, by the job's number"""


@dataclass
class Job:
    """Trains one run; on preemption, and at the time limit, it saves, is queued again and resumes.

    Args:
        folder: of the run, with its configuration.
        command: what trains a folder, and takes options of torchrun, as `worker_command` does.
        processes: of the run on each machine, which share its processors.
        nodes: machines of the run.
        environment: of the processes, such as the GPUs that they see.
    """

    folder: Path
    command: Callable[..., list[str]] = worker_command
    processes: int = 1
    nodes: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)
    _told: bool = field(default=False, init=False, repr=False)
    """whether all processes of the job, the run's too, were told to stop"""

    def __call__(self) -> int:
        """Train until the run is finished or has failed; its exit status.

        Slurm may tell all processes to stop before it takes the machine away: the run has then
        saved, and what comes next is waited for.
        """
        signal.signal(signal.SIGTERM, self._tell)
        while True:
            self._wait_for_holder()
            code = self._train()
            if not self._told or RunFolder(self.folder).finished:
                return code
            time.sleep(VOID)
            self._told = False

    def checkpoint(self) -> Any:
        """Let the run save its checkpoint, and return what is to be queued again."""
        import submitit

        process = self._process
        if process is not None:
            if not self._told:  # a run that is told twice ends without saving
                ask_to_stop(process, self.processes * self.nodes)
            # not `wait`, whose lock the call that was interrupted may hold
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(replace(self))

    def _tell(self, *_: object) -> None:
        self._told = True

    def _wait_for_holder(self) -> None:
        """Wait while the run seems to be another's, for as long as a dead one's lease may last.

        It may have been this very job, on a machine that died.
        """
        deadline = time.monotonic() + 2 * VOID
        while RunFolder(self.folder).held and time.monotonic() < deadline:
            time.sleep(VOID / 10)

    def _train(self) -> int:
        import submitit

        here = submitit.JobEnvironment()
        meeting: list[str] = []
        if self.nodes > 1:
            port = FIRST_PORT + int("".join(filter(str.isdigit, here.job_id))) % PORTS
            meeting = ["--nnodes", str(self.nodes), "--node-rank", str(here.node)]
            meeting += ["--rdzv-backend", "c10d", "--rdzv-id", here.job_id]
            meeting += ["--rdzv-endpoint", f"{here.hostnames[0]}:{port}"]
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) // self.processes
        given = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        log = self.folder / (f"log-{here.node}.txt" if here.node else LOG)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(self.folder, torchrun=meeting),
                stdin=subprocess.PIPE,  # closes when we die: the worker's sign to stop
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | given | self.environment,
                start_new_session=True,
                preexec_fn=_ignore_notice,
            )
        while (code := self._process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code


def _ignore_notice() -> None:
    """Slurm tells every process of a job what is meant for us alone, and would so kill them."""
    for notice in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(notice, signal.SIG_IGN)
