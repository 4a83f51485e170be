"""Perturbations: what they change is what they say, and nothing else."""

import numpy as np
import pytest
import torch

from made_up_models import LATENT, ours, text, theirs
from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, RouterConfig
from plait.model import Routing
from plait.model.language_model import Stage
from plait.routing import Passage, WatchedModel, trace_model, watch
from plait.routing.metrics.paths import most_frequent
from plait.routing.perturb import (
    allowed_paths,
    forwards,
    logit_noise,
    permutation,
    put_first,
    random_depth,
    robustness,
)
from plait.routing.watched_model import Plain
from plait.sharing import Sharing

TOKENS = torch.arange(1, 31)[None]
TARGETS = torch.arange(2, 32)[None]


def seen(watched: WatchedModel, change: object) -> dict[int, Routing]:
    """The routing at each depth under a change, as the experts get it."""
    result: dict[int, Routing] = {}
    decide = change(TOKENS, watched.plain(TOKENS, TARGETS))  # type: ignore[operator]

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
    unchanged = watched.plain(TOKENS, TARGETS)
    assert unchanged.loss == pytest.approx(plain, rel=1e-6)
    silent = logit_noise(watched, torch.Generator(), 0.0)(TOKENS, unchanged)
    assert watched.loss(TOKENS, TARGETS, silent) == pytest.approx(plain, rel=1e-5)
    permuted = permutation(watched, torch.Generator().manual_seed(1), per_depth=True)(
        TOKENS, unchanged
    )
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


WALKS = {
    "plain": {},
    "a decision for two depths": {"sharing": Sharing(router="1x2 + 2", decision="1x2 + 2")},
    "recurrent": {"router": RouterConfig(kind="recurrent")},
    "dense first": {"experts": ExpertConfig(count=8, width=16, dense_first=1, dense_width=16)},
    "learned positions": {"attention": AttentionConfig(heads=4, position="learned")},
}


@pytest.mark.parametrize("kind", [*WALKS, "Olmoe", "Mixtral", "Qwen3Moe", "DeepseekV3"])
def test_going_on_from_a_depth_is_the_forward_from_its_beginning(kind: str) -> None:
    watched = watch(ours(**WALKS[kind]) if kind in WALKS else theirs(kind, **LATENT))
    plain = watched.plain(TOKENS, TARGETS)
    assert [r.expert_ids_TK.tolist() for r in plain.routings] == [
        r.expert_ids_TK.tolist() for r in watched.routings(TOKENS)
    ]
    assert {depth for depth in watched.info.routed if depth} <= set(plain.stages)
    for depth, stage in plain.stages.items():
        assert watched.loss(TOKENS, TARGETS, start=stage) == pytest.approx(plain.loss, rel=1e-6)
        whole, rest = (
            watched.loss(
                TOKENS,
                TARGETS,
                random_depth(depth, torch.Generator().manual_seed(3))(TOKENS, plain),
                start,
            )
            for start in (None, stage)
        )
        assert rest == pytest.approx(whole, rel=1e-6)
        assert depth not in watched.info.routed or rest != plain.loss


def test_layers_that_hand_on_more_than_their_stream_are_run_from_the_beginning() -> None:
    model = theirs("Olmoe")
    first, last = model.model.layers[0], model.model.layers[-1]  # type: ignore[union-attr]
    beside: list[torch.Tensor] = []

    def hand_on(module: object, arguments: object, output: torch.Tensor) -> None:
        beside[:] = [torch.randn(output.shape)]

    first.register_forward_hook(hand_on)
    last.register_forward_pre_hook(lambda module, args: (args[0] + 9 * beside[0], *args[1:]))
    assert watch(model).plain(TOKENS, TARGETS).stages == {}


