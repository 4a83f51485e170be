"""What paths are about: against scikit-learn, a planted relation, and nothing at all."""

from dataclasses import replace
from math import log

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import mutual_info_score

from made_up_traces import by_hand, random
from plait.evaluation.choices import label
from plait.routing import Trace
from plait.routing.analysis import analyse
from plait.routing.metrics.classes import path_classes, profiles, told
from plait.routing.token_classes import CLASSES, OUTSIDE, TokenClasses
from plait.statistics import Resampler
from plait.statistics.proportions import wilson


def resampled(trace: Trace, draws: int = 60) -> Resampler:
    return Resampler(trace.document_N, trace.domain_N, draws=draws)


def drawn(tokens: int, classes: int, seed: int) -> npt.NDArray[np.int8]:
    return np.random.default_rng(seed).integers(0, classes, tokens).astype(np.int8)


def test_information_is_that_of_scikit_learn() -> None:
    trace = random(800, 4, 5, 2, seed=2)
    class_N = (drawn(800, 6, 3) + trace.top1_NL[:, 1]).astype(np.int8) % 6
    found = told(trace, class_N, resampled(trace), windows=(2, 3))
    top1_NL = trace.top1_NL.astype(int)

    def theirs(start: int, width: int) -> float:
        names = ["-".join(map(str, path)) for path in top1_NL[:, start : start + width].tolist()]
        return float(mutual_info_score(names, class_N))

    for depth, of_depth in enumerate(found.by_depth):
        assert of_depth.information.value == pytest.approx(theirs(depth, 1))
    for width, window in found.windows.items():
        mean = np.mean([theirs(start, width) for start in range(4 - width + 1)])
        assert window.information.value == pytest.approx(mean)
    assert found.path.information.value == pytest.approx(theirs(0, 4))
    assert found.path.information.ceiling == pytest.approx(mutual_info_score(class_N, class_N))


def test_chance_is_the_mean_over_permutations_within_documents() -> None:
    """Two kinds of documents, each of one class on experts of its own: nothing beyond that."""
    trace = random(1200, 2, 4, 1, seed=4)
    class_N = (trace.document_N % 2).astype(np.int8)
    trace.expert_ids_NLK[:, 0, 0] = class_N * 2 + drawn(1200, 2, 5)
    found = told(trace, class_N, resampled(trace)).by_depth[0]
    assert found.information.value == pytest.approx(log(2))
    assert found.information.chance == pytest.approx(log(2))
    assert found.excess.value == pytest.approx(0.0, abs=1e-12)

    mixed_N = drawn(1200, 4, 6)
    found = told(trace, mixed_N, resampled(trace)).path
    generator = np.random.default_rng(1)
    path_N = label(trace.top1_NL, trace.info.experts)
    by_hand_S = []
    for _ in range(100):
        again_N = mixed_N.copy()
        for document in np.unique(trace.document_N):
            inside = trace.document_N == document
            again_N[inside] = generator.permutation(again_N[inside])
        by_hand_S.append(mutual_info_score(path_N, again_N))
    error = np.std(by_hand_S) / 20**0.5
    assert found.information.chance == pytest.approx(np.mean(by_hand_S), abs=3 * error)


