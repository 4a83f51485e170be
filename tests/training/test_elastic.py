"""A process of several that is told to stop, or killed, under a real torchrun."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plait.config import EvaluationConfig, TrainConfig
from plait.config.files import save_yaml
from plait.storage.metrics_file import read_rows
from plait.training import train

MAIN, OTHER = "0", "1"


def started(config: Path, folder: Path, restarts: int) -> subprocess.Popen[str]:
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "plait", "train"]
    return subprocess.Popen(
        [*command, str(config), "--runs", str(folder), "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def send(torchrun: subprocess.Popen[str], rank: str, number: signal.Signals) -> None:
    """Signal the process that torchrun started as this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            told = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == str(torchrun.pid) and f"RANK={rank}".encode() in told:
            os.kill(int(folder.name), number)
            return
    raise AssertionError("no such process")


def wait(until: Callable[[], bool], torchrun: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert torchrun.poll() is None, torchrun.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def checkpoints(runs: Path) -> list[int]:
    return sorted(
        int(path.name.partition("-")[2]) for path in runs.glob("*/*/checkpoints/step-[0-9]*")
    )


def losses(runs: Path) -> list[float]:
    [file] = runs.glob("*/*/metrics.jsonl")
    return [row["loss"] for row in read_rows(file) if "loss" in row]


@pytest.mark.slow
def test_one_that_stops_stops_all_and_one_that_is_killed_is_started_again(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(
        config,
        model=replace(config.model, dropout=0.0),
        tokens=40 * config.tokens_per_step,
        evaluation=EvaluationConfig(tokens=300, final_tokens=300),
    )
    save_yaml(config, tmp_path / "run.yaml")
    train(config, tmp_path / "alone" / "single" / "run", device="cpu")

    runs = tmp_path / "runs"
    first = started(tmp_path / "run.yaml", runs, restarts=0)
    wait(lambda: bool(checkpoints(runs)), first)
    send(first, OTHER, signal.SIGTERM)
    said = first.communicate(timeout=120)[0]
    assert first.returncode != 0
    assert "a checkpoint is in" in " ".join(said.split())
    stopped = checkpoints(runs)[-1]
    assert len(losses(runs)) == stopped < 40

    second = started(tmp_path / "run.yaml", runs, restarts=1)
    wait(lambda: checkpoints(runs)[-1] > stopped, second)
    send(second, OTHER, signal.SIGKILL)
    said = second.communicate(timeout=120)[0]
    assert second.returncode == 0, said
    assert losses(runs) == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert len(list(runs.glob("*/*/result.json"))) == 1
