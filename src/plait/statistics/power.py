"""What n paired seeds can resolve, and how many seeds a question needs.

`sigma` is the standard deviation of the paired difference over seeds and `effect`, `margin` are
differences, all in nats per token. `level` is that of one contrast: with m contrasts pass 0.05 / m,
which is what Holm's first step asks. All of it is exact for normal differences: the mean is normal
and independent of the sample deviation, over which the chance is integrated. Sigma from a pilot is
itself a guess: `deviation` says how good a one, so plan with its upper bound as well.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, gammaln, ndtr, stdtrit

from plait.statistics.estimate import Estimate

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_BEYOND = 1e-14
"""chance of the sample deviations that the integral leaves out, at either end"""
_WIDTH = 8.0
"""standard deviations after which a normal tail is over"""


def deviation(differences: Sequence[float]) -> Estimate:
    """Sample deviation of paired differences (nats per token) with its χ² 95 % interval.

    Raises:
        ValueError: one difference has no deviation.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"a deviation needs at least two seeds, got {count}: run another seed")
    mean = math.fsum(differences) / count
    square = math.fsum((value - mean) ** 2 for value in differences)
    return Estimate(
        value=math.sqrt(square / (count - 1)),
        low=math.sqrt(square / float(chdtri(count - 1, 0.025))),
        high=math.sqrt(square / float(chdtri(count - 1, 0.975))),
        n=count,
    )


def power(effect: float, sigma: float, seeds: int, level: float = 0.05) -> float:
    """Chance that a two-sided paired t test of `seeds` finds a true difference of `effect`."""
    _check(sigma, seeds, level)
    shift = abs(effect) * math.sqrt(seeds) / sigma
    critical = float(stdtrit(seeds - 1, 1 - level / 2))
    return 1 - _chance_inside(0.0, critical, shift, seeds - 1)


_power = power  # where an argument has the name


def equivalence_power(
    margin: float, sigma: float, seeds: int, level: float = 0.05, effect: float = 0.0
) -> float:
    """Chance that TOST claims ±`margin` where the true difference is `effect`.

    At an `effect` of the margin or beyond this is the chance of a false claim, at most `level`. Two
    seeds claim nothing.
    """
    _check(sigma, seeds, level)
    if margin <= 0:
        raise ValueError(f"an equivalence margin is positive, in nats per token; got {margin}")
    if seeds < 3:
        return 0.0
    scale = math.sqrt(seeds) / sigma
    critical = float(stdtrit(seeds - 1, 1 - level))
    return _chance_inside(margin * scale, -critical, abs(effect) * scale, seeds - 1)


def smallest_effect(sigma: float, seeds: int, power: float = 0.8, level: float = 0.05) -> float:
    """Difference, in nats per token, that `seeds` find with a chance of `power`."""
    _check_power(power, level)
    highest = sigma
    while _power(highest, sigma, seeds, level) < power:
        highest *= 2
    return float(
        brentq(lambda effect: _power(effect, sigma, seeds, level) - power, 0, highest, rtol=1e-9)
    )


def seeds_needed(
    effect: float,
    sigma: float,
    power: float = 0.8,
    level: float = 0.05,
    at_least: int = 3,
    at_most: int = 1000,
) -> int | None:
    """Fewest seeds that find `effect` with a chance of `power`, None where `at_most` do not."""
    _check_power(power, level)
    return _fewest(lambda n: _power(effect, sigma, n, level) >= power, at_least, at_most)


def seeds_for_equivalence(
    margin: float,
    sigma: float,
    power: float = 0.8,
    level: float = 0.05,
    at_least: int = 3,
    at_most: int = 1000,
    effect: float = 0.0,
) -> int | None:
    """Fewest seeds whose TOST claims ±`margin` with a chance of `power`, None beyond `at_most`."""
    _check_power(power, level)
    return _fewest(
        lambda n: equivalence_power(margin, sigma, n, level, effect) >= power, at_least, at_most
    )


def _chance_inside(edge: float, slope: float, shift: float, degrees: int) -> float:
    """P(|Z + shift| < edge + slope·S): Z normal, S the sample deviation in units of sigma.

    Gauss–Legendre over S, in panels that end where the normal's tails do, so that it holds for
    shifts of any size, where scipy’s non-central t is NaN at times.
    """
    low, high = (math.sqrt(float(chdtri(degrees, p)) / degrees) for p in (1 - _BEYOND, _BEYOND))
    if slope < 0:
        high = min(high, -edge / slope)
    if low >= high:
        return 0.0
    turns = [(shift - edge) / slope, (-shift - edge) / slope]
    cuts = [turn + side * _WIDTH / abs(slope) for turn in turns for side in (-1, 0, 1)]
    bounds = np.unique(np.clip([low, 1.0, *cuts, high], low, high))
    half_B = np.diff(bounds)[:, None] / 2
    s_BQ = bounds[:-1, None] + half_B * (1 + _NODES)
    reach_BQ = edge + slope * s_BQ
    inside_BQ = ndtr(reach_BQ - shift) - ndtr(-reach_BQ - shift)
    scale = math.log(2) + degrees / 2 * math.log(degrees / 2) - float(gammaln(degrees / 2))
    density_BQ = np.exp(scale + (degrees - 1) * np.log(s_BQ) - degrees * s_BQ**2 / 2)
    total = float((half_B * _WEIGHTS * inside_BQ * density_BQ).sum())
    return min(max(total, 0.0), 1.0)


def _fewest(enough: Callable[[int], bool], at_least: int, at_most: int) -> int | None:
    """First count that is enough; the chance grows with seeds."""
    if not 2 <= at_least <= at_most:
        raise ValueError(f"seeds from {at_least} to {at_most}: state 2 ≤ at_least ≤ at_most")
    if not enough(at_most):
        return None
    return bisect_left(range(at_most), True, lo=at_least, key=enough)


def _check(sigma: float, seeds: int, level: float) -> None:
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is a positive number of nats per token, got {sigma:g}")
    if seeds < 2:
        raise ValueError(f"a paired t test needs at least two seeds, got {seeds}")
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, got {level:g}: 0.05 over the contrasts")


def _check_power(power: float, level: float) -> None:
    if not level < power < 1:
        raise ValueError(f"power lies between the level ({level:g}) and 1, got {power:g}")
