"""Steps that are not finite: skipped, never saved, left behind, told."""

import json
from dataclasses import replace

import pytest
import torch

from plait.config import BalanceConfig, CheckpointConfig, EvaluationConfig, OptimizerConfig
from plait.storage.metrics_file import read_rows
from plait.storage.model_folder import load_model
from plait.storage.result import Result
from plait.training import Diverged, loop, step, train
from plait.training.state import SPIKE, Counters


@pytest.fixture
def plain(config):
    """Ten steps with a checkpoint after every second one."""
    model = replace(config.model, dropout=0.0, balance=BalanceConfig(switch=0.0, bias_rate=1e-3))
    return replace(
        config,
        model=model,
        tokens=10 * config.tokens_per_step,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        evaluation=EvaluationConfig(tokens=300, final_tokens=500),
        checkpoint=CheckpointConfig(every=2, keep=2),
        skip_limit=3,
    )


def poison(monkeypatch, poisoned):
    """Make the gradient infinite on batches that begin at chosen steps' places in the data."""
    real = step.forward_and_backward

    def backward(state, meter):
        place = state.batches.state()["tokens_seen"] // state.config.tokens_per_step
        losses = real(state, meter)
        if poisoned(place + 1):
            state.model.embedding.weight.grad[0, 0] = torch.inf
        return losses

    monkeypatch.setattr(step, "forward_and_backward", backward)


def steps(folder):
    return [row["step"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(plain, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: place == 4)
    result = train(plain, tmp_path, device="cpu")
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert result.skipped_steps == 1
    assert result.recoveries == []
    assert [row["skipped_steps"] for row in rows] == [0] * 3 + [1] * 7
    assert rows[3]["gradient_norm"] is None
    assert all(row["gradient_norm"] is not None for row in rows if row["step"] != 4)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_past_the_limit_it_goes_back_and_on_past_the_batches(plain, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: 5 <= place <= 7)
    result = train(plain, tmp_path, device="cpu")
    # after step 7 back to the checkpoint of step 4, and on with what comes after the 7th batch
    happened = {"step": 7, "back_to": 4, "tokens_skipped": 3 * plain.tokens_per_step}
    assert result.recoveries == [happened]
    assert (result.steps, result.skipped_steps) == (10, 0)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["recovery"] for row in rows if "recovery" in row] == [happened]
    assert steps(tmp_path) == list(range(1, 11))
    assert json.loads((tmp_path / "result.json").read_text())["recoveries"] == [happened]


def test_a_run_killed_after_it_went_back_ends_the_same(plain, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: 5 <= place <= 7)
    whole = train(plain, tmp_path / "whole", device="cpu")

    class Killed(BaseException):
        pass

    def kill(row):
        if row["step"] == 5 and any("recovery" in r for r in read_rows(path)):
            raise Killed

    path = tmp_path / "killed" / "metrics.jsonl"
    with pytest.raises(Killed):
        train(plain, tmp_path / "killed", device="cpu", progress=kill)
    resumed = train(plain, tmp_path / "killed", device="cpu")
    assert resumed.held_out() == whole.held_out()
    assert resumed.recoveries == whole.recoveries
    assert steps(tmp_path / "killed") == list(range(1, 11))


def test_read_a_step_later_it_goes_back_too_and_past_one_step_more(plain, tmp_path, monkeypatch):
    """As on a GPU; what was taken in the meantime is left behind with the rest."""
    monkeypatch.setattr(loop, "steps_ahead", lambda device: 1)
    poison(monkeypatch, lambda place: 5 <= place <= 7)
    result = train(replace(plain, checkpoint=CheckpointConfig(every=4)), tmp_path, device="cpu")
    happened = {"step": 8, "back_to": 4, "tokens_skipped": 4 * plain.tokens_per_step}
    assert result.recoveries == [happened]
    assert (result.steps, result.skipped_steps) == (10, 0)
    assert steps(tmp_path) == list(range(1, 11))


def test_it_begins_again_where_there_is_no_checkpoint_yet(plain, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: place <= 3)
    config = replace(plain, checkpoint=CheckpointConfig(every=100))
    result = train(config, tmp_path, device="cpu")
    assert [turn["back_to"] for turn in result.recoveries] == [0]
    assert steps(tmp_path) == list(range(1, 11))


def test_no_checkpoint_is_written_while_steps_are_skipped_and_it_gives_up_in_the_end(
    plain, tmp_path, monkeypatch
):
    poison(monkeypatch, lambda place: place > 5)
    with pytest.raises(Diverged, match=r"3 steps in a row.* after going back 2 times.*step-4"):
        train(plain, tmp_path, device="cpu")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-2", "step-4.3"}
    model = load_model(tmp_path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert Result.load_from(tmp_path) is None


def test_a_run_that_may_not_go_back_gives_up_at_once(plain, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: place > 5)
    with pytest.raises(Diverged, match=r"up to step 8, had a loss"):
        train(replace(plain, recoveries=0), tmp_path, device="cpu")


def test_the_last_steps_must_be_finite_too(plain, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: place in (9, 10))
    result = train(plain, tmp_path, device="cpu")
    assert [turn["step"] for turn in result.recoveries] == [10]
    assert steps(tmp_path) == list(range(1, 11))


def test_a_finite_explosion_is_told():
    counters = Counters()
    losses = [5.0 + 0.01 * i for i in range(40)] + [5.0 + SPIKE + 0.5, 5.2, 5.1]
    assert [i for i, loss in enumerate(losses) if counters.is_spike(loss)] == [40]
    assert counters.loss_spikes == 1
    assert not Counters().is_spike(100.0), "there is nothing yet to compare with"