class Counting:
    """A watched model that counts the tokens it runs, and at how many depths."""

    def __init__(self, watched: WatchedModel) -> None:
        self.watched, self.run = watched, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self.watched, name)

    def plain(self, tokens_BS: torch.Tensor, targets_BS: torch.Tensor) -> Plain:
        self.run += tokens_BS.numel()
        return self.watched.plain(tokens_BS, targets_BS)

    def loss(
        self, tokens_BS: torch.Tensor, targets_BS: torch.Tensor, decide: object, start: Stage | None
    ) -> float:
        depth = self.watched.info.depth
        self.run += tokens_BS.numel() * (1 - (start.depth if start else 0) / depth)
        return self.watched.loss(tokens_BS, targets_BS, decide, start)  # type: ignore[arg-type]


def test_draws_share_the_text_and_the_work_is_known_beforehand() -> None:
    counting = Counting(watch(ours()))
    documents = [Passage(list(range(start, start + 16))) for start in range(12)]
    paths = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    found = robustness(counting, documents, frequent_paths=paths, noise=(0.5,), draws=3)  # type: ignore[arg-type]
    work = forwards(counting.watched.info, frequent_paths=paths, noise=(0.5,), draws=3)
    assert work == 1 + 2 + 1 + (1 + 3 / 4 + 2 / 4 + 1 / 4) / 3 + 2
    assert counting.run == pytest.approx(work * 12 * 16)
    by_kind = {r.kind: r for r in found}
    assert by_kind["one permutation"].tokens == by_kind["allowed paths"].tokens == 12 * 15
    assert by_kind["random depth"].tokens == 4 * 15
    assert len(by_kind["one permutation"].losses) == 3
    assert len(by_kind["random depth"].losses) == len(by_kind["allowed paths"].losses) == 1


def test_a_loss_is_the_rise_over_its_own_share_of_the_text() -> None:
    watched = watch(ours())
    documents = [Passage(list(range(start, start + 16))) for start in range(0, 60, 10)]
    found = robustness(watched, documents, noise=(), draws=2)[1]
    plain, rises = 0.0, []
    for share in (0, 1):
        x = torch.tensor([passage.token_ids for passage in documents[share::2]])
        y = torch.cat([x[:, 1:], torch.full((len(x), 1), -100)], dim=1)
        generator = torch.Generator().manual_seed(share)
        change = permutation(watched, generator, per_depth=True)(x, watched.plain(x, y))
        plain += watched.loss(x, y)
        rises.append((watched.loss(x, y, change) - watched.loss(x, y)) / 45)
    assert found.baseline == pytest.approx(plain / 90, rel=1e-5)
    assert np.array(found.losses) - found.baseline == pytest.approx(np.array(rises), rel=1e-3)
    assert found.rise == pytest.approx(np.mean(rises), rel=1e-3)


def test_a_permutation_is_one_for_its_share_and_noise_another_for_every_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plait.routing.perturb.BATCH_TOKENS", 16)
    watched, passage = watch(ours()), Passage(list(range(16)))
    once, twice = (
        {(r.kind, r.setting): r.losses for r in robustness(watched, text, noise=(1.0,), draws=1)}
        for text in ([passage], [passage] * 2)
    )
    for same in ("one permutation", None), ("permutation per depth", None):
        assert twice[same] == pytest.approx(once[same], abs=1e-6)
    for other in ("noise", 1.0), ("random depth", 0):
        assert abs(twice[other][0] - once[other][0]) > 1e-5


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
    whole = [r for r in found if r.kind != "random depth"]
    assert all(r.tokens == by_name["noise", 0.5].tokens for r in whole)
    assert by_name["noise", 0.5].losses[0] != by_name["noise", 0.5].losses[1]


def test_unknown_rule_is_refused_for_noise_only() -> None:
    watched = watch(theirs("DeepseekV3", **{**LATENT, "n_group": 4, "topk_group": 2}))
    assert not watched.can_reroute
    plain = watched.plain(TOKENS, TARGETS)
    with pytest.raises(ValueError, match="rule that is not known here"):
        watched.loss(TOKENS, TARGETS, logit_noise(watched, torch.Generator(), 0.1)(TOKENS, plain))
    watched.loss(TOKENS, TARGETS, random_depth(1, torch.Generator())(TOKENS, plain))
