"""Curves against planted ones and scipy, and what their intervals cover over simulated ladders."""

import math

import numpy as np
import pytest
from scipy.optimize import nnls

from plait.statistics import Estimate
from plait.statistics.ladder import (
    EXPONENTS,
    Curve,
    HeldOut,
    Ladder,
    decision_accuracy,
    fit_curve,
    speed_up,
)

FASTER = 1.3
LADDERS = [
    # sizes, factor between them, seeds, noise (nats), exponent
    (4, 2, 3, 0.01, 0.4),
    (4, 4, 3, 0.03, 0.15),
    (4, 3, 5, 0.02, 0.25),
    (5, 2, 6, 0.03, 0.15),
    (5, 4, 3, 0.02, 0.4),
    (5, 3, 4, 0.01, 0.25),
]
PER_KIND = 350


def truth(sizes: int, factor: int, exponent: float) -> tuple[np.ndarray, Curve]:
    """Compute of each size and a curve that falls by one nat over them."""
    compute = 1e16 * float(factor) ** np.arange(sizes)
    fall = compute[0] ** -exponent - compute[-1] ** -exponent
    return compute, Curve(floor=2.0, scale=1 / fall, exponent=exponent)


def ladder(compute: np.ndarray, curve: Curve, noise: np.ndarray, faster: float = 1) -> Ladder[int]:
    """Noise: (seeds, sizes)."""
    losses = np.array([curve.at(faster * c) for c in compute]) + noise
    return Ladder(
        dict(enumerate(compute.tolist())),
        {size: dict(enumerate(losses[:, size].tolist())) for size in range(len(compute))},
    )


@pytest.mark.parametrize("exponent", [0.05, 0.155, 0.5, 1.3])
@pytest.mark.parametrize("floor", [0.0, 1.7])
def test_planted_curves_are_recovered(exponent: float, floor: float) -> None:
    compute = 1e15 * 3.0 ** np.arange(5)
    planted = Curve(floor=floor, scale=2 * 1e15**exponent, exponent=exponent)
    found = fit_curve(compute, [planted.at(c) for c in compute])
    assert found.exponent == pytest.approx(exponent, rel=1e-3)
    assert found.floor == pytest.approx(floor, abs=5e-3)
    for c in (*compute, 1e18):
        assert found.at(c) == pytest.approx(planted.at(c), abs=1e-4)
        assert found.compute_for(planted.at(c)) == pytest.approx(c, rel=1e-2)


def test_no_exponent_of_the_grid_fits_better_by_nnls() -> None:
    generator = np.random.default_rng(1)
    compute = 2.0 ** np.arange(5)
    for _ in range(20):
        loss = generator.uniform(0, 3, 5)
        found = fit_curve(compute, loss)
        error = sum((found.at(c) - y) ** 2 for c, y in zip(compute, loss, strict=True))
        assert found.floor >= 0
        assert found.scale >= 0
        for exponent in EXPONENTS:
            design = np.stack([np.ones(5), compute**-exponent], axis=1)
            assert error <= nnls(design, loss)[1] ** 2 + 1e-9


def test_a_floor_is_never_reached() -> None:
    curve = Curve(floor=2.0, scale=1.0, exponent=0.5)
    assert curve.compute_for(2.0) == math.inf
    assert curve.compute_for(1.0) == math.inf
    assert curve.compute_for(2.5) == pytest.approx(4.0)


def test_the_largest_size_is_foretold_as_surely_as_said() -> None:
    covered = {}
    for kind in LADDERS:
        sizes, factor, seeds, sigma, exponent = kind
        generator = np.random.default_rng([sizes, factor, seeds])
        compute, curve = truth(sizes, factor, exponent)
        inside = 0
        for _ in range(PER_KIND):
            block = generator.normal(0, 0.02, (seeds, 1))  # of a seed, at all sizes
            noise = block + generator.normal(0, sigma, (seeds, sizes))
            inside += bool(ladder(compute, curve, noise).held_out().inside)
        covered[kind] = inside / PER_KIND
    assert np.mean(list(covered.values())) == pytest.approx(0.90, abs=0.02)
    assert list(covered.values()) == pytest.approx([0.90] * len(LADDERS), abs=0.06), covered


