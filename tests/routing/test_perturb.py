"""Perturbations: what they change is what they say, and nothing else."""

import numpy as np
import pytest
import torch

from made_up_models import LATENT, ours, text, theirs
from plait.config import CollaborationConfig, ExpertConfig, RouterConfig
from plait.model import Routing
from plait.routing import WatchedModel, trace_model, watch
from plait.routing.metrics.paths import most_frequent
from plait.routing.perturb import (
    allowed_paths,
    logit_noise,
    permutation,
    put_first,
    random_depth,
    robustness,
)
from plait.sharing import Sharing

TOKENS = torch.arange(1, 31)[None]
TARGETS = torch.arange(2, 32)[None]


def seen(watched: WatchedModel, change: object) -> dict[int, Routing]:
    """The routing at each depth under a change, as the experts get it."""
    result: dict[int, Routing] = {}
    decide = change(TOKENS)  # type: ignore[operator]

    def recording(depth: int, routing: Routing) -> Routing:
        result[depth] = decide(depth, routing)
        return result[depth]

    watched.loss(TOKENS, TARGETS, recording)
    return result


@pytest.mark.parametrize("kind", ["ours", "Olmoe", "DeepseekV3"])
def test_changing_nothing_changes_no_loss(kind: str) -> None:
    watched = watch(ours() if kind == "ours" else theirs(kind, **LATENT))
    plain = watched.loss(TOKENS, TARGETS)
    assert watched.loss(TOKENS, TARGETS, lambda depth, routing: routing) == plain
    rerouted = watched.loss(TOKENS, TARGETS, lambda d, r: watched.reroute(d, r.logits_TE))
    assert rerouted == pytest.approx(plain, rel=1e-5)
    silent = logit_noise(watched, torch.Generator(), 0.0)(TOKENS)
    assert watched.loss(TOKENS, TARGETS, silent) == pytest.approx(plain, rel=1e-5)
    permuted = permutation(watched, torch.Generator().manual_seed(1), per_depth=True)(TOKENS)
    assert watched.loss(TOKENS, TARGETS, permuted) != plain


def test_reroute_is_the_models_own_rule_with_bias_and_collaboration() -> None:
    watched = watch(
        ours(
            router=RouterConfig(gating="sigmoid", renormalise=True, scale=2.0, bias=True),
            experts=ExpertConfig(count=8, width=16, top_k=3),
            collaboration=CollaborationConfig(strength=0.5),
        )
    )
    model = watched.model  # type: ignore[attr-defined]
    for bias_E in model.load_biases().values():
        bias_E.copy_(torch.linspace(-1, 1, 8))
    for routing, depth in zip(watched.routings(TOKENS), watched.info.routed, strict=True):
        again = watched.reroute(depth, routing.logits_TE)
        assert torch.equal(again.expert_ids_TK, routing.expert_ids_TK)
        assert torch.allclose(again.weights_TK, routing.weights_TK)


def test_permutations_keep_gates_and_move_whole_experts() -> None:
    watched = watch(ours())
    plain = watched.routings(TOKENS)
    one = seen(watched, permutation(watched, torch.Generator().manual_seed(0), per_depth=False))
    many = seen(watched, permutation(watched, torch.Generator().manual_seed(0), per_depth=True))
    # before the first depth nothing else has changed
    assert torch.equal(one[0].weights_TK, plain[0].weights_TK)
    before, after = plain[0].expert_ids_TK.flatten(), one[0].expert_ids_TK.flatten()
    pairs = set(zip(before.tolist(), after.tolist(), strict=True))
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})
    assert set(many) == {0, 1, 2, 3}


def test_random_depth_touches_that_depth_alone() -> None:
    watched = watch(ours())
    plain = watched.routings(TOKENS)
    changed = seen(watched, random_depth(2, torch.Generator().manual_seed(0)))
    for depth in (0, 1):
        assert torch.equal(changed[depth].expert_ids_TK, plain[depth].expert_ids_TK)
    ids_TK = changed[2].expert_ids_TK
    assert not torch.equal(ids_TK, plain[2].expert_ids_TK)
    assert (ids_TK[:, 0] != ids_TK[:, 1]).all()
    assert torch.equal(changed[2].weights_TK, plain[2].weights_TK)


def test_noise_on_a_shared_decision_is_one_noise() -> None:
    watched = watch(ours(sharing=Sharing(router="1x2 + 2", decision="1x2 + 2")))
    changed = seen(watched, logit_noise(watched, torch.Generator().manual_seed(0), 1.0))
    assert torch.equal(changed[0].expert_ids_TK, changed[1].expert_ids_TK)


def test_put_first_trades_or_replaces() -> None:
    ids = torch.tensor([[3, 1, 2], [3, 1, 2], [3, 1, 2]])
    placed = put_first(ids, torch.tensor([3, 2, 5]))
    assert placed.tolist() == [[3, 1, 2], [2, 1, 3], [5, 1, 2]]


def test_allowed_paths_are_the_most_probable_of_those_allowed() -> None:
    watched = watch(ours())
    paths = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [7, 0, 7, 0]])
    plain = watched.routings(TOKENS)
    scores = np.zeros((30, 3))
    for path, experts in enumerate(paths):
        for routing, expert in zip(plain, experts, strict=True):
            scores[:, path] += routing.probs_TE[:, expert].log().numpy()
    changed = seen(watched, allowed_paths(watched, paths))
    taken = np.stack([changed[depth].expert_ids_TK[:, 0].numpy() for depth in range(4)], axis=1)
    assert (taken == paths[scores.argmax(axis=1)]).all()


def test_allowing_every_own_path_changes_nothing_at_k1() -> None:
    watched = watch(ours(experts=ExpertConfig(count=8, width=16, top_k=1)))
    passages = text(6)
    every, _ = most_frequent(trace_model(watched, passages), 10**6)
    found = robustness(
        watched, passages, frequent_paths=every, noise=(0.5,), allowed=(1, 10**6), draws=2
    )
    by_name = {(r.kind, r.setting): r for r in found}
    assert by_name["allowed paths", len(every)].rise == pytest.approx(0, abs=1e-6)
    assert by_name["allowed paths", len(every)].spread is None
    assert by_name["one permutation", None].spread is not None
    assert len([r for r in found if r.kind == "random depth"]) == 4
    assert all(r.tokens == by_name["noise", 0.5].tokens for r in found)
    assert by_name["noise", 0.5].losses[0] != by_name["noise", 0.5].losses[1]


def test_unknown_rule_is_refused_for_noise_only() -> None:
    watched = watch(theirs("DeepseekV3", **{**LATENT, "n_group": 4, "topk_group": 2}))
    assert not watched.can_reroute
    with pytest.raises(ValueError, match="rule that is not known here"):
        watched.loss(TOKENS, TARGETS, logit_noise(watched, torch.Generator(), 0.1)(TOKENS))
    watched.loss(TOKENS, TARGETS, random_depth(1, torch.Generator())(TOKENS))
