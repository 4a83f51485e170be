import json
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from training_process import run

from plait.storage.metrics_file import read_rows
from plait.training import train

CLOCK = ("tokens_per_second",)


def rows(folder):
    """Every row, without what the clock says."""
    return [
        {name: value for name, value in row.items() if name not in CLOCK}
        for row in read_rows(folder / "metrics.jsonl")
    ]


def outcome(folder, step):
    """All that a run leaves and that must not depend on its interruptions."""
    result = json.loads((folder / "result.json").read_text())
    checkpoint = folder / "checkpoints" / f"step-{step}"
    progress = json.loads((checkpoint / "progress.json").read_text())
    kept = {"evaluation", "load", "gate_mass", "steps", "tokens"}
    return (
        rows(folder),
        {name: value for name, value in result.items() if name in kept},
        progress["loader"],
        load_file(checkpoint / "model.safetensors"),
    )


def assert_same(first, second):
    assert first[:3] == second[:3]
    assert first[3].keys() == second[3].keys()
    for name in first[3]:
        assert torch.equal(first[3][name], second[3][name]), name


def size_of_metrics(folder):
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def start(processes, config, folder, **limits):
    process = processes.Process(target=run, args=(config, folder), kwargs=limits)
    process.start()
    return process


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_as_if_never_killed(longer, processes, tmp_path):
    config, killed, undisturbed = longer, tmp_path / "killed", tmp_path / "undisturbed"
    train(config, undisturbed, device="cpu")
    killed.mkdir()
    moments = random.Random(0)
    for _ in range(10):
        seen = size_of_metrics(killed)
        process = start(processes, config, killed)
        while process.is_alive() and size_of_metrics(killed) == seen:
            time.sleep(0.005)
        # It is past its start: it cut the rows after its checkpoint, or wrote one. Now, any moment.
        time.sleep(moments.uniform(0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it finished before it could be killed"
    process = start(processes, config, killed)
    process.join()
    assert process.exitcode == 0
    assert_same(outcome(killed, config.steps), outcome(undisturbed, config.steps))


def test_sigterm_saves_and_says_how_to_go_on(longer, processes, tmp_path):
    process = start(processes, longer, tmp_path)
    while not (tmp_path / "metrics.jsonl").exists() or len(rows(tmp_path)) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    message = (tmp_path / "error.txt").read_text()
    last = rows(tmp_path)[-1]["step"]
    assert process.exitcode == 1
    assert last < longer.steps
    assert message.startswith(f"Interrupted: stopped after step {last} of {longer.steps}")
    assert "run the same command again" in message
    assert (tmp_path / "checkpoints" / f"step-{last}" / "manifest.json").exists()


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(longer, processes, tmp_path):
    # A limit on file sizes stands in for the full disk: the kernel refuses the write all the same.
    process = start(processes, longer, tmp_path)
    while not (tmp_path / "checkpoints" / "step-2").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process = start(processes, longer, tmp_path, largest_file=30_000)
    process.join()
    message = (tmp_path / "error.txt").read_text()
    assert process.exitcode == 1
    assert message.startswith("CheckpointError: could not write checkpoint")
    assert "is intact. Make room and run the same command again" in message
    assert "\n" not in message
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names
    assert all(name.startswith("step-") for name in names)
