"""Promised power against simulated studies, and against scipy's non-central t."""

import itertools

import numpy as np
import pytest
from scipy import stats

from plait.statistics.power import (
    deviation,
    equivalence_power,
    power,
    seeds_for_equivalence,
    seeds_needed,
    smallest_effect,
)

STUDIES = 4000
GRID = list(itertools.product((0.004, 0.03), (3, 4, 6, 10, 20), (0.3, 1.0, 2.5), (0.05, 0.01)))
"""sigma (nats), seeds, effect in sigmas, level"""


def simulated(sigma: float, seeds: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of each simulated study."""
    generator = np.random.default_rng([seeds, round(1e4 * sigma), round(1e4 * effect)])
    d = generator.normal(effect, sigma, (STUDIES, seeds))
    return d.mean(1), d.std(1, ddof=1) / np.sqrt(seeds)


@pytest.mark.parametrize(("sigma", "seeds", "ratio", "level"), GRID)
def test_power_is_what_simulated_studies_reach(
    sigma: float, seeds: int, ratio: float, level: float
) -> None:
    mean, error = simulated(sigma, seeds, ratio * sigma)
    found = np.abs(mean / error) > stats.t.ppf(1 - level / 2, seeds - 1)
    assert found.mean() == pytest.approx(power(ratio * sigma, sigma, seeds, level), abs=0.03)


@pytest.mark.parametrize(("sigma", "seeds", "ratio", "level"), GRID)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equivalence_power_is_what_simulated_studies_reach(
    sigma: float, seeds: int, ratio: float, level: float, share: float
) -> None:
    margin = ratio * sigma
    mean, error = simulated(sigma, seeds, share * margin)
    held = np.abs(mean) + stats.t.ppf(1 - level, seeds - 1) * error < margin
    promised = equivalence_power(margin, sigma, seeds, level, share * margin)
    assert held.mean() == pytest.approx(promised, abs=0.03)
    if share == 1:
        assert promised <= level + 1e-9


@pytest.mark.parametrize("seeds", [2, 3, 8, 200])
@pytest.mark.parametrize("level", [0.05, 0.001])
@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0, 12.0])
def test_power_equals_the_noncentral_t(seeds: int, level: float, shift: float) -> None:
    critical = stats.t.ppf(1 - level / 2, seeds - 1)
    expected = stats.nct.sf(critical, seeds - 1, shift)
    if shift < 5:  # beyond, the other side is nothing, and NaN in scipy
        expected += stats.nct.cdf(-critical, seeds - 1, shift)
    assert power(shift / np.sqrt(seeds), 1.0, seeds, level) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("seeds", [2, 3, 1000])
def test_effects_of_any_size_have_a_power(seeds: int) -> None:
    chances = [power(10.0**k, 1.0, seeds) for k in range(-8, 9)]
    assert chances[0] == pytest.approx(0.05, abs=1e-9)
    assert chances[-1] == pytest.approx(1.0)
    assert np.all(np.diff(chances) >= -1e-12)
    assert equivalence_power(1e6, 1.0, 3) == pytest.approx(1.0)


def test_planning_inverts_power() -> None:
    for seeds, level in itertools.product((2, 3, 9), (0.05, 0.05 / 7)):
        effect = smallest_effect(0.02, seeds, 0.8, level)
        assert power(effect, 0.02, seeds, level) == pytest.approx(0.8, abs=1e-6)
    n = seeds_needed(0.01, 0.02)
    assert n is not None
    assert power(0.01, 0.02, n) >= 0.8 > power(0.01, 0.02, n - 1)
    assert n == pytest.approx(7.85 * 4, abs=3)  # the normal approximation
    m = seeds_for_equivalence(0.01, 0.02)
    assert m is not None
    assert equivalence_power(0.01, 0.02, m) >= 0.8 > equivalence_power(0.01, 0.02, m - 1)
    assert seeds_needed(1.0, 0.02) == 3
    assert seeds_needed(1e-6, 0.02) is None
    assert seeds_for_equivalence(0.01, 0.02, effect=0.01) is None


def test_the_interval_of_a_deviation_covers_it() -> None:
    generator = np.random.default_rng(5)
    samples = generator.normal(0.1, 0.02, (4000, 4))
    found = [deviation(sample.tolist()) for sample in samples]
    assert found[0].value == pytest.approx(samples[0].std(ddof=1))
    covered = np.mean([e.low <= 0.02 <= e.high for e in found])  # type: ignore[operator]
    assert covered == pytest.approx(0.95, abs=0.0105)  # three binomial errors


def test_mistakes_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="run another seed"):
        deviation([0.1])
    with pytest.raises(ValueError, match="at least two seeds"):
        power(0.1, 0.1, 1)
    with pytest.raises(ValueError, match="over the contrasts"):
        power(0.1, 0.1, 3, level=0)
    with pytest.raises(ValueError, match="sigma is a positive"):
        power(0.1, 0.0, 3)
    with pytest.raises(ValueError, match="margin is positive"):
        equivalence_power(0.0, 0.1, 3)
    with pytest.raises(ValueError, match="power lies between"):
        smallest_effect(0.1, 3, power=1.0)
    with pytest.raises(ValueError, match="at_least"):
        seeds_needed(0.1, 0.1, at_least=9, at_most=3)
