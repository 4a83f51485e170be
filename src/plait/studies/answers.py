"""What the seeds say to each question of a study, and whether they say enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from plait.statistics import (
    Difference,
    Looks,
    equivalence,
    holm,
    paired_difference,
    sequential_test,
)
from plait.studies.contrasts import Contrast, Expected
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

    def came_out(self, expected: Expected) -> bool | None:
        """Whether it is as a claim says; None where nothing is decided."""
        if not self.decided:
            return None
        return self.verdict == {"lower": "better", "equal": "equivalent"}[expected]


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
        return None if self.contrast.expected is None else self.came_out(self.contrast.expected)


def answers(study: StudyResults) -> tuple[Answer, ...]:
    """Answer every contrast of a study, in its order, as far as its runs are finished."""
    learned = {variant: has_learned(study, variant) for variant in study.variants}
    found = findings(
        [_asked(study, c, learned[c.variant] and learned[c.against]) for c in study.contrasts]
    )
    return tuple(
        Answer(contrast=contrast, **vars(finding))
        for contrast, finding in zip(study.contrasts, found, strict=True)
    )


@dataclass(frozen=True)
class Question:
    """What a finding is made of: a paired difference, its p values before any correction."""

    difference: Difference | None
    p: float | None
    p_equivalence: float | None
    learned: bool
    """whether all in it score below the bigram"""

    @classmethod
    def of(cls, difference: Difference | None, margin: float | None, learned: bool) -> "Question":
        """Test a difference, once, and whether it lies within the margin."""
        if difference is None or margin is None or difference.estimate.n < LEAST_SEEDS:
            return cls(difference, None, None, learned)
        tost = equivalence(list(difference.by_seed.values()), margin)
        return cls(difference, difference.p, None if tost is None else tost.p, learned)

    @classmethod
    def at_looks(
        cls,
        difference: Difference,
        seeds: Sequence[int],
        looks: Looks,
        margin: float,
        learned: bool,
    ) -> "Question":
        """Test it at the looks taken; one counts when all seeds up to it, in order, are there."""
        in_order = list(takewhile(difference.by_seed.__contains__, seeds))
        values = {seed: difference.by_seed[seed] for seed in in_order}
        test = sequential_test(list(values.values()), looks, margin)
        if test is None or test.equivalence is None:
            return cls(difference, None, None, learned)
        seen = {seed: values[seed] for seed in in_order[: test.seeds]}
        at_look = paired_difference(seen, dict.fromkeys(seen, 0.0))
        return cls(at_look, test.p, test.equivalence.p, learned)


def _asked(study: StudyResults, contrast: Contrast, learned: bool) -> Question:
    difference = paired_difference(
        study.measured(contrast.variant), study.measured(contrast.against)
    )
    if study.looks and difference is not None and contrast.margin is not None:
        looks = Looks(study.looks)
        return Question.at_looks(difference, study.seeds, looks, contrast.margin, learned)
    return Question.of(difference, contrast.margin, learned)


def findings(questions: Sequence[Question]) -> list[Finding]:
    """Judge questions that are asked together; each counts in Holm's correction of the others."""
    p = _corrected([question.p for question in questions])
    p_equivalence = _corrected([question.p_equivalence for question in questions])
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
    bigram = study.floor("bigram", variant=variant)
    return bigram is None or not losses or sum(losses) / len(losses) < bigram


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
