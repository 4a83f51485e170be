"""The whole way with a training run: train, tie, heal, export."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from plait.config import (
    AttentionConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from plait.interop.exporting import export_model
from plait.sharing import Sharing
from plait.storage.model_folder import load_model, read_tokenizer
from plait.surgery.tying import tie
from plait.training import train
from tiny_corpus import tiny


def first_loss(run):
    with (run / "metrics.jsonl").open() as rows:
        return next(row["loss"] for row in map(json.loads, rows) if "loss" in row)


@pytest.mark.parametrize("merge", ["first", "aligned"])
def test_a_run_is_tied_healed_and_exported(merge, tmp_path):
    corpus = tiny(tmp_path / "tiny")
    config = TrainConfig(
        model=ModelConfig(
            vocab_size=corpus.vocab_size,
            depth=4,
            width=32,
            context=32,
            attention=AttentionConfig(heads=2, qk_norm="head"),
            experts=ExpertConfig(count=4, width=16),
        ),
        data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=8),
        tokens=30 * 8 * 32,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        evaluation=EvaluationConfig(final_tokens=500, batch=4),
    )
    run = tmp_path / "run"
    train(config, run)

    text = tmp_path / "held-out.txt"
    text.write_text("def function(argument):\n    return argument\n" * 40)
    tied = tie(run, tmp_path / "tied", "groups(2, skip=1)", merge=merge, text=text)
    assert tied.loss_before is not None
    assert tied.loss_after is not None
    assert tied.config.sharing == Sharing(experts="groups(2, skip=1)")

    healing = replace(config, model=tied.config, initial_weights=str(tmp_path / "tied"), seed=1)
    train(healing, tmp_path / "healed")
    # what was learned survives: healing begins far below random weights
    assert first_loss(tmp_path / "healed") < first_loss(run) - 0.5

    exported = export_model(tmp_path / "healed", tmp_path / "out", untie=True)
    assert exported.architecture == "Qwen3MoeForCausalLM"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = read_tokenizer(tmp_path / "healed")
    sentence = "def function(argument):"
    assert tokenizer(sentence).input_ids == ours.encode(sentence)
    prompt = torch.tensor([ours.encode(sentence)])
    model = load_model(tmp_path / "healed")
    with torch.no_grad():
        assert (model(prompt).logits - theirs(prompt).logits).abs().max() <= 1e-4
