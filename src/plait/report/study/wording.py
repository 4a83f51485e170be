"""A study's result in words: the same sentences in the terminal and in the report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plait.report.numbers import interval, number, p_value, percent, signed
from plait.studies.tables import Row, Verdict, verdict

WORDS: dict[Verdict, str] = {
    "baseline": "baseline",
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "undecided": "undecided",
    "one seed": "one seed",
    "unpaired": "no shared seed",
}


@dataclass(frozen=True)
class Headline:
    """A title that says which structure did better and by how much, and how sure that is."""

    title: str
    sentences: tuple[str, ...]


def headline(rows: Sequence[Row]) -> Headline:
    """The result in words: the variant with the lowest held-out loss against the baseline."""
    if not rows:
        return Headline("No run has finished yet", ("There is nothing to compare.",))
    best = min(rows, key=lambda row: row.loss.value)
    base = next((row for row in rows if row.baseline), None)
    if base is None:
        return Headline(
            f"{best.variant} has the lowest loss so far: {number(best.loss.value)} nats per token",
            ("The baseline has no finished run, so there are no differences to report.",),
        )
    others = [row for row in rows if row is not base]
    if not others:
        return Headline("Only the baseline has finished", ("There is nothing to compare it with.",))
    if best is base:
        best = min(others, key=lambda row: row.loss.value)
        title = f"No variant did better than {base.variant}"
        opening = f"The nearest is {best.variant}: "
    else:
        said = verdict(best)
        gap = "" if best.difference is None else number(-best.difference.estimate.value)
        title = {
            "better": f"{best.variant} is better than {base.variant} by {gap} nats per token",
            "one seed": f"{best.variant} came out {gap} nats per token below {base.variant}",
        }.get(said, f"{best.variant} has the lowest loss, but not surely below {base.variant}")
        opening = ""
    sentences = [opening + _against(best, base), _certainty(best, len(others))]
    sure = [row.variant for row in others if verdict(row) == "better" and row is not best]
    if sure:
        sentences.append(f"Better than {base.variant} at the 5 % level: {', '.join(sure)}.")
    return Headline(title, tuple(sentences))


def _against(row: Row, base: Row) -> str:
    ratio = math.exp(row.loss.value - base.loss.value) - 1
    stored = row.stored / base.stored - 1
    size = (
        "the same number of stored parameters"
        if row.stored == base.stored
        else f"{percent(abs(stored))} {'fewer' if stored < 0 else 'more'} stored parameters"
    )
    return (
        f"{number(row.loss.value)} nats per token on held-out text against "
        f"{number(base.loss.value)} ({percent(abs(ratio))} "
        f"{'lower' if ratio < 0 else 'higher'} perplexity), with {size}."
    )


def _certainty(row: Row, comparisons: int) -> str:
    if row.difference is None:
        return "They share no finished seed, so the difference cannot be paired."
    estimate = row.difference.estimate
    if row.p is None:
        return (
            "One seed each: this is what one run gave. How far another seed would move it is not "
            "known, so no interval is given."
        )
    holm = f" after Holm’s correction for {comparisons} comparisons" if comparisons > 1 else ""
    text = (
        f"Paired difference over {estimate.n} seeds: {signed(estimate.value)} nats per token, "
        f"95 % interval {interval(estimate, sign=True)}, {p_value(row.p)}{holm}."
    )
    if verdict(row) == "equivalent" and row.equivalence is not None:
        text += f" Equivalent within ±{row.equivalence.margin:g} nats per token (TOST)."
    if estimate.n < 3:
        text += " Fewer than 3 seeds: take the interval as a rough guide."
    return text
