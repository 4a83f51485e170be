"""What the seeds say to each question of a study, and whether they say enough."""

from collections.abc import Sequence
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
class Finding:
    """What is known of one question.

    `difference` is in nats per token, None where no seed is shared; `p` its two-sided p value and
    `p_equivalence` that of the two one-sided tests within the question's margin, both after Holm's
    correction over all questions that were asked together, None where there are fewer than 3 seeds.
    """

    difference: Difference | None
    p: float | None
    p_equivalence: float | None
    verdict: Verdict

    @property
    def decided(self) -> bool:
        """Whether it is better, worse or equivalent."""
        return self.moves or self.verdict == "equivalent"

    @property
    def moves(self) -> bool:
        """Whether it is better or worse."""
        return self.verdict in ("better", "worse")


@dataclass(frozen=True, kw_only=True)
class Answer(Finding):
    """One contrast and what is known of it; p values are corrected over the study's contrasts."""

    contrast: Contrast

    @property
    def name(self) -> str:
        """What the question is called."""
        return self.contrast.name

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
    learned = {variant: has_learned(study, variant) for variant in study.variants}
    found = findings(
        [
            Question(
                paired_difference(study.measured(c.variant), study.measured(c.against)),
                c.margin,
                learned[c.variant] and learned[c.against],
            )
            for c in study.contrasts
        ]
    )
    return tuple(
        Answer(contrast=contrast, **vars(finding))
        for contrast, finding in zip(study.contrasts, found, strict=True)
    )


@dataclass(frozen=True)
class Question:
    """What a finding is made of: a paired difference, its margin, whether all in it learned."""

    difference: Difference | None
    margin: float | None
    learned: bool


def findings(questions: Sequence[Question]) -> list[Finding]:
    """Judge questions that are asked together; each counts in Holm's correction of the others."""
    enough = [_enough(question.difference) for question in questions]
    p = _corrected([None if difference is None else difference.p for difference in enough])
    p_equivalence = _corrected(
        [_equivalence(d, q.margin) for d, q in zip(enough, questions, strict=True)]
    )
    return [
        Finding(
            difference=question.difference,
            p=p[i],
            p_equivalence=p_equivalence[i],
            verdict=_verdict(question, p[i], p_equivalence[i]),
        )
        for i, question in enumerate(questions)
    ]


def has_learned(study: StudyResults, variant: str) -> bool:
    """Whether its mean loss lies below that of the bigram, or nobody counted."""
    losses = list(study.measured(variant).values())
    bigram = study.floor("bigram")
    return bigram is None or not losses or sum(losses) / len(losses) < bigram


def _enough(difference: Difference | None) -> Difference | None:
    return difference if difference is not None and difference.estimate.n >= LEAST_SEEDS else None


def _equivalence(difference: Difference | None, margin: float | None) -> float | None:
    if difference is None or margin is None:
        return None
    found = equivalence(list(difference.by_seed.values()), margin)
    return None if found is None else found.p


def _corrected(values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over all questions; one that is not answered yet counts as one of them."""
    adjusted = holm([1.0 if value is None else value for value in values])
    return [None if old is None else new for old, new in zip(values, adjusted, strict=True)]


def _verdict(question: Question, p: float | None, p_equivalence: float | None) -> Verdict:
    if question.difference is None:
        return "unpaired"
    if not question.learned:
        return "not learned"
    if p is None:
        return "too few seeds"
    if p < LEVEL:
        return "better" if question.difference.estimate.value < 0 else "worse"
    if p_equivalence is not None and p_equivalence < LEVEL:
        return "equivalent"
    return "undecided"
