"""Metrics against figures worked out by hand, against chance, and under relabelling."""

from dataclasses import replace
from itertools import combinations
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up_traces import by_hand, random
from plait.evaluation.choices import entropy_of
from plait.routing import Trace, chance
from plait.routing.metrics import consistency, load, paths, specialisation, topology
from plait.statistics import Estimate, Resampler


def resampled(trace: Trace, draws: int = 20) -> Resampler:
    return Resampler(trace.document_N, trace.domain_N, draws=draws)


# Four tokens, three depths, K = 2 of E = 4; top-1 first.
HAND = [
    [[0, 1], [0, 1], [0, 2]],
    [[0, 1], [0, 1], [0, 2]],
    [[2, 3], [1, 0], [1, 0]],
    [[3, 0], [1, 2], [2, 1]],
]


def test_paths_by_hand() -> None:
    trace = by_hand(HAND, experts=4)
    found = paths.entropy(trace, resampled(trace))
    plug_in = -(0.5 * log(0.5) + 2 * 0.25 * log(0.25))
    assert found.plug_in.value == pytest.approx(plug_in)
    assert found.miller_madow.value == pytest.approx(plug_in + 2 / 8)
    assert found.plug_in.ceiling == pytest.approx(log(4))
    assert found.distinct == 3
    covered = paths.coverage(trace, resampled(trace))
    assert [covered.shares[n].value for n in (1, 2)] == [0.5, 0.75]
    assert [covered.paths_for[s].value for s in (0.5, 0.9, 0.99)] == [1, 3, 3]
    # windows (0,1): 00 00 21 31; (1,2): 00 00 11 12: both have entropy plug_in
    assert paths.window_entropy(trace, resampled(trace), 2).plug_in.value == pytest.approx(plug_in)
    most, counts = paths.most_frequent(trace, 2)
    assert most[0].tolist() == [0, 0, 0]
    assert counts.tolist() == [2, 1]
    with pytest.raises(ValueError, match="a window of 4 depths does not fit 3"):
        paths.window_entropy(trace, resampled(trace), 4)


def test_consistency_by_hand() -> None:
    trace = by_hand(HAND, experts=4, router_plan="2 + 1")
    found = consistency.consistency(trace, resampled(trace))
    # depths 0, 1: sets equal, equal, disjoint, {0,3} and {1,2}; depths 1, 2: 1/3, 1/3, 1, 1
    assert [pair.value for pair in found.by_pair] == pytest.approx([0.5, 2 / 3])
    assert found.adjacent is not None
    assert found.adjacent.value == pytest.approx((0.5 + 2 / 3) / 2)
    assert found.within_shared is None
    assert found.matrix_LL[0, 2] == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)
    runs = consistency.engagement(trace, resampled(trace))
    assert runs.longest.value == pytest.approx((3 + 3 + 2 + 1) / 4)
    shared = replace(trace, info=replace(trace.info, router_plan="1x2 + 1"))
    within = consistency.consistency(shared, resampled(shared)).within_shared
    assert within is not None
    assert within.value == pytest.approx(0.5)


