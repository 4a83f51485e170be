"""Runs on meshes of processes end as runs on one process do, and go on on any other mesh.

`PLAIT_MESHES=all` compares twenty steps of every structure in place of eight of one: minutes; the
name of one, such as `PLAIT_MESHES=tied`, those of that one.
"""

import os
import signal
import socket
from dataclasses import replace
from itertools import count

import pytest
import torch
from safetensors.torch import load_file
from training_process import measure_states, run_and_die_writing, run_meshes

from plait.config import (
    BalanceConfig,
    CheckpointConfig,
    CollaborationConfig,
    ExpertConfig,
    OptimizerConfig,
    RouterConfig,
)
from plait.sharing import Sharing
from plait.storage.metrics_file import read_rows
from plait.storage.places import Folder
from plait.storage.weights import read_weights
from plait.training import Interrupted, train
from plait.verification import verify

MESHES = {2: ("shard=2", "expert=2"), 4: ("replicate=2 shard=2", "expert=2 shard=2")}
STEPS = 20 if "PLAIT_MESHES" in os.environ else 8
BF16 = 1e-3
"""the largest difference of a loss, as a share, where products round to eight bits"""
MUON = OptimizerConfig(name="muon", learning_rate=0.01, muon_precision="fp32")


def together(processes, size, *arguments, target=run_meshes, ends=None):
    """Train each (configuration, folder, mesh, steps until it is stopped) in `size` processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ranks = [
        processes.Process(target=target, args=(rank, size, port, *arguments))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == (ends or [0] * size)


def losses(folder):
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


def norms(folder):
    return [row["gradient_norm"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


def weights(folder):
    return read_weights(folder)


@pytest.fixture
def rich(plain):
    """Tied experts, one of them shared by all tokens, collaboration, bias, Muon, recomputation."""
    return replace(
        plain,
        model=replace(
            plain.model,
            experts=ExpertConfig(count=4, width=16, top_k=3, shared_width=16),
            sharing=Sharing(experts="all", router="all"),
            collaboration=CollaborationConfig(),
            router=RouterConfig(bias=True),
            balance=BalanceConfig(z=1e-3, bias_rate=1e-3),
        ),
        optimizer=MUON,
        activation_checkpointing=True,
        tokens=6 * plain.tokens_per_step,
    )


@pytest.mark.slow
def test_any_mesh_goes_on_where_any_other_stopped(rich, processes, tmp_path):
    """1 → 2 × 2 → 2 → 1 processes, and experts parted on the way: it ends as one that stayed."""
    train(rich, tmp_path / "stayed", device="cpu")
    moved = tmp_path / "moved"
    asked = count()
    with pytest.raises(Interrupted):
        train(rich, moved, device="cpu", stop=lambda: next(asked) == 1)
    together(processes, 4, [(rich, moved, mesh, 1) for mesh in MESHES[4]])
    assert len(losses(moved)) == 3
    together(processes, 2, [(rich, moved, mesh, 1) for mesh in MESHES[2]])
    assert len(losses(moved)) == 5
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    held = [load_file(moved / "checkpoints" / "step-5" / part) for part in parts]
    assert held[0].keys().isdisjoint(held[1])
    assert held[0].keys() | held[1].keys() == weights(tmp_path / "stayed").keys()
    share = [sum(tensor.nbytes for tensor in some.values()) for some in held]
    assert 0.3 < share[0] / sum(share) < 0.7
    assert not [check for check in verify(moved) if check.problem]
    train(rich, moved, device="cpu")
    assert losses(moved) == pytest.approx(losses(tmp_path / "stayed"), rel=1e-5)
    assert norms(moved) == pytest.approx(norms(tmp_path / "stayed"), rel=1e-4)
    expected, found = weights(tmp_path / "stayed"), weights(moved)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)


def test_a_run_with_more_processes_than_experts_goes_on_alone(plain, processes, tmp_path):
    """Four processes hold rows of two experts; what they write one process reads, and ends as it
    would have."""
    experts = ExpertConfig(count=2, width=16, top_k=1)
    config = replace(
        plain,
        model=replace(plain.model, experts=experts),
        optimizer=MUON,
        tokens=3 * plain.tokens_per_step,
    )
    train(config, tmp_path / "stayed", device="cpu")
    moved = tmp_path / "moved"
    together(processes, 4, [(config, moved, "shard=4", 1)])
    train(config, moved, device="cpu")
    assert losses(moved) == pytest.approx(losses(tmp_path / "stayed"), rel=1e-5)
    expected, found = weights(tmp_path / "stayed"), weights(moved)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)


def variants(plain, rich):
    model = plain.model
    changed = {
        "own": {},
        "tied": {"sharing": Sharing(experts="all")},
        "shared router": {"sharing": Sharing(router="all")},
        "shared decision": {"sharing": Sharing(router="all", decision="all")},
        "collaborating": {"collaboration": CollaborationConfig()},
        "bias": {
            "router": RouterConfig(bias=True),
            "balance": BalanceConfig(z=1e-3, bias_rate=1e-3),
        },
    }
    runs = {name: replace(plain, model=replace(model, **some)) for name, some in changed.items()}
    runs |= {"Muon": replace(plain, optimizer=MUON), "all of it": rich}
    for name in ("own", "all of it"):
        runs[f"{name}, bf16"] = replace(runs[name], precision="bf16")
    asked = os.environ.get("PLAIT_MESHES", "all of it")
    chosen = runs if asked == "all" else (asked,)
    return {name: replace(runs[name], tokens=STEPS * plain.tokens_per_step) for name in chosen}


@pytest.mark.slow
@pytest.mark.parametrize("size", MESHES)
def test_steps_lose_what_one_process_loses(plain, rich, processes, tmp_path, size, monkeypatch):
    monkeypatch.setattr("plait.kernels.processor.multiplies_bf16", lambda: True)
    runs = variants(plain, rich)
    for name, run in runs.items():
        train(run, tmp_path / name, device="cpu")
    folders = {(name, mesh): tmp_path / f"{name}, {mesh}" for name in runs for mesh in MESHES[size]}
    together(processes, size, [(runs[n], folder, m, None) for (n, m), folder in folders.items()])
    errors = {}
    for (name, mesh), folder in folders.items():
        got, expected = losses(folder), losses(tmp_path / name)
        assert len(got) == len(expected) == STEPS
        errors[name, mesh] = max(abs(a / b - 1) for a, b in zip(got, expected, strict=True))
        print(f"{name:16} {mesh:20} {expected[-1]:.5f} {got[-1]:.5f} {errors[name, mesh]:.1e}")
    for (name, mesh), error in errors.items():
        assert error < (BF16 if runs[name].precision == "bf16" else 1e-4), (name, mesh, error)


def test_no_process_ever_holds_more_than_its_share(plain, processes, tmp_path):
    """Half of the model each, whichever way it is divided, and the few megabytes that are drawn."""
    model = replace(plain.model, width=128, experts=ExpertConfig(count=96, width=128, top_k=2))
    config = replace(plain, model=model)
    together(processes, 2, config, MESHES[2], tmp_path, target=measure_states)
    for file in tmp_path.iterdir():
        most, parameters = map(int, file.read_text().split())
        assert parameters > 35e6
        assert most < 0.6 * parameters, (file.name, most / parameters)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(plain, processes, tmp_path):
    """Steps are taken while the thread writes; then one process dies, and nothing is lost."""
    config = replace(plain, checkpoint=CheckpointConfig(every=4), tokens=16 * plain.tokens_per_step)
    ends = [1, -signal.SIGKILL]
    together(processes, 2, config, tmp_path, target=run_and_die_writing, ends=ends)
    assert len(losses(tmp_path)) >= 11
    assert Folder(tmp_path / "checkpoints").names() == ["step-4"]
    assert not [check for check in verify(tmp_path) if check.problem]
    train(config, tmp_path, device="cpu")
    train(config, tmp_path / "undisturbed", device="cpu")
    assert losses(tmp_path) == pytest.approx(losses(tmp_path / "undisturbed"), rel=1e-4)
