"""Runs as jobs of submitit: scripts, GPUs of their own, failures, preemption, Slurm itself."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from plait.config import DataConfig, ModelConfig, TrainConfig
from plait.config.counts import count
from plait.storage.places import place_of
from plait.storage.run_folder import RunFolder
from plait.studies import launchers
from plait.studies.devices import own_gpus, worker_command
from plait.studies.launchers import Cluster, launch, scripts
from plait.studies.plan import planned_runs
from plait.studies.rounds import last_words
from plait.studies.study import Study
from tiny_corpus import tiny

pytest.importorskip("submitit")
cloudpickle = pytest.importorskip("cloudpickle")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # jobs cannot import a test

FAKE_TRAINER = """
import os, signal, sys, threading, time
from pathlib import Path
from plait.storage.result import Result
folder = Path(sys.argv[1])
(folder / "how").write_text(sys.argv[2])
(folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
if folder.name.startswith("broken"):
    print("something before"); sys.exit("the reason, in one line")
if folder.name.startswith("lost"):
    (folder / "parent").write_text(str(os.getppid())); time.sleep(300)
saved = folder / "saved"
if folder.name.startswith("long") and not saved.exists():
    def save(*_):
        saved.touch(); sys.exit(1)
    signal.signal(signal.SIGTERM, save)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
    (folder / "own").write_text(str(os.getpid()))
    (folder / "parent").write_text(str(os.getppid()))
    time.sleep(60)
measures = {"loss": 5.0, "perplexity": 148.4, "bits_per_byte": 2.0, "tokens": 9, "bytes": 30}
Result(
    study="small", variant=folder.name, seed=0, config_hash="0" * 12, steps=1, tokens=4096,
    skipped_steps=0, evaluation={"split": "test", "domains": {"all": measures}},
    parameters={}, flops_per_token={}, gate_mass=None, load=[], seconds=1.0,
    tokens_per_second=1000.0, corpus_fingerprint="0" * 16, environment={},
).save(folder)
"""


def fake(folder: Path, torchrun: object = (), **how: object) -> list[str]:
    return [sys.executable, "-c", FAKE_TRAINER, str(folder), json.dumps(how)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    corpus = tmp_path_factory.mktemp("corpus") / "tiny"
    tiny(corpus)
    model = ModelConfig(vocab_size=512, depth=2, width=32, context=64)
    data = DataConfig(corpus=str(corpus), sequence_length=64, batch=4)
    return TrainConfig(model=model, data=data, tokens=30_000)


def study(config: TrainConfig, *names: str) -> Study:
    variants = {
        name: dataclasses.replace(config, clip=1.0 + index) for index, name in enumerate(names)
    }
    return Study(name="small", baseline=names[0], variants=variants)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_script_says_what_a_run_asks_for(config: TrainConfig, tmp_path: Path) -> None:
    small = study(config, "a", "b", "c")
    cluster = Cluster(
        "slurm", gpus_per_run=8, nodes=2, hours=10, jobs=2, options={"partition": "long"}
    )
    runs = planned_runs(small, tmp_path)
    text = scripts(small, runs, tmp_path, cluster)
    lines = text.splitlines()
    for wanted in (
        "--array=0-2%2",
        "--gpus-per-node=4",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--time=600",
        "--requeue",
        "--partition=long",
        "--job-name=small",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {wanted}" in lines
    assert any(line.startswith("srun ") and "submitit.core._submit" in line for line in lines)
    flops = sum(count(run.config.model).flops_training * run.tokens for run in runs)
    assert f"{flops:.2e} FLOPs" in lines[-1]
    assert f"{flops / (0.4 * 989e12) / 3600:.2g} GPU-hours" in lines[-1]
    assert lines[-1].endswith("240 GPU-hours")
    assert not (tmp_path / "small").exists()
    alone = scripts(small, runs[:1], tmp_path, Cluster("slurm", device="cpu"))
    assert "--array" not in alone
    assert "gpus" not in alone.split("srun")[0]
    assert "#SBATCH --cpus-per-task=1" in alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus_per_run": 4, "nodes": 3}, "multiple of --nodes"),
        ({"gpus_per_run": 0}, "above 0"),
        ({"hours": 0}, "above 0"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster("slurm", **options)
    with pytest.raises(ValueError, match="one node and no options"):
        Cluster("local", options={"partition": "long"})


def test_gpus_are_shared_out_round_robin() -> None:
    def seen(each: int, *gpus: str) -> list[str | None]:
        return [own_gpus(slot, each, gpus).get("CUDA_VISIBLE_DEVICES") for slot in range(4)]

    assert seen(1) == [None] * 4
    assert seen(1, "4", "5", "6") == ["4", "5", "6", "4"]
    assert seen(2, "4", "5", "6", "7") == ["4,5", "6,7", "4,5", "6,7"]
    assert seen(2, "4", "5", "6") == ["4,5"] * 4


def test_a_run_over_several_gpus_is_started_by_torchrun() -> None:
    command = worker_command(Path("run"), None, 4)
    assert command[1:3] == ["-m", "torch.distributed.run"]
    assert command[3:] == [
        "--standalone",
        "--nproc-per-node",
        "4",
        "-m",
        "plait.studies.worker",
        "run",
    ]
    over_nodes = worker_command(Path("run"), torchrun=["--nnodes", "2"])
    assert over_nodes[3:7] == ["--nnodes", "2", "--nproc-per-node", "1"]
    assert "torch.distributed.run" not in worker_command(Path("run"), "cpu")


def test_jobs_have_gpus_of_their_own_and_a_failed_one_is_one_line(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    said = io.StringIO()
    console = Console(file=said, width=300)
    small = study(config, "a", "b", "broken")
    monkeypatch.setattr(launchers, "worker_command", fake)
    how = {"compile": True, "checkpoints": "memory://x"}
    outcome = launch(small, tmp_path, Cluster("local"), console, **how)  # type: ignore[arg-type]
    assert sorted(name.split("-")[0] for name in outcome.finished) == ["a", "b"]
    assert [name.split("-")[0] for name in outcome.failed] == ["broken"]
    [line] = [line for line in said.getvalue().splitlines() if "failed" in line]
    assert "the reason, in one line" in line
    gpus = [run.folder.joinpath("gpus").read_text() for run in planned_runs(small, tmp_path)]
    assert gpus[:2] == ["4", "5"]
    assert gpus[2] in ("4", "5")
    for planned in planned_runs(small, tmp_path):
        told = json.loads(planned.folder.joinpath("how").read_text())
        assert told == {"device": None, "processes": 1, **how}
    again = launch(study(config, "a", "b"), tmp_path, Cluster("local"), console, command=fake)
    assert (len(again.skipped), again.finished, again.failed) == (2, [], [])


@pytest.mark.parametrize("told_first", [False, True])
def test_a_preempted_job_saves_and_is_started_again(
    config: TrainConfig, tmp_path: Path, told_first: bool
) -> None:
    long = study(config, "long")
    [planned] = planned_runs(long, tmp_path)

    def preempt() -> None:
        wait_for(lambda: _number(planned.folder / "parent"))
        own, parent = _number(planned.folder / "own"), _number(planned.folder / "parent")
        os.kill(own, signal.SIGUSR2)  # as Slurm tells all processes of a job
        if told_first:
            os.kill(parent, signal.SIGTERM)
            os.kill(own, signal.SIGTERM)
            wait_for(lambda: not _runs(own))
        os.kill(parent, signal.SIGUSR2)

    threading.Thread(target=preempt, daemon=True).start()
    outcome = launch(long, tmp_path, Cluster("local"), Console(file=io.StringIO()), command=fake)
    assert outcome.finished == [planned.folder.name]
    assert (planned.folder / "saved").exists()


def _number(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def test_an_interrupted_launcher_lets_local_jobs_save(config: TrainConfig, tmp_path: Path) -> None:
    long = study(config, "long")
    [planned] = planned_runs(long, tmp_path)

    def interrupt() -> None:
        wait_for(lambda: _number(planned.folder / "parent"))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    said = io.StringIO()
    outcome = launch(long, tmp_path, Cluster("local"), Console(file=said, width=200), command=fake)
    assert (outcome.interrupted, outcome.failed, outcome.finished) == (True, [], [])
    assert "the same command follows what is left" in said.getvalue()
    wait_for(lambda: not _runs(_number(planned.folder / "own")))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


needs_slurm = pytest.mark.skipif(
    "PLAIT_SLURM" not in os.environ, reason="set PLAIT_SLURM where Slurm is"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", ["local", pytest.param("slurm", marks=[pytest.mark.slurm, needs_slurm])]
)
def test_a_run_over_two_processes_is_one_run_and_resumes_when_it_is_preempted(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: Literal["local", "slurm"],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    two = study(dataclasses.replace(config, tokens=5_000), "two")
    [planned] = planned_runs(two, tmp_path)
    run = RunFolder(planned.folder)

    def steps() -> list[int]:
        return [row["step"] for row in run.metrics() if "loss" in row]

    def preempt() -> None:
        wait_for(lambda: len(steps()) > 3)
        pid = subprocess.run(
            ["pgrep", "-f", f"submitit.core._submit {tmp_path}"], capture_output=True, check=True
        )
        for process in map(int, pid.stdout.split()):
            os.kill(process, signal.SIGUSR2)

    threading.Thread(target=preempt, daemon=True).start()
    cluster = Cluster(launcher, gpus_per_run=2, device="cpu")
    console, address = Console(file=io.StringIO()), f"file://{tmp_path}/away"
    outcome = launch(two, tmp_path, cluster, console, checkpoints=address)
    assert outcome.finished == [planned.folder.name], (planned.folder / "log.txt").read_text()
    assert steps() == list(range(1, planned.config.steps + 1))  # none lost, none done twice
    assert last_words(planned.folder / "log.txt").startswith("stopped after step")
    assert place_of(planned.folder).names() == [f"step-{planned.config.steps}"]
    assert str(place_of(planned.folder)) == f"{address}/small/{planned.folder.name}"
    assert not run.held


@pytest.mark.slurm
@needs_slurm
def test_slurm_runs_an_array_queues_a_preempted_job_again_and_a_cancelled_one_is_noticed(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "QUEUE_SECONDS", 5.0)
    small = study(config, "a", "long", "broken", "lost")
    folders = {run.variant: run.folder for run in planned_runs(small, tmp_path)}

    def job(variant: str) -> str:
        wait_for(lambda: _number(folders[variant] / "parent"))
        wait_for((folders[variant] / "job.json").exists)
        return str(json.loads((folders[variant] / "job.json").read_text())["job"])

    def interfere() -> None:
        # it may answer that a job cannot be altered now, which was told and is being queued again
        subprocess.run(["scancel", job("long"), "--signal", "USR2"], check=False)
        subprocess.run(["scancel", job("lost")], check=True)

    threading.Thread(target=interfere, daemon=True).start()
    cluster = Cluster("slurm", device="cpu", hours=0.2)
    said = io.StringIO()
    outcome = launch(small, tmp_path, cluster, Console(file=said, width=300), command=fake)
    assert sorted(name.split("-")[0] for name in outcome.finished) == ["a", "long"], said.getvalue()
    assert sorted(name.split("-")[0] for name in outcome.failed) == ["broken", "lost"]
    assert "lost-s0 failed: job " in said.getvalue()
    assert (folders["long"] / "saved").exists()
    assert not list(tmp_path.glob("small/*/job.json"))
