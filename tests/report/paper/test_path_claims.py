"""Claims about paths: the measures of a trace, paired over seeds, and what they say of a claim."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel

import made_up_traces
from plait.report.paper.path_claims import measures, sentence
from plait.routing.analysis import analyse
from plait.routing.perturb import Robustness
from plait.studies.claims import Claim, PathContrast, outcome, path_answers

CONSISTENT = PathContrast(measure="consistency", variant="shared", against="own", expected="higher")
ROBUST = PathContrast(measure="one permutation", variant="shared", against="own", expected="lower")
CLAIM = Claim(name="P", statement="s", published="p", study="study", paths=(CONSISTENT, ROBUST))
SHARED = {0: 0.31, 1: 0.34, 2: 0.30, 3: 0.36}
OWN = {0: 0.02, 1: 0.01, 2: 0.03, 3: 0.02}


def measured(rises=(0.1, 0.9)):
    return {
        arm: {
            seed: {"consistency": value, "one permutation": rise + 0.01 * seed * value}
            for seed, value in values.items()
        }
        for arm, values, rise in (("shared", SHARED, rises[0]), ("own", OWN, rises[1]))
    }


def test_differences_are_paired_t_tests_after_holm():
    found = path_answers(CLAIM.paths, measured())
    raw = [
        ttest_rel(
            *([by[one.measure] for by in measured()[arm].values()] for arm in ("shared", "own"))
        )
        for one in CLAIM.paths
    ]
    smaller, larger = sorted((found[i].p, raw[i].pvalue) for i in range(2))
    assert smaller[0] == pytest.approx(2 * smaller[1])
    assert larger[0] == pytest.approx(max(larger[1], smaller[0]))
    assert found[0].difference.estimate.value == pytest.approx(
        np.mean([*SHARED.values()]) - np.mean([*OWN.values()])
    )
    assert [one.as_expected for one in found] == [True, True]
    assert "as claimed" in sentence(found[0])


def test_all_must_hold_and_one_the_other_way_refutes():
    assert outcome(CLAIM, (), path_answers(CLAIM.paths, measured())) == "confirmed"
    turned = path_answers(CLAIM.paths, measured(rises=(0.9, 0.1)))
    assert outcome(CLAIM, (), turned) == "refuted"
    assert "the other way" in sentence(turned[1])
    assert outcome(CLAIM, ()) == "undecided"


def test_two_seeds_or_none_give_no_verdict():
    few = {arm: dict([*by.items()][:2]) for arm, by in measured().items()}
    found = path_answers(CLAIM.paths, few)
    assert [one.as_expected for one in found] == [None, None]
    assert "under 3 seeds" in sentence(found[0])
    nothing = path_answers(CLAIM.paths, {})
    assert outcome(CLAIM, (), nothing) == "undecided"
    assert "not traced" in sentence(nothing[0])


def test_measures_of_a_trace():
    trace = made_up_traces.random(600, routed=3, experts=6, top_k=2)
    rise = Robustness(
        kind="one permutation", setting=None, losses=(5.0, 5.5), baseline=4.0, tokens=100
    )
    deeper = replace(rise, kind="random depth", setting=1.0)
    found = measures(analyse(trace, robustness=(rise, deeper), draws=5))
    paths = Counter(map(tuple, trace.expert_ids_NLK[:, :, 0].tolist()))
    most = sum(count for _, count in paths.most_common(100)) / 600
    assert found["coverage"] == pytest.approx(most)
    assert found["one permutation"] == pytest.approx(1.25)
    assert "permutation per depth" not in found
    jaccard = [
        len(a & b) / len(a | b)
        for token in trace.expert_ids_NLK.tolist()
        for a, b in zip(map(set, token), map(set, token[1:]), strict=False)
    ]
    sizes = {k: math.comb(2, k) * math.comb(4, 2 - k) / math.comb(6, 2) for k in range(3)}
    chance = sum(share * k / (4 - k) for k, share in sizes.items())
    assert found["consistency"] == pytest.approx(np.mean(jaccard) - chance, abs=1e-6)
