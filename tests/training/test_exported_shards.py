"""What several processes trained is exported from their files by one that joins nobody."""

from dataclasses import replace

import pytest
import torch
from test_meshes import together
from transformers import AutoModelForCausalLM

import plait.interop  # noqa: F401  registers PlaitForCausalLM
from plait.config import CollaborationConfig, EvaluationConfig, ExpertConfig, OptimizerConfig
from plait.interop.exporting import export_model
from plait.model import LanguageModel
from plait.sharing import Sharing
from plait.storage.model_folder import load_model
from plait.training import train


def structures(plain):
    """One that transformers has, and one that it has not, with the meshes that train it."""
    olmoe = replace(plain, attention=replace(plain.attention, qk_norm="width"))
    tied = replace(
        plain,
        experts=ExpertConfig(count=4, width=16, top_k=3, shared_width=16),
        sharing=Sharing(experts="all", router="all"),
        collaboration=CollaborationConfig(),
    )
    return {
        "OlmoeForCausalLM": (olmoe, ("shard=2", "expert=2")),
        "PlaitForCausalLM": (tied, ("expert=2",)),
    }


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.slow
def test_the_logits_are_those_of_one_process(plain, processes, tmp_path):
    brief = replace(
        plain,
        tokens=3 * plain.tokens_per_step,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        evaluation=EvaluationConfig(tokens=100, final_tokens=100),
    )
    runs, launches = {}, []
    for name, (model, meshes) in structures(plain.model).items():
        runs[name] = replace(brief, model=model)
        launches += [(runs[name], tmp_path / name / mesh, mesh, None) for mesh in meshes]
    together(processes, 2, launches)
    tokens = torch.randint(plain.model.vocab_size, (2, 32), generator=torch.manual_seed(0))
    for name, run in runs.items():
        one = tmp_path / name / "one"
        train(run, one, device="cpu")
        expected = logits(load_model(one), tokens)
        before = logits(LanguageModel(run.model, seed=run.seed), tokens)
        assert (before - expected).abs().max() > 0.01  # it has learned more than may differ
        for _, folder, _, _ in (launch for launch in launches if launch[0] is run):
            parts = folder.glob("checkpoints/step-3/model-0000?-of-00002.safetensors")
            assert len(list(parts)) == 2
            out = folder.with_suffix(".exported")
            assert export_model(folder, out).architecture == name
            theirs = AutoModelForCausalLM.from_pretrained(out)
            assert type(theirs).__name__ == name
            assert (logits(theirs, tokens) - expected).abs().max() <= 1e-5
    assert not torch.distributed.is_initialized()
