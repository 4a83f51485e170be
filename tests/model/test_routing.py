"""From logits to chosen experts and gates."""

import pytest
import torch

from plait.config import RouterConfig
from plait.model.routing import choose

LOGITS = 3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("top_k", [1, 2, 3, 8])
def test_softmax_of_the_chosen_equals_the_chosen_softmax_renormalised(top_k):
    first = choose(LOGITS, RouterConfig(gating="topk-softmax"), top_k)
    second = choose(LOGITS, RouterConfig(renormalise=True), top_k)
    assert torch.equal(first.expert_ids_TK, second.expert_ids_TK)
    torch.testing.assert_close(first.weights_TK, second.weights_TK)
    torch.testing.assert_close(first.probs_TE, second.probs_TE)
    torch.testing.assert_close(first.weights_TK.sum(-1), torch.ones(40))


def test_plain_gates_are_the_probabilities_best_first():
    routing = choose(LOGITS, RouterConfig(), 3)
    best = LOGITS.argsort(-1, descending=True)[:, :3]
    assert torch.equal(routing.expert_ids_TK, best)
    expected = LOGITS.exp() / LOGITS.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(routing.weights_TK, expected.gather(-1, best))


@pytest.mark.parametrize("gating", ["softmax-topk", "topk-softmax", "sigmoid"])
def test_a_bias_chooses_and_does_not_weigh(gating):
    config = RouterConfig(gating=gating, bias=True)
    bias_E = torch.zeros(8)
    bias_E[5] = 10.0
    biased = choose(LOGITS, config, 2, bias_E)
    assert (biased.expert_ids_TK[:, 0] == 5).all()
    unbiased = choose(LOGITS, config, 2, expert_ids_TK=biased.expert_ids_TK)
    assert torch.equal(biased.weights_TK, unbiased.weights_TK)
    assert torch.equal(biased.probs_TE, choose(LOGITS, config, 2).probs_TE)


def test_sigmoid_gates_are_independent_renormalised_and_scaled_on_request():
    plain = choose(LOGITS, RouterConfig(gating="sigmoid"), 3)
    sigmoids = 1 / (1 + (-LOGITS).exp())
    torch.testing.assert_close(plain.weights_TK, sigmoids.gather(-1, plain.expert_ids_TK))
    torch.testing.assert_close(plain.probs_TE.sum(-1), torch.ones(40))
    scaled = choose(LOGITS, RouterConfig(gating="sigmoid", renormalise=True, scale=2.5), 3)
    torch.testing.assert_close(scaled.weights_TK.sum(-1), torch.full((40,), 2.5))


@pytest.mark.parametrize("gating", ["softmax-topk", "topk-softmax", "sigmoid"])
def test_a_choice_made_before_is_kept_whatever_the_logits_now_say(gating):
    before = choose(LOGITS, RouterConfig(gating=gating), 3)
    now = choose(-LOGITS, RouterConfig(gating=gating), 3, expert_ids_TK=before.expert_ids_TK)
    assert torch.equal(now.expert_ids_TK, before.expert_ids_TK)
    assert not torch.equal(now.weights_TK, before.weights_TK)


@pytest.mark.parametrize("top_groups", [1, 2, 4])
def test_groups_limit_the_choice_to_those_whose_two_best_sum_to_most(top_groups):
    config = RouterConfig(gating="sigmoid", groups=4, top_groups=top_groups, bias=True)
    bias_E = torch.linspace(-0.2, 0.2, 8)
    routing = choose(LOGITS, config, 2, bias_E)
    for logits_E, found in zip(LOGITS, routing.expert_ids_TK.tolist(), strict=True):
        scores = (logits_E.sigmoid() + bias_E).tolist()
        groups = sorted(range(4), key=lambda g: -(scores[2 * g] + scores[2 * g + 1]))
        left = [e for g in groups[:top_groups] for e in (2 * g, 2 * g + 1)]
        assert found == sorted(left, key=lambda e: -scores[e])[:2]
    torch.testing.assert_close(
        routing.weights_TK, LOGITS.sigmoid().gather(-1, routing.expert_ids_TK)
    )
