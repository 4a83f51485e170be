import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.config.counts import forward_bytes_per_token
from plait.evaluation.heldout import BUDGET, evaluate, fitting_batch
from plait.model import LanguageModel
from tiny_corpus import tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny")


@pytest.fixture(scope="module")
def model(corpus):
    config = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=16,
        context=32,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=8, top_k=2, dense_first=1, dense_width=16),
        init_std=0.3,
    )
    return LanguageModel(config).train()


def test_any_batch_size_scores_the_same_tokens(model, corpus):
    runs = [
        evaluate(model, corpus, sequence_length=32, tokens_per_domain=500, batch_size=size)
        for size in (1, 3, 64)
    ]
    assert model.training
    for run in runs:
        for domain, score in run.to_dict().items():
            assert score == pytest.approx(runs[0].to_dict()[domain], rel=1e-5)
        dense, routed = run.meter.shares()
        assert dense is None
        assert routed == pytest.approx(runs[0].meter.shares()[1], abs=2e-3)
        # Two choices for each of 2 × 500 tokens; 500 is no multiple of 32, and padding has no load.
        [(depth, load_E)] = run.meter.loads()
        assert (depth, load_E.sum()) == (1, 2000)


def test_it_is_the_mean_cross_entropy_and_its_bits_per_byte(model, corpus):
    result = evaluate(model, corpus, sequence_length=32, tokens_per_domain=64).to_dict()
    tokens = torch.from_numpy(corpus.tokens("test", "code")[:65].astype("int64"))
    model.eval()
    with torch.no_grad():
        logits = model(tokens[:-1].view(2, 32)).logits.flatten(0, 1)
    model.train()
    expected = F.cross_entropy(logits, tokens[1:])
    assert result["code"]["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert result["code"]["perplexity"] == pytest.approx(float(expected.exp()), rel=1e-4)
    text = corpus.tokenizer.decode(tokens[1:].tolist())
    size = len(text.encode())
    assert abs(result["code"]["bytes"] - size) <= 3  # a character may begin or end outside
    bits = 64 * float(expected) / math.log(2) / result["code"]["bytes"]
    assert result["code"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    pooled = (result["code"]["loss"] + result["prose"]["loss"]) / 2
    assert result["all"]["loss"] == pytest.approx(pooled)


def test_a_batch_fits_the_budget_and_has_a_sequence_at_the_least():
    small = ModelConfig(vocab_size=64, depth=2, width=16, experts=ExpertConfig(count=4, width=8))
    assert fitting_batch(small, 512) > 100
    assert fitting_batch(small, 512) // 2 == fitting_batch(small, 1024)
    assert fitting_batch(small, 2**27) == 1
    # the model of 135 M parameters that took 6 GB with sixteen sequences of its whole context
    smol = ModelConfig(
        vocab_size=49_152,
        depth=30,
        width=576,
        context=8192,
        attention=AttentionConfig(heads=9, kv_heads=3),
        experts=ExpertConfig(count=1, width=1536),
    )
    assert 4e9 < 16 * 8192 * forward_bytes_per_token(smol) < 12e9
    assert fitting_batch(smol, 8192) == BUDGET // (8192 * forward_bytes_per_token(smol)) < 5
    wide = replace(smol, experts=ExpertConfig(count=64, width=1536, top_k=8))
    assert fitting_batch(wide, 2048) < fitting_batch(smol, 2048)
