"""A study's result in words: the same sentences in the terminal and in the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from plait.report.numbers import interval, number, p_value, signed
from plait.studies.answers import LEAST_SEEDS, Answer, Verdict
from plait.studies.effects import EffectFinding
from plait.studies.results import StudyResults
from plait.studies.tables import Row

WORDS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "undecided": "undecided",
    "not learned": "has not learned yet",
    "too few seeds": f"under {LEAST_SEEDS} seeds",
    "unpaired": "no shared seed",
}


@dataclass(frozen=True)
class Headline:
    """A title that says what is decided, then a sentence for each question."""

    title: str
    sentences: tuple[str, ...]


def row_words(row: Row) -> str:
    """What stands in a table beside a variant."""
    if row.baseline:
        return "baseline"
    return "not asked" if row.answer is None else WORDS[row.answer.verdict]


def headline(study: StudyResults, answers: Sequence[Answer]) -> Headline:
    """The answers in words: only what is decided makes a title, and one seed decides nothing."""
    if not study.runs:
        return Headline("No run has finished yet", ("There is nothing to compare.",))
    if not answers:
        return Headline("The study asks nothing: it has one variant", ())
    return Headline(_title(answers), tuple(map(sentence, answers)))


def _title(answers: Sequence[Answer]) -> str:
    decided = [answer for answer in answers if answer.decided]
    if not decided:
        if all(answer.verdict == "not learned" for answer in answers):
            return "Nothing is decided: the models have not learned more than a bigram yet"
        if all(answer.verdict in ("too few seeds", "unpaired") for answer in answers):
            return f"Nothing is decided: a verdict needs {LEAST_SEEDS} seeds"
        return "Nothing is decided yet"
    first = min(decided, key=lambda answer: ("better", "worse", "equivalent").index(answer.verdict))
    others = len(decided) - 1
    if others:
        return f"{_decision(first)}; {others} more of {len(answers)} questions decided"
    if len(answers) > 1:
        return f"{_decision(first)}; the other questions are open"
    return _decision(first)


def _decision(answer: Answer) -> str:
    variant, against = answer.contrast.variant, answer.contrast.against
    assert answer.difference is not None
    if answer.verdict == "equivalent":
        return f"{variant} equals {against} within ±{answer.margin:g} nats per token"
    gap = number(abs(answer.difference.estimate.value))
    return f"{variant} is {answer.verdict} than {against} by {gap} nats per token"


def sentence(answer: Answer | EffectFinding) -> str:
    """One question: estimate, interval, verdict, and what holds it back."""
    name = answer.name
    if answer.difference is None:
        return f"{name}: they share no finished seed."
    estimate = answer.difference.estimate
    said = f"{name}: {signed(estimate.value)} nats per token"
    if estimate.low is not None:
        said += f", 95 % interval {interval(estimate, sign=True)} over {estimate.n} seeds"
    if answer.verdict == "too few seeds":
        one = "one seed says what happened once" if estimate.n == 1 else f"{estimate.n} seeds"
        return f"{said}; no verdict: {one}, and {LEAST_SEEDS} are needed."
    if answer.verdict == "not learned":
        return f"{said}; no verdict: counting pairs of tokens scores as well (the bigram)."
    assert answer.p is not None
    assert answer.p_equivalence is not None
    said += f": {WORDS[answer.verdict]}"
    if answer.verdict == "equivalent":
        said += f" within ±{answer.margin:g} (TOST, {p_value(answer.p_equivalence)})"
    else:
        said += f" ({p_value(answer.p)})"
    if answer.as_expected is not None:
        said += ", as claimed" if answer.as_expected else ", against the claim"
    return f"{said}."
