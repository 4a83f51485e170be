"""Results in words and figures: the same sentences in the terminal and in the report.

Numbers use the typographic minus (−) and non-breaking spaces before units.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plait.studies.statistics import Estimate
from plait.studies.tables import Row

Verdict = Literal["baseline", "better", "worse", "equivalent", "undecided", "one seed", "unpaired"]

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


def verdict(row: Row) -> Verdict:
    """What the seeds allow to say of a variant against the baseline, at 5 % after Holm."""
    if row.baseline:
        return "baseline"
    if row.difference is None:
        return "unpaired"
    if row.p is None:
        return "one seed"
    if row.p < 0.05:
        return "better" if row.difference.estimate.mean < 0 else "worse"
    if row.equivalence is not None and row.equivalence.holds:
        return "equivalent"
    return "undecided"


def headline(rows: Sequence[Row]) -> Headline:
    """The result in words: the variant with the lowest held-out loss against the baseline."""
    if not rows:
        return Headline("No run has finished yet", ("There is nothing to compare.",))
    best = min(rows, key=lambda row: row.loss.mean)
    base = next((row for row in rows if row.baseline), None)
    if base is None:
        return Headline(
            f"{best.variant} has the lowest loss so far: {number(best.loss.mean)} nats per token",
            ("The baseline has no finished run, so there are no differences to report.",),
        )
    others = [row for row in rows if row is not base]
    if not others:
        return Headline("Only the baseline has finished", ("There is nothing to compare it with.",))
    if best is base:
        best = min(others, key=lambda row: row.loss.mean)
        title = f"No variant did better than {base.variant}"
        opening = f"The nearest is {best.variant}: "
    else:
        said = verdict(best)
        gap = "" if best.difference is None else number(-best.difference.estimate.mean)
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
    ratio = math.exp(row.loss.mean - base.loss.mean) - 1
    stored = row.stored / base.stored - 1
    size = (
        "the same number of stored parameters"
        if row.stored == base.stored
        else f"{percent(abs(stored))} {'fewer' if stored < 0 else 'more'} stored parameters"
    )
    return (
        f"{number(row.loss.mean)} nats per token on held-out text against {number(base.loss.mean)} "
        f"({percent(abs(ratio))} {'lower' if ratio < 0 else 'higher'} perplexity), with {size}."
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
        f"Paired difference over {estimate.count} seeds: {signed(estimate.mean)} nats per token, "
        f"95 % interval {interval(estimate, sign=True)}, {p_value(row.p)}{holm}."
    )
    if verdict(row) == "equivalent" and row.equivalence is not None:
        text += f" Equivalent within ±{row.equivalence.margin:g} nats per token (TOST)."
    if estimate.count < 3:
        text += " Fewer than 3 seeds: take the interval as a rough guide."
    return text


def number(value: float, digits: int = 3) -> str:
    """A number with fixed digits and a real minus sign."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, its sign always shown unless it rounds to zero."""
    text = number(value, digits)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def interval(estimate: Estimate, digits: int = 3, sign: bool = False) -> str:
    """`low to high`, empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    show = signed if sign else number
    return f"{show(estimate.low, digits)} to {show(estimate.high, digits)}"


def reach(estimate: Estimate | None, digits: int = 3) -> str:
    """`±` half the interval, empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"±{(estimate.high - estimate.low) / 2:.{digits}f}"


def percent(share: float) -> str:
    """A share as a percentage, one digit under ten."""
    return f"{100 * share:.{1 if abs(share) < 0.0995 else 0}f} %"


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def quantity(value: float) -> str:
    """A large count with its decimal prefix and three figures: 3.41 M, 12.5 G."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            scaled = value / scale
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f} {prefix}"
    return f"{value:.0f}"
