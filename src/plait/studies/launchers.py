"""Launching a study's runs as jobs, through submitit: on a Slurm cluster, or on this machine."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from plait.atomic import write_json
from plait.config.counts import count
from plait.config.files import save_yaml
from plait.reading import one_line, read_json
from plait.storage.lease import HELD
from plait.storage.places import Address
from plait.storage.run_folder import CONFIG, LOG, RunFolder
from plait.studies.devices import own_gpus, require_gpus, visible_gpus, worker_command
from plait.studies.job import Job
from plait.studies.plan import PlannedRun
from plait.studies.price import GPU, GPU_FLOPS, UTILISATION
from plait.studies.rounds import Outcome, Stop, back, last_words, leave, report_end, rounds
from plait.studies.study import Study
from plait.studies.throughput import threads

FOLDER = ".jobs"
"""in a study's folder: what submitit writes"""
RECORD = "job.json"
"""in a run's folder: its job on the cluster, which a second launcher follows"""
REQUEUED = 1000
"""times, at the most, that a run is queued again at its time limit"""
POLL_SECONDS = 1.0
QUEUE_SECONDS = 30.0
"""between two looks at Slurm's queue"""


@dataclass(frozen=True)
class Cluster:
    """Where jobs run, and what each run asks for.

    Args:
        launcher: slurm, or local: processes of this machine.
        gpus_per_run: over all its machines together, a process for each; on the CPU processes.
        nodes: machines of a run.
        hours: time limit of a job; a run that takes longer is queued again and resumes.
        jobs: runs at a time; None: as many as the cluster takes, or as this machine has GPUs for.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        options: further ones of sbatch, such as {"partition": "long"}.
    """

    launcher: Literal["slurm", "local"]
    gpus_per_run: int = 1
    nodes: int = 1
    hours: float = 24.0
    jobs: int | None = None
    device: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.gpus_per_run, self.nodes, self.jobs or 1) < 1 or self.hours <= 0:
            raise ValueError(
                f"gpus_per_run {self.gpus_per_run}, nodes {self.nodes}, jobs {self.jobs} and hours "
                f"{self.hours:g} must be above 0"
            )
        if self.gpus_per_run % self.nodes:
            raise ValueError(
                f"{self.gpus_per_run} GPUs of a run cannot be shared by {self.nodes} nodes alike: "
                "make --gpus-per-run a multiple of --nodes"
            )
        if self.launcher == "local" and (self.nodes > 1 or self.options):
            raise ValueError("the launcher local has one node and no options of Slurm")

    @property
    def processes(self) -> int:
        """Processes of a run on each machine."""
        return self.gpus_per_run // self.nodes


def launch(
    study: Study,
    root: Path,
    cluster: Cluster,
    console: Console | None = None,
    *,
    compile: bool = False,
    checkpoints: str | None = None,
    command: Callable[..., list[str]] | None = None,
) -> Outcome:
    """Train every run of the study that is not finished yet, each as a job; see `runner.run`.

    On a Slurm cluster jobs outlive this call: the same call later, from anywhere, follows those
    that are queued or running. On this machine they end with it.
    """
    root = root.absolute()
    console = console or Console()
    if checkpoints is not None:
        Address(checkpoints, root)
    command = command or partial(
        worker_command,
        device=cluster.device,
        processes=cluster.processes,
        compile=compile,
        checkpoints=checkpoints,
    )
    job = partial(Job, command=command, processes=cluster.processes, nodes=cluster.nodes)
    places = _places(cluster)
    outcome = Outcome()
    with Stop() as stop:
        executor = _executor(study, root, cluster)
        for title, waiting in rounds(study, root, outcome, stop, console):
            console.print(f"study {title}: {len(waiting)} runs as jobs ({cluster.launcher})")
            _follow(waiting, executor, job, list(places), stop, outcome, console)
    outcome.interrupted = bool(stop.asked)
    if outcome.interrupted:
        go_on = "jobs that are queued or running go on; " if cluster.launcher == "slurm" else ""
        console.print(f"interrupted: {go_on}the same command follows what is left")
    return outcome


def scripts(study: Study, runs: Sequence[PlannedRun], root: Path, cluster: Cluster) -> str:
    """Return what would be submitted for some runs, and what it costs in GPU-hours."""
    flops = sum(count(run.config.model).flops_training * run.tokens for run in runs)
    hours = flops / (GPU_FLOPS * UTILISATION) / 3600
    most = len(runs) * cluster.gpus_per_run * cluster.hours
    cost = (
        f"{len(runs)} runs, {flops:.2e} FLOPs: about {hours:.2g} GPU-hours ({GPU} at "
        f"{UTILISATION:.0%} of its peak); a time limit each is {most:g} GPU-hours"
    )
    if cluster.launcher == "local":
        return cost
    executor = _executor(study, root.absolute(), cluster, dry=True)
    if len(runs) > 1:
        executor.parameters["map_count"] = len(runs)
    return f"{executor._make_submission_file_text(executor._submitit_command_str, 'dry')}\n{cost}"


@dataclass
class _Submitted:
    planned: PlannedRun
    job: Any
    place: dict[str, str]


