"""What the seeds say to each question of a study, and whether they say enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from plait.statistics import Difference, equivalence, holm, paired_difference
from plait.studies.contrasts import Contrast
from plait.studies.results import StudyResults

Verdict = Literal[
    "better", "worse", "equivalent", "undecided", "not learned", "too few seeds", "unpaired"
]
LEVEL = 0.05
LEAST_SEEDS = 3
"""fewer give an interval at most, and no verdict"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One contrast and what is known of it.

    `difference` is in nats per token, None where no seed is shared; `p` its two-sided p value and
    `p_equivalence` that of the two one-sided tests within the contrast's margin, both after Holm's
    correction over all contrasts of the study, None where there are fewer than 3 seeds.
    """

    contrast: Contrast
    difference: Difference | None
    p: float | None
    p_equivalence: float | None
    verdict: Verdict

    @property
    def decided(self) -> bool:
        """Whether it is better, worse or equivalent."""
        return self.verdict in ("better", "worse", "equivalent")

    @property
    def margin(self) -> float:
        """Nats per token below which both count as equal."""
        assert self.contrast.margin is not None, "read_study fills it in"
        return self.contrast.margin

    @property
    def as_expected(self) -> bool | None:
        """Whether its claim came true; None where it states none or nothing is decided."""
        if self.contrast.expected is None or not self.decided:
            return None
        return self.verdict == {"lower": "better", "equal": "equivalent"}[self.contrast.expected]


def answers(study: StudyResults) -> tuple[Answer, ...]:
    """Answer every contrast of a study, in its order, as far as its runs are finished."""
    differences = [
        paired_difference(study.measured(c.variant), study.measured(c.against))
        for c in study.contrasts
    ]
    enough = [d if d is not None and len(d.by_seed) >= LEAST_SEEDS else None for d in differences]
    p = _corrected([None if d is None else d.p for d in enough])
    p_equivalence = _corrected(
        [_equivalence(d, c) for d, c in zip(enough, study.contrasts, strict=True)]
    )
    learned = {variant: has_learned(study, variant) for variant in study.variants}
    return tuple(
        Answer(
            contrast=contrast,
            difference=difference,
            p=p[i],
            p_equivalence=p_equivalence[i],
            verdict=_verdict(contrast, difference, p[i], p_equivalence[i], learned),
        )
        for i, (contrast, difference) in enumerate(zip(study.contrasts, differences, strict=True))
    )


def has_learned(study: StudyResults, variant: str) -> bool:
    """Whether a variant's mean loss lies below that of the bigram, or nobody counted."""
    losses = list(study.measured(variant).values())
    bigram = study.floor("bigram")
    return bigram is None or not losses or sum(losses) / len(losses) < bigram


def _equivalence(difference: Difference | None, contrast: Contrast) -> float | None:
    if difference is None or contrast.margin is None:
        return None
    found = equivalence(list(difference.by_seed.values()), contrast.margin)
    return None if found is None else found.p


def _corrected(values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over all questions; one that is not answered yet counts as one of them."""
    adjusted = holm([1.0 if value is None else value for value in values])
    return [None if old is None else new for old, new in zip(values, adjusted, strict=True)]


def _verdict(
    contrast: Contrast,
    difference: Difference | None,
    p: float | None,
    p_equivalence: float | None,
    learned: Mapping[str, bool],
) -> Verdict:
    if difference is None:
        return "unpaired"
    if not (learned[contrast.variant] and learned[contrast.against]):
        return "not learned"
    if p is None:
        return "too few seeds"
    if p < LEVEL:
        return "better" if difference.estimate.value < 0 else "worse"
    if p_equivalence is not None and p_equivalence < LEVEL:
        return "equivalent"
    return "undecided"