def test_information_by_hand() -> None:
    # depth 1 is a function of depth 0; depth 2 is independent of both
    ids = [[[a], [a // 2], [c]] for a in range(4) for c in range(2)]
    trace = by_hand(ids, experts=4)
    found = consistency.information(trace, resampled(trace))
    assert found.by_pair[0].value == pytest.approx(1.0)
    assert found.matrix_LL[1, 0] == pytest.approx(0.5)  # one of the two bits
    assert found.by_pair[1].value == pytest.approx(0.0, abs=1e-12)


def test_agreement_by_hand() -> None:
    trace = by_hand(HAND, experts=4, expert_plan="1x3")
    found = consistency.agreement(trace, resampled(trace))
    # distinct experts: 3, 3, 4, 4 → 1 − (u − 2) / 2
    assert found[0, 1, 2].value == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert not consistency.agreement(by_hand(HAND, experts=4), resampled(trace))


def test_load_by_hand() -> None:
    trace = by_hand(HAND, experts=5)
    found = load.load(trace, resampled(trace))
    assert found.share_LE[0].tolist() == [3 / 8, 2 / 8, 1 / 8, 2 / 8, 0]
    assert found.max_over_mean[0].value == pytest.approx(3 / 8 * 5)
    assert found.dead[0].value == 1
    together = load.coactivation(trace, resampled(trace), 0)
    assert together.joint_EE[0, 1] == 0.5
    assert together.joint_EE[0, 0] == 0.75
    assert together.pair_entropy is not None
    assert together.pair_entropy.value == pytest.approx(-(0.5 * log(0.5) + 0.5 * log(0.25)))


def test_specialisation_by_hand() -> None:
    # domain 0 goes to expert 0 three times of four, domain 1 to expert 1 always
    ids = [[[0]], [[0]], [[0]], [[1]], [[1]], [[1]]]
    trace = by_hand(ids, experts=3, domains=[0, 0, 0, 0, 1, 1], tokens=[7, 7, 7, 8, 8, 9])
    found = specialisation.by_domain(trace, resampled(trace))
    assert found is not None
    assert found.index_LE is not None
    assert found.index_LE[0, :2].tolist() == [1.0, pytest.approx((0.25 - 1) / 1.25)]
    assert np.isnan(found.index_LE[0, 2])
    p = np.array([[3, 1], [0, 2]]) / 6
    expected = sum(
        x * log(x / (p[i].sum() * p[:, j].sum())) for (i, j), x in np.ndenumerate(p) if x
    )
    entropy = -(4 / 6 * log(4 / 6) + 2 / 6 * log(2 / 6))
    assert found.information[0].value == pytest.approx(expected / entropy)
    tokens = specialisation.expert_tokens(trace, 0, top=1)
    assert tokens[0].token_ids == (7,)
    assert tokens[0].counts == (3,)
    assert tokens[1].token_ids == (8,)


def test_log_odds_formula() -> None:
    tokens = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = specialisation.distinctive_tokens(tokens, group, [0], prior=2.0)
    odds = log(4 / 2) - log(2 / 4)
    assert found[0].z_scores == pytest.approx((odds / (1 / 4 + 1 / 2) ** 0.5,))


def test_topology_by_hand() -> None:
    untrained = (np.ones((3, 3)) - np.eye(3)) / 2
    trained = np.array([[0, 0.9, 0.1], [0.9, 0, 0.1], [0.5, 0.5, 0]])
    trace = by_hand([[[0, 1]], [[1, 2]], [[0, 1]]], experts=3)
    found = topology.topology(0, (0,), trained, untrained, row_normalise=False, trace=trace)
    assert found.untrained_row_entropy == pytest.approx(log(2)) == found.entropy_ceiling
    assert found.row_entropy < found.untrained_row_entropy
    assert found.untrained_spectrum == pytest.approx([1.0, 0.5, 0.5])
    assert found.spectrum[0] == pytest.approx(1.0)
    assert found.effective_EE is not None
    assert found.effective_EE[2, 1] == pytest.approx(0.1)  # what expert 2 receives from 1
    assert found.effective_EE[1, 2] == pytest.approx(0.5)
    assert np.isnan(found.effective_EE[0, 2])


@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (5, 2), (6, 3), (3, 3)])
def test_chance_by_enumeration(experts: int, top_k: int) -> None:
    subsets = [set(s) for s in combinations(range(experts), top_k)]
    jaccard = np.mean([len(a & b) / len(a | b) for a in subsets for b in subsets])
    assert chance.jaccard(experts, top_k) == pytest.approx(jaccard)
    if top_k < experts:
        most = min(2 * top_k, experts) - top_k
        agreement = np.mean([1 - (len(a | b) - top_k) / most for a in subsets for b in subsets])
        assert chance.agreement(experts, top_k, 2) == pytest.approx(agreement)


def test_chance_entropy_and_runs_by_enumeration() -> None:
    draws = np.stack(np.meshgrid(*[range(3)] * 4), axis=-1).reshape(-1, 4)
    entropies = [entropy_of(np.bincount(draw).astype(float)) for draw in draws]
    assert chance.plug_in_entropy(4, log(3)) == pytest.approx(np.mean(entropies))
    runs = [max(len(list(r)) for r in _runs(draw)) for draw in draws]
    expected = np.bincount(runs, minlength=5) / len(runs)
    assert chance.longest_run([3] * 4) == pytest.approx(expected)
    assert chance.plug_in_entropy(1000, 500.0) == pytest.approx(log(1000))


def _runs(draw: np.ndarray) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for value in draw.tolist():
        if runs[-1] and runs[-1][-1] != value:
            runs.append([])
        runs[-1].append(value)
    return runs


def meets_chance(figure: Estimate | None, tolerance: float = 0.0) -> None:
    assert figure is not None
    assert figure.chance is not None
    assert figure.low is not None
    # four standard errors, so that a fixed seed is not a lucky one
    width = 2 * (figure.value - figure.low) + tolerance
    assert abs(figure.value - figure.chance) <= width, figure


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (16, 1)])
def test_random_routing_meets_chance(experts: int, top_k: int) -> None:
    trace = random(4000, 6, experts, top_k, seed=1, expert_plan="1 + 1x4 + 1")
    r = resampled(trace, draws=60)
    meets_chance(paths.entropy(trace, r).plug_in, 1e-3)
    meets_chance(paths.entropy(trace, r).miller_madow, 1e-3)
    meets_chance(paths.window_entropy(trace, r, 2).miller_madow, 1e-3)
    meets_chance(paths.coverage(trace, r).shares[100])
    meets_chance(consistency.consistency(trace, r).adjacent)
    meets_chance(consistency.information(trace, r).adjacent)
    meets_chance(consistency.engagement(trace, r).longest)
    meets_chance(consistency.engagement(trace, r).four)
    if top_k > 1:
        for row in range(len(trace.info.routed)):
            meets_chance(load.coactivation(trace, r, row).pair_entropy)
    for group in consistency.agreement(trace, r).values():
        meets_chance(group)
    meets_chance(load.load(trace, r).max_over_mean[0], 0.05)
    meets_chance(load.load(trace, r).entropy[0], 1e-3)
    domains = specialisation.by_domain(trace, r)
    assert domains is not None
    meets_chance(domains.corrected[0])
    assert domains.mean_index is not None
    meets_chance(domains.mean_index[0])
    meets_chance(specialisation.by_token(trace, r, 0))


