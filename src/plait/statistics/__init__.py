"""Figures with what is needed to judge them: of studies (over seeds) and of routing (documents).

Nothing here invents an interval: where one unit was measured there is a number and no statement of
how sure it is.
"""

from plait.statistics.corrections import holm
from plait.statistics.estimate import Estimate
from plait.statistics.paired import (
    Difference,
    Equivalence,
    equivalence,
    mean_interval,
    paired_difference,
)
from plait.statistics.proportions import wilson
from plait.statistics.resampling import Resampler

__all__ = [
    "Difference",
    "Equivalence",
    "Estimate",
    "Resampler",
    "equivalence",
    "holm",
    "mean_interval",
    "paired_difference",
    "wilson",
]
