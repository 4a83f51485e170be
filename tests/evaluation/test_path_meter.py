"""Path entropy and consistency of an evaluation, against loops over tokens."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.evaluation.heldout import evaluate
from plait.evaluation.path_meter import PathMeter
from plait.model import LanguageModel
from plait.sharing import Sharing
from tiny_corpus import tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny")


def model(corpus, **fields):
    config = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=5,
        width=16,
        context=32,
        attention=AttentionConfig(heads=2),
        **{
            "experts": ExpertConfig(count=6, width=8, top_k=2, dense_first=1, dense_width=16),
            "init_std": 0.5,
            **fields,
        },
    )
    torch.manual_seed(0)
    return LanguageModel(config)


def held_out(model, corpus, batch_size=3, tokens=100):
    return evaluate(
        model, corpus, sequence_length=32, tokens_per_domain=tokens, batch_size=batch_size
    )


def choices(model, corpus, tokens):
    """Each token's experts at each routed depth, the one with the highest logit first."""
    found = []
    for domain in corpus.domains:
        ids = torch.from_numpy(corpus.tokens("test", domain)[:tokens].astype("int64"))
        for window in ids.split(32):
            with torch.no_grad():
                out = model.eval()(window[None], routings=True)
            routed = [routing for routing in out.routings if routing is not None]
            for t in range(len(window)):
                by_depth = []
                for routing in routed:
                    logits = routing.logits_TE[t].tolist()
                    chosen = sorted(routing.expert_ids_TK[t].tolist())
                    by_depth.append(sorted(chosen, key=lambda e, z=logits: -z[e]))
                found.append(by_depth)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"router": RouterConfig(bias=True), "balance": BalanceConfig(bias_rate=1e-3)},
        {
            "sharing": Sharing(router="1 + 1x2 + 1x2"),
            "experts": ExpertConfig(
                count=70, width=4, top_k=3, dense_first=1, dense_width=16
            ),  # more than a word has bits
            "collaboration": CollaborationConfig(),
        },
    ],
)
def test_it_counts_what_a_loop_over_tokens_counts(corpus, fields):
    this = model(corpus, **fields)
    for bias_E in this.load_biases().values():  # so that the first chosen is not the top-1
        bias_E.copy_(torch.linspace(0, 0.3, len(bias_E)))
    found = held_out(this, corpus).routing()
    tokens = choices(this, corpus, 100)
    count = Counter(tuple(experts[0] for experts in by_depth) for by_depth in tokens)
    entropy = -sum(n / len(tokens) * math.log(n / len(tokens)) for n in count.values())

    def overlap(a):
        alike = []
        for by_depth in tokens:
            one, two = set(by_depth[a]), set(by_depth[a + 1])
            alike.append(len(one & two) / len(one | two))
        return float(np.mean(alike))

    assert found["path_entropy"] == pytest.approx(entropy)
    assert (found["paths"], found["path_tokens"]) == (len(count), len(tokens))
    assert found["consistency"] == pytest.approx(np.mean([overlap(a) for a in range(3)]))
    if "sharing" in fields:  # depths 1 and 2 share a router, and 3 and 4 do
        assert found["consistency_in_blocks"] == pytest.approx((overlap(0) + overlap(2)) / 2)
    else:
        assert found["consistency_in_blocks"] is None
    for name in ("load_max_over_mean", "dead_experts", "router_entropy"):
        assert [value is None for value in found[name]] == [True, *[False] * 4]


def test_agreement_is_that_of_a_loop_over_tied_depths(corpus):
    tied = Sharing(experts="1 + 1x3 + 1")
    this = model(corpus, sharing=tied)
    found = held_out(this, corpus).routing()
    alike = []
    for by_depth in choices(this, corpus, 100):  # routed are depths 1 to 4, tied 1 to 3
        used = {expert for experts in by_depth[:3] for expert in experts}
        alike.append(1 - (len(used) - 2) / (6 - 2))
    assert found["agreement"] == pytest.approx(np.mean(alike))
    assert held_out(model(corpus), corpus).routing()["agreement"] is None


def test_any_batch_size_keeps_the_same_tokens_and_no_more_than_asked(corpus):
    this = model(corpus)
    one, many = (held_out(this, corpus, size).routing() for size in (1, 64))
    assert many["path_entropy"] == pytest.approx(one["path_entropy"], rel=0.02)
    assert many["path_tokens"] == one["path_tokens"] == 200
    meter = PathMeter(this.config, domains=2, tokens=50)
    with torch.no_grad():
        out = this(torch.arange(20)[None], routings=True)
    for _ in range(3):
        meter.add("code", out.routings)
    meter.add("prose", out.routings, torch.arange(20) < 5)
    assert meter.figures()["path_tokens"] == 25 + 5


def test_without_routers_and_without_neighbours(corpus):
    dense = model(corpus, experts=ExpertConfig(count=1, width=8, top_k=1))
    assert held_out(dense, corpus, tokens=40).routing() == {}
    one = model(
        corpus, experts=ExpertConfig(count=4, width=8, top_k=2, dense_first=4, dense_width=8)
    )
    found = held_out(one, corpus, tokens=40).routing()
    assert found["consistency"] is None
    assert found["path_entropy"] <= math.log(4)


def test_it_leaves_the_random_state_alone(corpus):
    this = model(corpus, dropout=0.2).train()
    before = torch.get_rng_state()
    held_out(this, corpus, tokens=40).routing()
    assert torch.equal(torch.get_rng_state(), before)
