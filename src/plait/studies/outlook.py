"""What would decide an open question: how many further seeds, and the time that they take."""

import math
from dataclasses import dataclass

from plait.statistics import deviation, seeds_for_equivalence, seeds_needed
from plait.studies.answers import LEAST_SEEDS, LEVEL, Answer
from plait.studies.results import StudyResults

MOST_SEEDS = 200
"""seeds of a question beyond which it is called out of reach"""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Further seeds of both variants, and the seconds that their runs take.

    `seeds` is None where no number up to `MOST_SEEDS` is enough; `known` says whether the scatter
    of the difference stands behind it, or only that a verdict needs three seeds.
    """

    seeds: int | None
    seconds: float | None
    known: bool


def outlook(study: StudyResults, answer: Answer) -> Outlook | None:
    """Say what would decide a question; None where it is decided or where seeds would not.

    The seeds are the fewest that give a chance of 80 % to find the difference seen so far, or to
    claim the margin where it lies inside, at the level of Holm's first step. The deviation behind
    them comes from the seeds there are: with few it is a guess. None as well in a study that is
    looked at before its last seed: its plan says when it is looked at next.
    """
    if answer.verdict not in ("undecided", "too few seeds") or answer.difference is None:
        return None
    differences = list(answer.difference.by_seed.values())
    have = len(differences)
    if study.looks and have < study.looks[-1]:
        return None
    sigma = deviation(differences).value if have > 1 else 0.0
    if sigma > 0:
        total = _fewest(answer.difference.estimate.value, sigma, answer.margin, have, study)
    else:
        total = max(LEAST_SEEDS, have + 1)
    further = None if total is None else total - have
    return Outlook(
        seeds=further,
        seconds=None if further is None else further * _seconds(study, answer),
        known=sigma > 0,
    )


def _fewest(
    effect: float, sigma: float, margin: float, have: int, study: StudyResults
) -> int | None:
    at_least = max(LEAST_SEEDS, have + 1)
    if at_least > MOST_SEEDS:
        return None
    level, bounds = LEVEL / len(study.contrasts), {"at_least": at_least, "at_most": MOST_SEEDS}
    found = (
        seeds_needed(effect, sigma, level=level, **bounds),
        seeds_for_equivalence(margin, sigma, level=level, effect=effect, **bounds),
    )
    return min((count for count in found if count is not None), default=None)


def _seconds(study: StudyResults, answer: Answer) -> float:
    """Mean seconds of a run of the one variant and of a run of the other, together."""
    both = (answer.contrast.variant, answer.contrast.against)
    seconds = [[run.result.seconds for run in study.of(variant)] for variant in both]
    return sum(math.fsum(of) / len(of) for of in seconds)
