"""Studies run in real processes: skipped, failed, interrupted, orphaned, resumed."""

import dataclasses
import fcntl
import io
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from plait.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.config.files import save_yaml
from plait.storage import lease
from plait.storage.run_folder import RunFolder
from plait.studies import runner
from plait.studies.devices import worker_command
from plait.studies.plan import planned_runs
from plait.studies.results import read_study
from plait.studies.rounds import Outcome, last_words
from plait.studies.runner import run, run_study
from plait.studies.study import Study
from tiny_corpus import tiny

FAKE_TRAINER = """
import json, os, sys, time
from pathlib import Path
from plait.storage.result import Result
folder = Path(sys.argv[1])
if folder.name.startswith("broken-s0"):
    print("something before"); sys.exit("the reason, in one line")
(folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
if {together}:  # ends only when two of us are alive at once
    for _ in range(300):
        if len(list(folder.parent.glob("*/threads"))) >= 2: break
        time.sleep(0.1)
    else: sys.exit("alone")
(folder / "metrics.jsonl").write_text(json.dumps(
    {{"step": 1, "tokens": 4096, "loss": 5.0, "tokens_per_second": 1000.0}}) + "\\n")
measures = {{"loss": 5.0, "perplexity": 148.4, "bits_per_byte": 2.0, "tokens": 9, "bytes": 30}}
Result(
    study="small", variant=folder.name, seed=0, config_hash="0" * 12, steps=1, tokens=4096,
    skipped_steps=0, evaluation={{"split": "test", "domains": {{"all": measures}}}},
    parameters={{}}, flops_per_token={{}}, gate_mass=None, load=[], seconds=1.0,
    tokens_per_second=1000.0, corpus_fingerprint="0" * 16, environment={{}},
).save(folder)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    corpus = tmp_path_factory.mktemp("corpus") / "tiny"
    tiny(corpus)
    return TrainConfig(
        model=ModelConfig(
            vocab_size=512, depth=2, width=32, context=64, experts=ExpertConfig(count=4, width=32)
        ),
        data=DataConfig(corpus=str(corpus), sequence_length=64, batch=4),
        tokens=30_000,
        schedule=ScheduleConfig(warmup=1000),
        evaluation=EvaluationConfig(tokens=512, final_tokens=512),
        checkpoint=CheckpointConfig(every=1000),
    )


def study(config: TrainConfig, *names: str, seeds: tuple[int, ...] = (0,)) -> Study:
    variants = {
        name: dataclasses.replace(config, clip=1.0 + index) for index, name in enumerate(names)
    }
    return Study(name="small", baseline=names[0], variants=variants, seeds=seeds)


def fake(together: bool = False) -> Callable[[Path], list[str]]:
    code = FAKE_TRAINER.format(together=together)
    return lambda folder: [sys.executable, "-c", code, str(folder)]


def test_a_failed_run_is_one_line_and_the_others_go_on(config: TrainConfig, tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=300)
    outcome = run(
        study(config, "plain", "broken", "last"), tmp_path, command=fake(), console=console
    )
    assert [name.split("-")[0] for name in outcome.finished] == ["plain", "last"]
    assert [name.split("-")[0] for name in outcome.failed] == ["broken"]
    assert outcome.exit_code == 1
    [line] = [line for line in said.getvalue().splitlines() if "failed" in line]
    assert "broken-s0" in line
    assert "the reason, in one line" in line
    results = read_study(tmp_path / "small")
    assert results.finished_variants == ("plain", "last")
    assert len(results.missing) == 1

    again = run(study(config, "plain", "broken", "last"), tmp_path, command=fake(), console=console)
    assert (len(again.skipped), len(again.failed), again.finished) == (2, 1, [])


def test_a_program_gets_the_results_and_an_error_where_there_are_none(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "worker_command", lambda folder, **_: fake()(folder))
    console = Console(file=io.StringIO(), width=200)
    results = run_study(study(config, "a", "b", seeds=(0, 1)), tmp_path, console=console)
    frame = results.frame()
    assert frame["variant"].tolist() == ["a", "a", "b", "b"]
    assert frame["seed"].tolist() == [0, 1, 0, 1]
    assert frame["loss_nats_per_token"].tolist() == [5.0] * 4
    assert frame["tokens_seen"].tolist() == [4096] * 4
    with pytest.raises(RuntimeError, match=r"study small: broken-s0-\w+ failed: log.txt"):
        run_study(study(config, "a", "broken"), tmp_path, console=console)
    assert read_study(tmp_path / "small").finished_variants == ("a",)
    monkeypatch.setattr(runner, "run", lambda *_, **__: Outcome(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        run_study(study(config, "a"), tmp_path, console=console)


def test_a_study_runs_outside_the_main_thread(config: TrainConfig, tmp_path: Path) -> None:
    ended: list[Outcome] = []
    console = Console(file=io.StringIO())
    thread = threading.Thread(
        target=lambda: ended.append(
            run(study(config, "a"), tmp_path, command=fake(), console=console)
        )
    )
    thread.start()
    thread.join(60)
    assert [outcome.exit_code for outcome in ended] == [0]


def test_jobs_run_at_once_and_divide_the_threads(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    outcome = run(study(config, "a", "b", seeds=(3, 4)), tmp_path, jobs=2, command=fake(True))
    assert outcome.exit_code == 0
    threads = [path.read_text() for path in tmp_path.glob("small/*/threads")]
    assert threads == ["3"] * 4


def test_each_of_the_runs_at_a_time_sees_gpus_of_its_own(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(root: Path, **options: object) -> list[str]:
        runs = study(config, "a", "b", seeds=(3, 4))
        outcome = run(runs, root, jobs=2, command=fake(True), **options)  # type: ignore[arg-type]
        assert outcome.exit_code == 0
        return sorted(path.read_text() for path in root.glob("small/*/gpus"))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6,7")
    assert seen(tmp_path / "one") == ["4", "4", "5", "5"]
    assert seen(tmp_path / "two", gpus_per_run=2) == ["4,5", "4,5", "6,7", "6,7"]
    assert seen(tmp_path / "cpu", device="cpu") == ["4, 5,6,7"] * 4  # as it was
    with pytest.raises(ValueError, match="a run wants 5 GPUs, and here are 4"):
        seen(tmp_path, gpus_per_run=5)


ELSEWHERE = """
import fcntl, sys
from pathlib import Path
from plait.config import TrainConfig
from plait.config.files import load_yaml
from plait.storage import lease
from plait.storage.run_folder import claim
lease.BEAT, lease.machine = 0.1, lambda: "another"
def none(*_): raise OSError("no locks here")
fcntl.flock = none
with claim(Path(sys.argv[1]), load_yaml(TrainConfig, Path(sys.argv[2]))):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_what_another_machine_trains_is_left_to_it_and_taken_up_when_it_dies(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "VOID", 2.0)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as where locks reach no other machine
    both = study(config, "a", "b")
    [first, second] = planned_runs(both, tmp_path)
    save_yaml(first.config, tmp_path / "config.yaml")
    command = [sys.executable, "-c", ELSEWHERE, str(first.folder), str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, stdin=-1, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"

        def kill_later() -> None:
            while not RunFolder(second.folder).finished:
                time.sleep(0.05)
            time.sleep(2.5)  # longer than a lease lasts without its holder
            assert not RunFolder(first.folder).finished
            other.kill()

        killer = threading.Thread(target=kill_later)
        killer.start()
        said = io.StringIO()
        outcome = run(both, tmp_path, command=fake(), console=Console(file=said, width=200))
        killer.join()
        assert other.wait() == -signal.SIGKILL
    assert "a-s0: another process trains it" in said.getvalue()
    assert [name.split("-")[0] for name in outcome.finished] == ["b", "a"]


def test_the_reason_of_a_failure_is_not_what_torchrun_says_of_it(tmp_path: Path) -> None:
    api = "torch/distributed/elastic/multiprocessing/api.py"
    attempt = (
        "an earlier line\n{reason}\n"
        f"W1128 23:52:32 23441 {api}:1028] Sending process 24901 closing signal SIGTERM\n"
        f"E1128 23:52:32 23441 {api}:1002] failed (exitcode: 1) local_rank: 0\n"
        "Traceback (most recent call last):\n  File …\n=====\n"
    )
    log = tmp_path / "log.txt"
    log.write_text(attempt.format(reason="stopped") + attempt.format(reason="the reason"))
    assert last_words(log) == "the reason"
    log.write_text("one\nthe reason\n\n")
    assert last_words(log) == "the reason"
    assert last_words(log, start=16) == last_words(tmp_path / "none") == ""


def test_a_changed_configuration_gets_a_folder_of_its_own(
    config: TrainConfig, tmp_path: Path
) -> None:
    first = planned_runs(study(config, "a"), tmp_path)
    other = planned_runs(study(dataclasses.replace(config, tokens=60_000), "a"), tmp_path)
    assert first[0].folder != other[0].folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"baseline": "nothing"}, "not among the variants"),
        ({"seeds": (1, 1)}, "each seed once"),
        ({"name": "../up"}, "cannot name a folder"),
        ({"margin": 0.0}, "margin"),
    ],
)
def test_studies_that_make_no_sense_are_refused(
    config: TrainConfig, change: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        dataclasses.replace(study(config, "a", "b"), **change)


def test_variants_scored_on_different_text_are_refused(config: TrainConfig) -> None:
    longer = dataclasses.replace(config.evaluation, final_tokens=4096)
    variants = {"a": config, "b": dataclasses.replace(config, evaluation=longer)}
    with pytest.raises(ValueError, match=r"evaluation\.final_tokens"):
        Study(name="unfair", baseline="a", variants=variants)


DRIVER = """
import pickle, sys
from pathlib import Path
from plait.studies.runner import run
study = pickle.loads(Path(sys.argv[1]).read_bytes())
print("ready", flush=True)
sys.stdin.readline()
sys.exit(run(study, Path(sys.argv[2]), checkpoints=(sys.argv[3:] or [None])[0]).exit_code)
"""


class Launcher:
    """A process that has read all that a study takes, and waits to run it."""

    def __init__(self, study: Study, root: Path, *address: str) -> None:
        file = root / "study.pickle"
        file.write_bytes(pickle.dumps(study))
        command = [sys.executable, "-c", DRIVER, str(file), str(root), *address]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.mark.slow
def test_orphaned_and_interrupted_runs_save_and_resume_at_an_address(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    long = study(dataclasses.replace(config, tokens=50_000), "only")
    [planned] = planned_runs(long, tmp_path)
    address = f"file://{tmp_path}/away"

    def steps() -> list[int]:
        path = planned.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [row["step"] for row in rows if "loss" in row]

    def checkpoints() -> set[str]:
        return {
            path.parent.name for path in tmp_path.glob("away/small/only-*/step-*/manifest.json")
        }

    def wait_for(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)

    # The parent dies without a word: its worker notices, saves and stops.
    parent = Launcher(long, tmp_path, address)
    parent.begin()
    wait_for(steps)
    parent.process.kill()
    parent.process.communicate()
    wait_for(checkpoints)
    saved, before = checkpoints(), len(steps())

    def interrupt_later() -> None:
        wait_for(lambda: len(steps()) > before + 2)
        os.kill(os.getpid(), signal.SIGINT)

    said = io.StringIO()
    threading.Thread(target=interrupt_later, daemon=True).start()
    outcome = run(long, tmp_path, checkpoints=address, console=Console(file=said, width=200))
    assert (outcome.interrupted, outcome.exit_code, outcome.failed) == (True, 1, [])
    assert "run study small again to go on from here" in said.getvalue()
    assert checkpoints() > saved
    assert not (planned.folder / "result.json").exists()

    # it knows where they are
    results = run_study(long, tmp_path, console=Console(file=said, width=200))
    assert [run.folder for run in results.runs] == [planned.folder]
    assert steps() == list(range(1, planned.config.steps + 1))  # none lost, none done twice
    assert checkpoints() == {f"step-{planned.config.steps}"}
    assert not list(planned.folder.glob("checkpoints/*"))


def test_a_worker_trains_as_its_command_says(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_yaml(config, tmp_path / "config.yaml")
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("plait.training.train", lambda config, folder, **how: asked.append(how))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # nobody holds its input
    for how in (
        {"device": "cpu", "compile": True, "checkpoints": "s3://bucket/-runs"},
        {"device": None, "compile": False, "checkpoints": None},
    ):
        monkeypatch.setattr(sys, "argv", worker_command(tmp_path, **how)[2:])  # type: ignore[arg-type]
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("plait.studies.worker", run_name="__main__")
        assert ended.value.code == 0
        assert asked.pop() == how


def test_what_no_run_could_do_is_said_before_the_first(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    with pytest.raises(ValueError, match="PLAIT_KERNEL leaves the experts to their reference"):
        run(study(config, "a"), tmp_path, device="cpu", compile=True)
    with pytest.raises(ValueError, match=r"checkpoints at nowhere://x: Protocol not known"):
        run_study(study(config, "a"), tmp_path, device="cpu", checkpoints="nowhere://x")
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_two_launchers_share_a_study_and_one_takes_up_what_the_other_leaves(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    shared = study(dataclasses.replace(config, tokens=80_000), "a", "b")
    folders = [planned.folder for planned in planned_runs(shared, tmp_path)]
    launchers = Launcher(shared, tmp_path), Launcher(shared, tmp_path)
    first, second = (launcher.process for launcher in launchers)
    launchers[0].begin()
    while not RunFolder(folders[0]).held:
        assert first.poll() is None
        time.sleep(0.02)
    launchers[1].begin()
    assert second.stdout is not None
    assert any("a-s0: another process trains it" in line for line in second.stdout)
    first.kill()  # its worker notices, saves and stops; the second then trains both
    first.communicate()
    said, _ = second.communicate(timeout=240)
    assert second.returncode == 0, said
    assert "failed" not in said
    assert all(RunFolder(folder).finished for folder in folders)
    for folder in folders:
        steps = [row["step"] for row in RunFolder(folder).metrics() if "loss" in row]
        assert steps == list(range(1, len(steps) + 1))
