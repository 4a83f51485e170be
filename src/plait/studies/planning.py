"""What a study can resolve, said before it is run: from a pilot, or from what it has so far."""

import math
from dataclasses import dataclass

from plait.statistics import (
    Estimate,
    deviation,
    paired_difference,
    seeds_for_equivalence,
    seeds_needed,
    smallest_effect,
)
from plait.studies.answers import LEAST_SEEDS, LEVEL
from plait.studies.contrasts import Contrast
from plait.studies.results import StudyResults

POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Seeds:
    """Seeds that are needed at the deviation as estimated, and at the ends of its interval.

    None: more than `MOST_SEEDS`.
    """

    value: int | None
    low: int | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What one contrast needs, 80 % power, at 5 % after the correction for all contrasts.

    `deviation` is σ of the paired difference in nats per token, from `deviation.n` pairs of the
    pilot; None where it has fewer than two. `smallest` is the smallest difference that `seeds`
    seeds detect, `for_effect` what `effect` takes, `for_equivalence` what equivalence within
    `margin` takes where there is no difference. `seconds` are those of one more seed: two runs.
    """

    contrast: Contrast
    seeds: int
    effect: float
    margin: float
    deviation: Estimate | None = None
    smallest: float | None = None
    for_effect: Seeds | None = None
    for_equivalence: Seeds | None = None
    seconds: float | None = None

    @property
    def can_answer(self) -> bool | None:
        """Whether the planned seeds resolve the effect or equivalence; None: nobody knows yet."""
        if self.for_effect is None or self.for_equivalence is None:
            return None
        needed = [n for n in (self.for_effect.value, self.for_equivalence.value) if n is not None]
        return any(n <= self.seeds for n in needed)


def resolutions(
    pilot: StudyResults,
    contrasts: tuple[Contrast, ...],
    seeds: int,
    effect: float | None = None,
) -> tuple[Resolution, ...]:
    """Work out for each contrast what the deviation in the pilot means for a study.

    Args:
        pilot: finished runs of variants with the same names.
        contrasts: the questions, each with its margin.
        seeds: that the study will have.
        effect: nats per token that it should detect; None: each contrast's margin.
    """
    level = LEVEL / max(1, len(contrasts))
    return tuple(_resolution(pilot, c, seeds, effect, level) for c in contrasts)


def _resolution(
    pilot: StudyResults, contrast: Contrast, seeds: int, effect: float | None, level: float
) -> Resolution:
    margin = contrast.margin or pilot.margin
    effect = margin if effect is None else effect
    known = Resolution(contrast=contrast, seeds=seeds, effect=effect, margin=margin)
    difference = paired_difference(
        pilot.measured(contrast.variant), pilot.measured(contrast.against)
    )
    if difference is None or len(difference.by_seed) < 2:
        return known
    sigma = deviation(list(difference.by_seed.values()))
    runs = [*pilot.of(contrast.variant), *pilot.of(contrast.against)]
    assert sigma.low is not None
    assert sigma.high is not None

    def needed(at: float) -> int | None:
        return seeds_needed(effect, at, POWER, level, LEAST_SEEDS, MOST_SEEDS)

    def equal(at: float) -> int | None:
        return seeds_for_equivalence(margin, at, POWER, level, LEAST_SEEDS, MOST_SEEDS)

    spread = (sigma.value, sigma.low, sigma.high)
    return Resolution(
        contrast=contrast,
        seeds=seeds,
        effect=effect,
        margin=margin,
        deviation=sigma,
        smallest=smallest_effect(sigma.value, seeds, POWER, level) if seeds > 1 else None,
        for_effect=Seeds(*map(needed, spread)),
        for_equivalence=Seeds(*map(equal, spread)),
        seconds=2 * math.fsum(run.result.seconds for run in runs) / len(runs),
    )
