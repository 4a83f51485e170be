"""Errors of studies that are looked at early, over simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from plait.statistics import equivalence, holm, paired_difference
from plait.statistics.sequential import Looks, sequential_test, spent

STUDIES = 20_000
LOOKS = [(3, 6), (4, 8, 12), (3, 4, 5, 6)]


def differences(studies: int, seeds: int, mean: float, sigma: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, seeds]).normal(mean, sigma, (studies, seeds))


def t_at(d: np.ndarray, looks: Looks) -> np.ndarray:
    """(studies, looks)"""
    return np.stack(
        [d[:, :n].mean(1) / d[:, :n].std(1, ddof=1) * math.sqrt(n) for n in looks.sizes], axis=1
    )


def at_most(share: float, level: float, studies: int) -> bool:
    """Not above a level by more than three binomial errors."""
    return share <= level + 3 * math.sqrt(level * (1 - level) / studies)


def test_spending_is_obrien_fleming_like() -> None:
    assert spent(0.05, 1.0) == pytest.approx(0.05)
    assert spent(0.05, 0.5) == pytest.approx(0.00557, abs=1e-5)  # Lan–DeMets 1983
    assert spent(0.05, 0.25) == pytest.approx(8.86e-5, abs=1e-7)


@pytest.mark.parametrize("sizes", LOOKS)
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_error_over_all_looks_is_the_level(
    sizes: tuple[int, ...], sides: int, level: float
) -> None:
    looks = Looks(sizes)
    t_RK = t_at(differences(4 * STUDIES, sizes[-1], 0, 0.02), looks)
    outward_RK = np.abs(t_RK) if sides == 2 else t_RK
    rejected = (outward_RK >= looks.critical_values(level, sides)).any(1).mean()
    assert rejected == pytest.approx(level, abs=4 * math.sqrt(level / len(t_RK)))


@pytest.mark.parametrize("sides", [1, 2])
def test_p_is_the_level_at_which_a_look_just_rejects(sides: int) -> None:
    looks = Looks((4, 8, 12))
    for level in (1e-5, 0.01, 0.05, 0.3):
        critical = looks.critical_values(level, sides)
        for k in range(3):
            t = [0.0] * k + [critical[k]]
            assert looks.p_value(t, sides) == pytest.approx(level, rel=1e-6)
    path = [3.0, 2.0, 2.6]
    p = [looks.p_value(path[:k], sides) for k in (1, 2, 3)]
    assert p == sorted(p, reverse=True)
    assert looks.p_value([0.0]) == 1
    assert looks.p_value([math.inf]) <= 1e-9


def test_one_look_is_the_t_test() -> None:
    for d in differences(50, 7, 0.01, 0.02):
        found = sequential_test(d.tolist(), Looks((7,)), 0.03)
        fixed = paired_difference(dict(enumerate(d)), dict.fromkeys(range(7), 0.0))
        tost = equivalence(d.tolist(), 0.03)
        assert found is not None
        assert found.equivalence is not None
        assert fixed is not None
        assert tost is not None
        assert found.last
        assert found.p == pytest.approx(fixed.p, rel=1e-3)
        assert found.equivalence.p == pytest.approx(tost.p, rel=1e-3)
    assert Looks((7,)).critical_values(0.05)[0] == pytest.approx(stats.t.ppf(0.975, 6), rel=1e-5)


@pytest.mark.parametrize("sizes", LOOKS)
@pytest.mark.parametrize("ratio", [1.0, 3.0, 20.0])
def test_equivalence_is_rarely_claimed_at_the_margin(sizes: tuple[int, ...], ratio: float) -> None:
    looks, margin = Looks(sizes), 0.02
    d = differences(STUDIES, sizes[-1], margin, margin / ratio, seed=int(ratio))
    critical = looks.critical_values(0.05, sides=1)
    above = (t_at(d + margin, looks) >= critical).any(1)
    below = (t_at(margin - d, looks) >= critical).any(1)
    assert at_most((above & below).mean(), 0.05, STUDIES)
    for k in range(40):
        found = sequential_test(d[k].tolist(), looks, margin)
        assert found is not None
        assert found.equivalence is not None
        assert found.equivalence.holds == (above[k] & below[k])


def test_family_error_with_holm_where_contrasts_stop_when_decided() -> None:
    looks, studies, wrong = Looks((3, 5, 8)), 4000, 0
    generator = np.random.default_rng(8)
    baseline = generator.normal(0, 0.02, (studies, 1, 8))
    contrasts = generator.normal(0, 0.02, (studies, 3, 8)) - baseline
    contrasts[:, 0] += 0.08  # one true difference, two true nulls
    for study in contrasts:
        p = [1.0] * 3
        for size in looks.sizes:
            running = [i for i in range(3) if holm(p)[i] >= 0.05]
            for i in running:
                found = sequential_test(study[i, :size].tolist(), looks)
                assert found is not None
                p[i] = found.p
        wrong += min(holm(p)[1:]) < 0.05
    assert at_most(wrong / studies, 0.05, studies)


@pytest.mark.parametrize("sizes", LOOKS)
def test_looking_costs_little_power(sizes: tuple[int, ...]) -> None:
    looks, n = Looks(sizes), sizes[-1]
    for shift in (2.5, 4.0):
        t = np.abs(t_at(differences(STUDIES, n, shift / math.sqrt(n), 1.0), looks))
        fixed = (t[:, -1] >= stats.t.ppf(0.975, n - 1)).mean()
        early = (t >= looks.critical_values(0.05)).any(1).mean()
        assert early > fixed - 0.08  # four looks at six seeds cost most, 0.07


def test_only_looks_that_were_reached_count() -> None:
    looks = Looks((3, 6))
    d = [0.1, 0.11, 0.09, 0.5, -0.5]
    assert sequential_test(d[:2], looks) is None
    found = sequential_test(d, looks, 0.2)
    assert found == sequential_test(d[:3], looks, 0.2)
    assert found is not None
    assert (found.seeds, found.last) == (3, False)


def test_mistakes_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="three seeds"):
        Looks((2, 4))
    with pytest.raises(ValueError, match="increasing"):
        Looks((3, 3))
    with pytest.raises(ValueError, match="state the looks"):
        sequential_test([0.1] * 7, Looks((3, 6)))
    with pytest.raises(ValueError, match="one side or two"):
        Looks((3, 6)).p_value([1.0], sides=3)
    with pytest.raises(ValueError, match="margin is positive"):
        sequential_test([0.1] * 3, Looks((3, 6)), -1)
