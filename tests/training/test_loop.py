import json
import math
from dataclasses import replace

import pytest
from training_process import run

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CheckpointConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
)
from plait.storage.metrics_file import read_rows
from plait.storage.run_folder import run_folder
from plait.training import Interrupted, train


def losses(folder):
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


@pytest.fixture
def plain(config):
    """Ten steps of AdamW without dropout or balance losses, so that batches add up exactly."""
    model = replace(config.model, dropout=0.0, balance=BalanceConfig(switch=0.0, bias_rate=1e-3))
    return replace(
        config,
        model=model,
        tokens=10 * config.tokens_per_step,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        evaluation=EvaluationConfig(tokens=300, final_tokens=500),
        checkpoint=CheckpointConfig(every=4),
    )


def test_it_learns_and_says_what_it_saw(config, undisturbed):
    rows = read_rows(undisturbed / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "evaluation" in row]
    assert [row["step"] for row in steps] == list(range(1, 25))
    assert [row["step"] for row in evaluations] == [6, 12, 18, 24]
    assert steps[0]["loss"] == pytest.approx(math.log(512), abs=0.2)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.25
    scores = [row["evaluation"]["all"]["loss"] for row in evaluations]
    assert scores == sorted(scores, reverse=True)
    # The warm-up is two steps long; rates are those of the middle of a step.
    rates = [row["learning_rate"] for row in steps]
    assert rates[:2] == pytest.approx([0.25 * 0.02, 0.75 * 0.02])
    assert 0.1 * 0.02 < rates[-1] < 0.11 * 0.02
    for name in ("load_max_over_mean", "dead_experts", "router_entropy", "topology_entropy"):
        assert len(steps[0][name]) == config.model.depth
    assert 1 <= steps[0]["load_max_over_mean"][0] <= 4 / 3 + 1e-9  # at the most all K = 3 of E = 4
    assert steps[0]["router_entropy"][0] == pytest.approx(math.log(4), rel=0.05)
    routing = evaluations[-1]["routing"]
    for name, value in routing.items():
        assert not isinstance(value, list) or len(value) == config.model.depth, name
    assert routing["path_tokens"] == 600  # 300 of each domain
    assert routing["topology_entropy"] == pytest.approx(steps[-1]["topology_entropy"])
    assert 0 < routing["consistency"] == routing["consistency_in_blocks"] <= 1  # experts="all"
    assert 0 < routing["path_entropy"] <= math.log(routing["paths"])
    result = json.loads((undisturbed / "result.json").read_text())
    assert result["study"] == undisturbed.parent.name
    assert result["variant"] == "variant"
    assert set(result["evaluation"]["domains"]) == {"code", "prose", "all"}
    assert [sum(shares) for shares in result["load"]] == pytest.approx([1, 1])
    assert result["environment"]["kernel"] == "cpu"  # 16 wide, which the C++ does not take


def test_a_dense_model_has_no_routing_to_record(plain, tmp_path):
    dense = replace(
        plain,
        model=ModelConfig(
            vocab_size=plain.model.vocab_size,
            depth=1,
            width=16,
            context=32,
            attention=AttentionConfig(heads=2),
            experts=ExpertConfig(count=1, width=16, top_k=1),
        ),
        tokens=2 * plain.tokens_per_step,
        evaluation=replace(plain.evaluation, every=2),
    )
    train(dense, tmp_path, device="cpu")
    [row] = [row for row in read_rows(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert "routing" not in row


def test_a_finished_run_returns_its_result_and_takes_no_other_configuration(config, undisturbed):
    before = (undisturbed / "result.json").stat().st_mtime_ns
    assert train(config, undisturbed).steps == 24
    assert (undisturbed / "result.json").stat().st_mtime_ns == before
    other = replace(config, optimizer=replace(config.optimizer, learning_rate=0.5))
    assert run_folder(config, undisturbed, "a", "b") != run_folder(other, undisturbed, "a", "b")
    with pytest.raises(
        ValueError, match=r"begun with optimizer\.learning_rate = 0\.02, not 0\.5: restore"
    ):
        train(other, undisturbed)


def test_a_request_to_stop_while_the_final_score_is_taken_is_obeyed(plain, tmp_path):
    plain = replace(plain, evaluation=replace(plain.evaluation, batch=1))
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > 10 + 2  # the ten steps, then two batches of the final score

    with pytest.raises(Interrupted, match="after step 10 of 10"):
        train(plain, tmp_path / "stopped", device="cpu", stop=stop)
    assert not (tmp_path / "stopped" / "result.json").exists()
    resumed = train(plain, tmp_path / "stopped", device="cpu")
    whole = train(plain, tmp_path / "whole", device="cpu")
    assert resumed.evaluation == whole.evaluation


def test_only_one_process_trains_in_a_folder(config, processes, tmp_path):
    second = processes.Process(target=run, args=(config, tmp_path))

    def stop():
        second.start()
        second.join()
        return True

    with pytest.raises(Interrupted):
        train(config, tmp_path, device="cpu", stop=stop)
    assert second.exitcode == 1
    assert "another process is training in" in (tmp_path / "error.txt").read_text()


def test_micro_batches_add_up_to_the_batch(plain, tmp_path):
    whole = replace(plain, data=replace(plain.data, micro_batch=None))
    pieces = replace(plain, data=replace(plain.data, micro_batch=2))
    train(whole, tmp_path / "whole", device="cpu")
    train(pieces, tmp_path / "pieces", device="cpu")
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_bf16_and_recomputation_stay_close_to_fp32(plain, tmp_path):
    train(plain, tmp_path / "fp32", device="cpu")
    reference = losses(tmp_path / "fp32")
    train(replace(plain, precision="bf16"), tmp_path / "bf16", device="cpu")
    assert losses(tmp_path / "bf16") == pytest.approx(reference, rel=5e-3)
    train(replace(plain, activation_checkpointing=True), tmp_path / "again", device="cpu")
    assert losses(tmp_path / "again") == reference


def test_it_can_start_from_another_runs_weights(config, undisturbed, plain, tmp_path):
    begun = replace(
        plain,
        model=replace(plain.model, sharing=config.model.sharing),
        initial_weights=str(undisturbed),
    )
    train(begun, tmp_path, device="cpu")
    assert losses(tmp_path)[0] == pytest.approx(losses(undisturbed)[-1], abs=0.3)
    wider = replace(begun, model=replace(begun.model, width=64))
    with pytest.raises(ValueError, match=r"has embedding\.weight as \(512, 32\), this model as"):
        train(wider, tmp_path / "wider", device="cpu")


def test_a_vocabulary_that_is_too_small_is_refused(config, tmp_path):
    small = replace(config, model=replace(config.model, vocab_size=500))
    with pytest.raises(ValueError, match=r"vocab_size is 500, but corpus tiny has 512"):
        train(small, tmp_path, device="cpu")


def test_a_batch_that_does_not_divide_is_refused_and_leaves_nothing(config, tmp_path):
    odd = replace(config, data=replace(config.data, micro_batch=3))
    with pytest.raises(ValueError, match=r"data\.batch 8 is not a multiple of 1 processes × micro"):
        train(odd, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
