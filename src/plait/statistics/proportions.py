"""Shares of a number of trials."""

import math

from plait.statistics.estimate import Estimate


def wilson(share: float, trials: int) -> Estimate:
    """Return a share of `trials` with Wilson's 95 % interval (1927), which holds at 0 and 1 too."""
    z2 = 1.96**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * share * (1 - share) / trials + z2 * z2 / (4 * trials**2))
    half /= 1 + z2 / trials
    return Estimate(value=share, low=centre - half, high=centre + half, ceiling=1.0, n=trials)
