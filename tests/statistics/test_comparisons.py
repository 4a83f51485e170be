"""Statistics against scipy, and what one seed may not say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plait.statistics import equivalence, holm, mean_interval, paired_difference, wilson

values = st.lists(st.floats(-10, 10).map(lambda x: round(x, 4)), min_size=2, max_size=12).filter(
    lambda v: max(v) - min(v) > 1e-3
)


@given(values)
def test_interval_equals_scipy(sample: list[float]) -> None:
    estimate = mean_interval(sample)
    low, high = stats.t.interval(
        0.95, len(sample) - 1, loc=sum(sample) / len(sample), scale=stats.sem(sample)
    )
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


@given(values)
def test_paired_difference_equals_scipy(sample: list[float]) -> None:
    variant = {seed: 3.0 + value for seed, value in enumerate(sample)}
    baseline = {seed: 3.0 for seed in variant}
    difference = paired_difference(variant, baseline)
    assert difference is not None
    expected = stats.ttest_rel(list(variant.values()), list(baseline.values())).pvalue
    assert difference.p == pytest.approx(expected, abs=1e-9)


@given(values, st.floats(0.01, 5))
def test_tost_equals_two_scipy_tests(sample: list[float], margin: float) -> None:
    result = equivalence(sample, margin)
    if len(sample) < 3:
        assert result is None
        return
    assert result is not None
    above = stats.ttest_1samp(sample, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(sample, margin, alternative="less").pvalue
    assert result.p == pytest.approx(max(above, below), abs=1e-9)


def test_pairs_are_made_by_seed_and_only_where_both_finished() -> None:
    difference = paired_difference({1: 2.0, 2: 5.0, 3: 9.0}, {2: 4.0, 1: 1.5, 7: 0.0})
    assert difference is not None
    assert difference.by_seed == {1: 0.5, 2: 1.0}
    assert paired_difference({1: 2.0}, {2: 2.0}) is None


def test_one_seed_gives_a_number_and_no_certainty() -> None:
    difference = paired_difference({0: 2.5}, {0: 2.75})
    assert difference is not None
    assert difference.estimate.value == -0.25
    assert (difference.estimate.low, difference.estimate.high, difference.p) == (None, None, None)
    assert equivalence([0.0], 0.1) is None


def test_identical_runs_are_equal_not_a_division_by_zero() -> None:
    same = paired_difference({0: 2.0, 1: 3.0}, {0: 2.0, 1: 3.0})
    shifted = paired_difference({0: 2.5, 1: 3.5}, {0: 2.0, 1: 3.0})
    assert same is not None
    assert shifted is not None
    assert (same.p, shifted.p) == (1.0, 0.0)
    assert equivalence([0.0, 0.0, 0.0], 0.01).p < 1e-12  # type: ignore[union-attr]


def test_two_seeds_that_agree_by_chance_are_not_equivalent() -> None:
    assert equivalence([0.001, 0.001], 0.1) is None
    assert equivalence([0.001, 0.001, 0.002], 0.1) is not None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_maximum(p_values: list[float]) -> None:
    ordered = sorted(p_values)
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        rank = ordered.index(p)
        steps = [(len(p_values) - j) * ordered[j] for j in range(rank + 1)]
        assert math.isclose(adjusted, min(1.0, max(steps)))


def test_a_share_of_all_or_none_has_an_interval() -> None:
    none = wilson(0.0, 8)
    assert (none.low, none.high) == (pytest.approx(0.0), pytest.approx(0.3244, abs=1e-4))
