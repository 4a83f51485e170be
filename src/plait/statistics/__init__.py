"""Figures with what is needed to judge them: of studies (over seeds) and of routing (documents).

Nothing here invents an interval: where one unit was measured there is a number and no statement of
how sure it is.
"""

from plait.statistics.corrections import holm
from plait.statistics.estimate import Estimate
from plait.statistics.factorial import Effect, Factorial, factorial_effects, half_fraction
from plait.statistics.ladder import (
    Curve,
    HeldOut,
    Ladder,
    decision_accuracy,
    fit_curve,
    speed_up,
)
from plait.statistics.paired import (
    Difference,
    Equivalence,
    equivalence,
    mean_interval,
    paired_difference,
)
from plait.statistics.power import (
    deviation,
    equivalence_power,
    power,
    seeds_for_equivalence,
    seeds_needed,
    smallest_effect,
)
from plait.statistics.proportions import wilson
from plait.statistics.resampling import Resampler
from plait.statistics.sequential import Looks, Sequential, sequential_test, spent

__all__ = [
    "Curve",
    "Difference",
    "Effect",
    "Equivalence",
    "Estimate",
    "Factorial",
    "HeldOut",
    "Ladder",
    "Looks",
    "Resampler",
    "Sequential",
    "decision_accuracy",
    "deviation",
    "equivalence",
    "equivalence_power",
    "factorial_effects",
    "fit_curve",
    "half_fraction",
    "holm",
    "mean_interval",
    "paired_difference",
    "power",
    "seeds_for_equivalence",
    "seeds_needed",
    "sequential_test",
    "smallest_effect",
    "speed_up",
    "spent",
    "wilson",
]
