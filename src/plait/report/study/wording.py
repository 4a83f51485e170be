"""A study's result in words: the same sentences in the terminal and in the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from plait.report.numbers import duration, interval, number, p_value, signed
from plait.studies.answers import LEAST_SEEDS, Answer, Verdict
from plait.studies.effects import EffectFinding
from plait.studies.outlook import MOST_SEEDS, Outlook, outlook
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
class Said:
    """One question in words: the parts that a list shows, and the sentence made of them.

    `numbers` holds estimate and interval; `reason` what the verdict rests on or lacks; `decides`
    what would decide an open question, `claim` how the claim came out. Empty: nothing to say.
    """

    answer: Answer | EffectFinding
    name: str
    numbers: str
    verdict: str
    reason: str
    decides: str = ""
    claim: str = ""

    @property
    def stated(self) -> str:
        """The claim behind the question; empty where it states none, as an effect does."""
        return self.answer.contrast.claim if isinstance(self.answer, Answer) else ""

    @property
    def sentence(self) -> str:
        """The question's result in one sentence."""
        if not self.numbers:
            return f"{self.name}: {self.reason}."
        if self.answer.decided or self.answer.verdict == "undecided":
            said = f"{self.name}: {self.numbers}: {self.verdict} ({self.reason})"
            said += f", {self.claim}" if self.claim else ""
        else:
            said = f"{self.name}: {self.numbers}; no verdict: {self.reason}"
        return said + (f"; {self.decides}." if self.decides else ".")


@dataclass(frozen=True)
class Headline:
    """A title that says what is decided, then the answer to each question."""

    title: str
    answers: tuple[Said, ...] = ()
    note: str = ""
    """said in place of answers"""

    @property
    def sentences(self) -> tuple[str, ...]:
        """A sentence for each question."""
        return (self.note,) if self.note else tuple(said.sentence for said in self.answers)


def row_words(row: Row) -> str:
    """What stands in a table beside a variant."""
    if row.baseline or row.answer is None:
        words = "baseline" if row.baseline else "not asked"
        return words if row.learned else f"{words}; {WORDS['not learned']}"
    return WORDS[row.answer.verdict]


def headline(study: StudyResults, answers: Sequence[Answer]) -> Headline:
    """The answers in words: only what is decided makes a title, and one seed decides nothing."""
    if not study.runs:
        return Headline("No run has finished yet", note="There is nothing to compare.")
    if not answers:
        return Headline("The study asks nothing: it has one variant")
    return Headline(
        _title(answers), tuple(in_words(answer, outlook(study, answer)) for answer in answers)
    )


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


def in_words(answer: Answer | EffectFinding, ahead: Outlook | None = None) -> Said:
    """One question: estimate, interval, verdict, what holds it back and what would decide it."""
    name, words = answer.name, WORDS[answer.verdict]
    if answer.difference is None:
        return Said(answer, name, "", words, "they share no finished seed")
    numbers, decides = _numbers(answer), "" if ahead is None else _decides(ahead)
    if answer.verdict == "too few seeds":
        have = answer.difference.estimate.n
        one = "one seed says what happened once" if have == 1 else f"{have} seeds"
        needed = f"{LEAST_SEEDS} are needed" if have < LEAST_SEEDS else "the first look is at more"
        return Said(answer, name, numbers, words, f"{one}, and {needed}", decides)
    if answer.verdict == "not learned":
        reason = "counting pairs of tokens scores as well (the bigram)"
        return Said(answer, name, numbers, words, reason)
    assert answer.p is not None
    assert answer.p_equivalence is not None
    reason = p_value(answer.p)
    if answer.verdict == "equivalent":
        reason = f"within ±{answer.margin:g}: TOST, {p_value(answer.p_equivalence)}"
    claim = {None: "", True: "as claimed", False: "against the claim"}[answer.as_expected]
    return Said(answer, name, numbers, words, reason, decides, claim)


def _numbers(answer: Answer | EffectFinding) -> str:
    assert answer.difference is not None
    estimate = answer.difference.estimate
    said = f"{signed(estimate.value)} nats per token"
    if estimate.low is not None:
        said += f", 95 % interval {interval(estimate, sign=True)} over {estimate.n} seeds"
    return said


def _decides(ahead: Outlook) -> str:
    if ahead.seeds is None or ahead.seconds is None:
        return f"not decided within {MOST_SEEDS} seeds if the difference stays"
    seeds = f"{ahead.seeds} more seed{'s' * (ahead.seeds > 1)}, {duration(ahead.seconds)}"
    if not ahead.known:
        return f"{seeds}, would make it {LEAST_SEEDS}"
    return f"about {seeds}, would decide it if the difference stays"
