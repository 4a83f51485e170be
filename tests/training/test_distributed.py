import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_process import run_rank

from plait.config import (
    BalanceConfig,
    EvaluationConfig,
    OptimizerConfig,
    RouterConfig,
    ScheduleConfig,
)
from plait.storage.metrics_file import read_rows
from plait.storage.weights import read_weights
from plait.training import train


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(processes, world, config, folder, stop_after=None, device="cpu"):
    given = world, free_port(), config, folder, stop_after, device
    ranks = [processes.Process(target=run_rank, args=(rank, *given)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * world


def figures(folder):
    """Loss, gradient norm and load of each step: what every rank had a part in."""
    return [
        (row["loss"], row["gradient_norm"], *row["load_max_over_mean"])
        for row in read_rows(folder / "metrics.jsonl")
        if "loss" in row
    ]


def held_out_routing(folder):
    """What the evaluations recorded of routing."""
    return [row["routing"] for row in read_rows(folder / "metrics.jsonl") if "routing" in row]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"name": "muon", "muon_precision": "fp32"}])
def test_two_ranks_equal_one_and_one_goes_on_where_two_stopped(
    config, processes, tmp_path, options
):
    config = replace(
        config,
        model=replace(config.model, dropout=0.0, router=RouterConfig(bias=True, kind="low-rank")),
        tokens=6 * config.tokens_per_step,
        optimizer=OptimizerConfig(learning_rate=0.01, **options),
        evaluation=EvaluationConfig(every=6, tokens=300, final_tokens=300),
    )
    train(config, tmp_path / "one", device="cpu")
    together(processes, 2, config, tmp_path / "two")
    together(processes, 2, config, tmp_path / "both", stop_after=3)
    assert len(figures(tmp_path / "both")) == 3
    train(config, tmp_path / "both", device="cpu")
    expected = figures(tmp_path / "one")
    [one], [two] = (held_out_routing(tmp_path / run) for run in ("one", "two"))
    assert two.keys() == one.keys()
    assert two["path_tokens"] == one["path_tokens"]
    for name in ("topology_entropy", "topology_max", "router_entropy"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    weights = load_file(tmp_path / "one" / "checkpoints" / "step-6" / "model.safetensors")
    for run in ("two", "both"):
        for got, wanted in zip(figures(tmp_path / run), expected, strict=True):
            assert got == pytest.approx(wanted, rel=1e-5)
        found = read_weights(tmp_path / run)
        assert found.keys() == weights.keys()
        for key, tensor in weights.items():
            torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_without_micro_batches_the_balance_loss_is_that_of_the_whole_batch(
    config, processes, tmp_path
):
    """On three processes as on one: they pool the load, as a larger micro-batch would."""
    model = replace(config.model, dropout=0.0, balance=BalanceConfig(switch=0.5, z=1e-3))
    config = replace(
        config,
        model=replace(model, router=RouterConfig()),
        data=replace(config.data, batch=6, micro_batch=None),
        tokens=4 * 6 * config.data.sequence_length,
        schedule=ScheduleConfig(),
        optimizer=OptimizerConfig(learning_rate=0.01),
        evaluation=EvaluationConfig(tokens=300, final_tokens=300),
    )
    train(config, tmp_path / "one", device="cpu")
    together(processes, 3, config, tmp_path / "three")
    one, three = (
        [(row["loss"], row["balance_loss"], row["z_loss"], row["gradient_norm"]) for row in rows]
        for rows in (read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "three"))
    )
    assert three == [pytest.approx(row, rel=1e-5) for row in one]