def test_a_planted_relation_is_found_where_it_is() -> None:
    trace = random(4000, 3, 8, 2, seed=6)
    class_N = np.where(drawn(4000, 2, 7) == 0, trace.top1_NL[:, 1] // 2, drawn(4000, 4, 8))
    found = told(trace, class_N.astype(np.int8), resampled(trace), windows=(2,))
    assert found.by_depth[1].excess.low is not None
    assert found.by_depth[1].excess.low > 0.2
    for depth in (0, 2):
        excess = found.by_depth[depth].excess
        assert excess.low is not None
        assert excess.high is not None
        assert excess.low <= 0 <= excess.high
    # H(class | expert): half of the tokens follow it, the others are even over 4
    expected = log(4) + 0.625 * log(0.625) + 0.375 * log(0.125)
    assert found.by_depth[1].excess.value == pytest.approx(expected, abs=0.05)
    assert found.by_depth[1].share.value == pytest.approx(expected / log(4), abs=0.04)
    assert found.windows[2].excess.value > 0.2


@pytest.mark.parametrize(("experts", "depths"), [(4, 1), (12, 2)])
def test_nothing_comes_out_at_chance(experts: int, depths: int) -> None:
    """Documents differ in both, and paths are many: the interval covers 0 as often as it says."""
    covered, values = 0, []
    for seed in range(120):
        generator = np.random.default_rng(seed)
        document_N = np.repeat(np.arange(30), 40).astype(np.int32)
        of_document = generator.dirichlet(np.full(6, 0.5), 30)
        class_N = np.concatenate([generator.choice(6, 40, p=p) for p in of_document])
        trace = random(1200, depths, experts, 1, seed=seed)
        shift_N = generator.integers(0, experts, 30)[document_N] * (drawn(1200, 2, seed) == 0)
        trace.expert_ids_NLK[:, :, 0] = (trace.expert_ids_NLK[:, :, 0] + shift_N[:, None]) % experts
        trace = replace(trace, document_N=document_N, domain_N=np.zeros(1200, np.int16))
        excess = told(trace, class_N.astype(np.int8), resampled(trace, 40)).path.excess
        assert excess.low is not None
        assert excess.high is not None
        covered += excess.low <= 0 <= excess.high
        values.append(excess.value)
    assert 108 <= covered <= 120
    assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5


def test_profile_by_hand() -> None:
    # path 0: classes 6 6 6 2; path 1: 2 2; each document one token
    ids = [[[0]], [[0]], [[0]], [[0]], [[1]], [[1]]]
    trace = by_hand(ids, experts=3)
    class_N = np.array([6, 6, 6, 2, 2, 2], dtype=np.int8)
    first, second = profiles(trace, class_N, resampled(trace, 400), 5)
    assert first.count_C[[2, 6]].tolist() == [1, 3]
    assert (CLASSES[first.main], first.share.value) == ("punctuation", 0.75)
    assert (CLASSES[second.main], second.share.value) == ("word", 1.0)
    odds = log((3 + 50) / (1 + 50)) - log((0 + 50) / (2 + 50))
    assert first.log_odds_C[6] == pytest.approx(odds)
    assert first.log_odds_C[2] == pytest.approx(-odds)
    assert np.isnan(first.log_odds_C[0])
    # a path of one class has as many independent tokens as documents; Wilson: n / (n + z²)
    assert second.share.low == pytest.approx(wilson(1.0, 2).low)
    assert second.share.low == pytest.approx(2 / (2 + 1.96**2))


def test_tokens_of_alike_documents_are_worth_fewer() -> None:
    generator = np.random.default_rng(0)
    document_N = np.repeat(np.arange(20), 50)
    trace = by_hand([[[0]]] * 1000, experts=2, documents=document_N.tolist())
    alike_N = np.where(generator.random(20) < 0.7, 2, 6)[document_N].astype(np.int8)
    apart_N = np.where(generator.random(1000) < 0.7, 2, 6).astype(np.int8)
    (alike,) = profiles(trace, alike_N, resampled(trace, 200), 1)
    (apart,) = profiles(trace, apart_N, resampled(trace, 200), 1)
    widths = []
    for found in (alike, apart):
        assert found.share.high is not None
        assert found.share.low is not None
        widths.append(found.share.high - found.share.low)
    assert widths[0] > 0.3
    assert widths[1] < 0.1


def test_edges() -> None:
    one_path = by_hand([[[0], [0]]] * 8, experts=2)
    classes = TokenClasses(drawn(8, 3, 0), np.full(8, OUTSIDE, np.int8))
    found = path_classes(one_path, classes, resampled(one_path), (2,), 3)
    assert found.place is None
    assert found.kind.path.information.value == pytest.approx(0.0, abs=1e-12)
    assert found.kind.path.excess.value == pytest.approx(0.0, abs=1e-12)
    assert len(found.profiles) == 1

    trace = random(200, 3, 4, 2)
    one_class = TokenClasses(np.full(200, 2, np.int8), np.zeros(200, np.int8))
    found = path_classes(trace, one_class, resampled(trace), (2,), 3)
    for part in (found.kind.path, *found.kind.by_depth):
        assert part.information.ceiling == pytest.approx(0.0, abs=1e-12)
        assert part.share.value == pytest.approx(0.0, abs=1e-9)
    assert found.count_C.sum() == 200

    single = replace(trace, document_N=np.zeros(200, np.int32), domain_N=np.zeros(200, np.int16))
    alone = told(single, drawn(200, 3, 0), resampled(single)).path
    assert (alone.excess.low, alone.information.low, alone.share.low) == (None, None, None)


def test_analysis_writes_it_where_texts_are_known() -> None:
    trace = random(400, 3, 4, 2)
    texts = [" the", " House", "ly", "1", "\n", "("]

    def decode(token: int) -> str:
        return texts[token % len(texts)]

    assert analyse(trace, draws=5).to_dict(decode)["classes"] is None
    written = analyse(trace, decode=decode, draws=5).to_dict(decode)["classes"]
    assert sum(written["tokens"].values()) == 400
    assert written["tokens"]["punctuation"] == sum(t % 6 == 5 for t in trace.token_ids_N.tolist())
    assert len(written["kind"]["by_depth"]) == 3
    assert written["place"]["path"]["excess"]["tokens"] < 400
    assert set(written["kind"]["path"]) == {"information", "excess", "share"}
    frequent = written["most_frequent"][0]
    assert frequent["main"] in CLASSES
    assert sum(frequent["tokens"].values()) == frequent["share"]["tokens"]
