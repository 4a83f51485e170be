"""What a few seeds can say about a difference, and what one seed cannot.

A study's seeds are few, so intervals come from Student's t; runs with one seed saw the same data
in the same order, so a variant is compared with the baseline seed by seed (paired).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

from plait.statistics.estimate import Estimate


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline, paired by seed; `p`: two-sided paired t test, None with one seed."""

    estimate: Estimate
    p: float | None
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST): `p` against the claim that the difference reaches ±`margin`."""

    margin: float
    p: float

    @property
    def holds(self) -> bool:
        """Whether "no difference beyond the margin" stands at the 5 % level."""
        return self.p < 0.05


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of one value per seed with its t interval; no interval for a single value."""
    if not values:
        raise ValueError("a mean needs at least one value")
    mean, error = mean_and_error(values)
    if error is None:
        return Estimate(value=mean, n=1)
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    return Estimate(value=mean, low=mean - reach, high=mean + reach, n=len(values))


def paired_difference(
    variant: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> Difference | None:
    """Mean of variant − baseline over the seeds that both finished, None where they share none."""
    by_seed = {seed: variant[seed] - baseline[seed] for seed in variant if seed in baseline}
    if not by_seed:
        return None
    values = list(by_seed.values())
    mean, error = mean_and_error(values)
    p = None if error is None else 2 * _upper_tail(abs(ratio(mean, error)), len(values) - 1)
    return Difference(mean_interval(values, confidence), p, by_seed)


def equivalence(differences: Sequence[float], margin: float) -> Equivalence | None:
    """Test that the mean paired difference lies within ±`margin`; None with fewer than three seeds.

    The larger of the two one-sided p values, so it holds at 5 % exactly where the 90 % interval
    lies inside the margin (Schuirmann 1987). Two seeds may agree by chance and then claim almost
    any margin, so they claim none.
    """
    if margin <= 0:
        raise ValueError(f"an equivalence margin is positive, in nats per token; got {margin}")
    mean, error = mean_and_error(differences) if len(differences) > 2 else (0.0, None)
    if error is None:
        return None
    degrees = len(differences) - 1
    above = _upper_tail(ratio(mean + margin, error), degrees)
    below = _upper_tail(ratio(margin - mean, error), degrees)
    return Equivalence(margin, max(above, below))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error (sample deviation ÷ √n), None for a single value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def ratio(mean: float, error: float) -> float:
    """Mean ÷ standard error; differences that never vary give ±∞, or 0 where they are all zero."""
    if error > 0:
        return mean / error
    return math.copysign(math.inf, mean) if mean else 0.0


def _upper_tail(t: float, degrees: int) -> float:
    """P(T ≥ t) for Student's T."""
    return float(stdtr(degrees, -t))