def test_a_speed_up_is_recovered_as_surely_as_said() -> None:
    covered, measured, error = 0, 0, 0.0
    for sizes, factor, seeds, sigma, exponent in LADDERS:
        generator = np.random.default_rng([sizes, factor, seeds])
        compute, curve = truth(sizes, factor, exponent)
        loss = curve.at(compute[0] * factor ** (0.6 * (sizes - 1)))
        for _ in range(PER_KIND):
            block = generator.normal(0, 0.02, (seeds, sizes))  # shared by both variants
            noises = block + generator.normal(0, sigma, (2, seeds, sizes))
            found = speed_up(
                ladder(compute, curve, noises[0]), ladder(compute, curve, noises[1], FASTER), loss
            )
            assert found is not None
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= FASTER <= found.high
            error += math.log(found.value / FASTER)
            measured += 1
    assert covered / measured == pytest.approx(0.95, abs=0.015)
    assert error / measured == pytest.approx(0, abs=0.01)


def test_a_speed_up_is_said_only_where_both_were_measured() -> None:
    compute, curve = truth(4, 4, 0.3)
    still = np.zeros((3, 4))
    reference, variant = ladder(compute, curve, still), ladder(compute, curve, still, 2.0)
    exact = speed_up(reference, variant, curve.at(compute[2]))
    assert exact is not None
    assert (exact.value, exact.low, exact.high) == (pytest.approx(2.0, rel=1e-3),) * 3
    assert speed_up(reference, variant, curve.at(0.9 * compute[0])) is None
    assert speed_up(reference, variant, curve.at(1.5 * compute[0])) is None  # variant: too good
    assert speed_up(reference, variant, curve.at(1.5 * compute[-1])) is None
    single = speed_up(ladder(compute, curve, still[:1]), variant, curve.at(compute[2]))
    assert single == Estimate(value=exact.value, n=1)


def test_one_seed_foretells_without_an_interval() -> None:
    compute, curve = truth(4, 4, 0.3)
    found = ladder(compute, curve, np.zeros((1, 4))).held_out()
    assert found == HeldOut(
        size=3,
        observed=curve.at(compute[-1]),
        predicted=pytest.approx(curve.at(compute[-1]), abs=1e-3),
        low=None,
        high=None,
        seeds=1,
    )
    assert found.inside is None


def test_sizes_are_ordered_by_compute_and_seeds_finished_all_of_them() -> None:
    losses = {"l": {0: 2.5, 1: 2.6}, "s": {0: 3.5}, "m": {0: 3.0, 2: 3.1}}
    found = Ladder({"l": 1e18, "s": 1e16, "m": 1e17}, losses)
    assert (found.sizes, found.seeds) == (["s", "m", "l"], [0])
    assert found.losses_SN.tolist() == [[3.5, 3.0, 2.5]]


def test_decisions_are_counted_over_pairs() -> None:
    losses = {
        "a": {1: 3.0, 2: 2.8, 4: 2.5},
        "b": {1: 3.1, 2: 2.9, 4: 2.6},
        "c": {1: 2.9, 2: 3.0, 4: 2.7},
        "d": {1: 3.5},
    }
    found = decision_accuracy(losses, [1, 2, 4])
    assert {size: (e.value, e.n, e.chance) for size, e in found.items()} == {
        1: (pytest.approx(1 / 3), 3, 0.5),
        2: (1.0, 3, 0.5),
    }
    assert found[1].low is not None
    assert found[1].low < 1 / 3
    assert decision_accuracy({"a": {1: 3.0, 2: 2.0}}, [1, 2]) == {}


def test_mistakes_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="three sizes"):
        fit_curve([1, 2], [3.0, 2.0])
    with pytest.raises(ValueError, match="different compute"):
        fit_curve([1, 2, 2], [3.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="one finite loss each"):
        fit_curve([1, 2, 3], [3.0, 2.0])
    with pytest.raises(ValueError, match="diverged"):
        Ladder({1: 1.0, 2: 2.0, 3: 3.0}, {k: {0: math.nan} for k in (1, 2, 3)})
    with pytest.raises(ValueError, match="run another size"):
        Ladder({1: 1.0, 2: 2.0, 3: 3.0}, {k: {0: 4.0 - k} for k in (1, 2, 3)}).held_out()
    with pytest.raises(ValueError, match="no seed finished at every size"):
        Ladder({1: 1.0, 2: 2.0, 3: 3.0}, {k: {k: 4.0 - k} for k in (1, 2, 3)})
    with pytest.raises(ValueError, match="have losses"):
        Ladder({1: 1.0, 2: 2.0}, {1: {0: 3.0}})