def test_shared_decision_is_consistency_one() -> None:
    trace = random(200, 4, 8, 2, decision_plan="1x2 + 2", router_plan="1x2 + 2")
    trace.expert_ids_NLK[:, 1] = trace.expert_ids_NLK[:, 0]
    found = consistency.consistency(trace, resampled(trace))
    assert found.within_shared is not None
    assert (found.within_shared.value, found.within_shared.low) == (1.0, 1.0)
    assert consistency.information(trace, resampled(trace)).by_pair[0].value == pytest.approx(1.0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), routed=st.integers(2, 5), top_k=st.integers(1, 3))
def test_label_free_metrics_ignore_labels(seed: int, routed: int, top_k: int) -> None:
    experts = 6
    trace = random(60, routed, experts, top_k, seed=seed)
    generator = np.random.default_rng(seed)
    permuted = trace.expert_ids_NLK.copy()
    for row in range(routed):
        permuted[:, row] = generator.permutation(experts).astype(np.uint8)[permuted[:, row]]
    other = replace(trace, expert_ids_NLK=permuted)

    def label_free(t: Trace) -> list[Estimate | None]:
        r = resampled(t, draws=3)
        domains = specialisation.by_domain(t, r)
        assert domains is not None
        loads = load.load(t, r)
        return [
            paths.entropy(t, r).plug_in,
            paths.window_entropy(t, r, 2).miller_madow,
            *paths.coverage(t, r).shares.values(),
            consistency.information(t, r).adjacent,
            *loads.max_over_mean,
            *loads.dead,
            load.coactivation(t, r, 0).pair_entropy,
            *domains.corrected,
            specialisation.by_token(t, r, 0),
            specialisation.path_domain_information(t, r),
        ]

    for a, b in zip(label_free(trace), label_free(other), strict=True):
        if a is None or b is None:
            assert a is b
            continue
        for name in ("value", "low", "high", "chance"):
            x, y = getattr(a, name), getattr(b, name)
            if name != "chance" or a.ceiling != 1.0:  # some chance values are simulated
                assert x == pytest.approx(y, abs=1e-9), name


def test_interval_covers_as_often_as_it_says() -> None:
    """Documents differ, so tokens are not independent: the interval has to know."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        document_N = np.repeat(np.arange(40), 25)
        value_N = generator.normal(0, 1, 40)[document_N] + generator.normal(0, 1, 1000)
        figure = Resampler(document_N, np.zeros(1000, np.int16), draws=60).mean(value_N)
        assert figure.low is not None
        assert figure.high is not None
        covered += figure.low <= 0 <= figure.high
    assert 180 <= covered <= 200


def test_many_documents_are_dealt_into_blocks_of_one_domain() -> None:
    document_N = np.repeat(np.arange(1000), 2)
    domain_N = (document_N % 3 == 0).astype(np.int16)
    r = Resampler(document_N, domain_N, draws=10)
    assert r.documents == 1000
    assert r.blocks <= 258
    assert (r.domain_G[r.block_N] == domain_N).all()


def test_one_document_has_no_interval() -> None:
    trace = by_hand(HAND, experts=4, documents=[0] * 4)
    figure = consistency.consistency(trace, resampled(trace)).adjacent
    assert figure is not None
    assert figure.low is None