def _follow(
    waiting: list[PlannedRun],
    executor: Any,
    job: Callable[..., Job],
    places: list[dict[str, str]],
    stop: Stop,
    outcome: Outcome,
    console: Console,
) -> None:
    """Submit runs that need nothing of one another, and wait until they have ended."""
    active: list[_Submitted] = []
    elsewhere: list[PlannedRun] = []
    local, looked = bool(places), time.monotonic()
    while (waiting or active or elsewhere) and not stop.asked:
        new: list[_Submitted] = []
        while waiting and (places or not local):
            planned = waiting.pop(0)
            known = None if local else _recorded(planned, executor)
            if known is not None:
                active.append(_Submitted(planned, known, {}))
            elif RunFolder(planned.folder).held:
                leave(planned, elsewhere, console)
            else:
                new.append(_Submitted(planned, None, places.pop(0) if local else {}))
        _submit(new, executor, job, console)
        active += new
        time.sleep(POLL_SECONDS)
        queued = None
        if not local and time.monotonic() - looked > QUEUE_SECONDS:
            queued, looked = _queued(), time.monotonic()
        for one in [one for one in active if _ended(one.job, queued)]:
            active.remove(one)
            if local:
                places.append(one.place)
            (one.planned.folder / RECORD).unlink(missing_ok=True)
            if RunFolder(one.planned.folder).held or _exit_code(one.job) == HELD:
                leave(one.planned, elsewhere, console)
            else:
                report_end(one.planned, outcome, console, partial(_reason, one), None)
        waiting += back(elsewhere, outcome)[1]
    if local:
        for one in active:
            one.job.cancel()
        for one in active:
            while not one.job.done() or RunFolder(one.planned.folder).held:  # it saves
                time.sleep(POLL_SECONDS)
            console.print(f"{escape(one.planned.name)}: stopped")


def _submit(
    new: Sequence[_Submitted], executor: Any, job: Callable[..., Job], console: Console
) -> None:
    """Submit runs: several to Slurm as one array."""
    import submitit

    if not new:
        return
    jobs = []
    for one in new:
        folder = one.planned.folder
        folder.mkdir(parents=True, exist_ok=True)
        save_yaml(one.planned.config, folder / CONFIG)
        jobs.append(job(folder, environment=one.place))
    try:
        submissions = executor.submit_array(jobs)
    except submitit.core.utils.FailedJobError as error:  # what sbatch said
        raise ValueError(
            f"Slurm did not take the jobs ({one_line(error)}): correct what they ask for"
        ) from None
    for one, submitted in zip(new, submissions, strict=True):
        one.job = submitted
        if not one.place:  # it outlives us
            write_json(one.planned.folder / RECORD, {"job": submitted.job_id})
        console.print(f"{escape(one.planned.name)}: job {submitted.job_id}")


def _recorded(planned: PlannedRun, executor: Any) -> Any:
    """Return the job that a launcher before us submitted for a run, if it has not ended."""
    path = planned.folder / RECORD
    if not path.is_file():
        return None
    job = executor.job_class(executor.folder, str(read_json(path, "delete it").get("job")))
    return None if _ended(job, _queued()) else job


def _queued() -> set[str] | None:
    """Return the numbers of all jobs that Slurm has; None where it does not say."""
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(asked.stdout.split()) if asked.returncode == 0 else None


def _ended(job: Any, queued: set[str] | None) -> bool:
    """Whether a job wrote its result or died: submitit alone would ask Slurm's accounting."""
    return job.done() or (queued is not None and job.job_id not in queued)


def _exit_code(job: Any) -> int | None:
    """Return what a job returned; None where it did not come to that."""
    return job.result() if job.done() and not job.exception() else None


def _reason(one: _Submitted) -> str:
    said = last_words(one.planned.folder / LOG)
    return said or f"job {one.job.job_id} ended without a word"


def _places(cluster: Cluster) -> list[dict[str, str]]:
    """Return what each of the runs at a time has of this machine for itself."""
    if cluster.launcher == "slurm":
        return []
    gpus = visible_gpus(cluster.device)
    require_gpus(cluster.gpus_per_run, gpus, cluster.device)
    jobs = cluster.jobs or max(1, len(gpus) // cluster.gpus_per_run)
    each = str(max(1, threads() // (jobs * cluster.gpus_per_run)))
    return [
        {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}
        | own_gpus(slot, cluster.gpus_per_run, gpus)
        for slot in range(jobs)
    ]


def _executor(study: Study, root: Path, cluster: Cluster, *, dry: bool = False) -> Any:
    """Return submitit's executor for the study.

    Raises:
        ValueError: there is no Slurm here.
    """
    import submitit  # of the extra `slurm`

    folder, minutes = root / study.name / FOLDER / "%j", max(1, round(60 * cluster.hours))
    if cluster.launcher == "local":
        here = submitit.LocalExecutor(folder, max_num_timeout=REQUEUED)
        here.update_parameters(timeout_min=minutes)
        return here

    class Printing(submitit.SlurmExecutor):
        """Prints scripts also where there is no Slurm."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    try:
        kind = Printing if dry else submitit.SlurmExecutor
        slurm = kind(folder, max_num_timeout=REQUEUED)
    except RuntimeError:
        raise ValueError(
            "there is no Slurm here (no srun): run this where jobs are submitted from, or say "
            "--dry-run"
        ) from None
    options = dict(cluster.options)
    if cluster.device == "cpu":
        options.setdefault("cpus-per-task", str(cluster.processes))
    else:
        options.setdefault("gpus-per-node", str(cluster.processes))
    # since 22.05 a step has one processor unless srun is told too
    cpus = ["--cpus-per-task", options["cpus-per-task"]] if "cpus-per-task" in options else []
    slurm.update_parameters(
        job_name=study.name,
        time=minutes,
        nodes=cluster.nodes,
        ntasks_per_node=1,
        array_parallelism=cluster.jobs or 1000,
        stderr_to_stdout=True,
        srun_args=cpus,
        additional_parameters={"requeue": True, **options},
    )
    return slurm
