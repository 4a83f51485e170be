"""The comparison as lines of the page's table, and the floors under it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plait.report.numbers import number, reach, signed
from plait.report.palette import Series
from plait.report.study.wording import row_words
from plait.statistics import Estimate
from plait.studies.answers import LEAST_SEEDS
from plait.studies.results import FLOORS, StudyResults
from plait.studies.tables import Row


@dataclass(frozen=True)
class _Cell:
    text: str
    interval: str = ""
    best: bool = False


def table_lines(
    study: StudyResults, rows: Sequence[Row], looks: Sequence[Series]
) -> list[dict[str, Any]]:
    """Table lines: cells as they are printed, the lowest of each column marked.

    The lowest of what has learned and has three seeds; one seed marks nothing.
    """
    domains = ("all", *study.domains)
    may = [row.learned for row in rows]
    losses = _column([row.loss for row in rows], may, 3)
    perplexities = _column([row.perplexity for row in rows], may, 2)
    bits = [_column([row.bits_per_byte[domain] for row in rows], may, 3) for domain in domains]
    lines = []
    for index, (row, look) in enumerate(zip(rows, looks, strict=True)):
        d = row.difference
        lines.append(
            {
                "row": row,
                "look": look,
                "loss": losses[index],
                "difference": _Cell(
                    "–" if d is None else signed(d.estimate.value), reach(d.estimate if d else None)
                ),
                "perplexity": perplexities[index],
                "bits": [column[index] for column in bits],
                "p": _p(row),
                "kind": row.answer.verdict if row.answer else "",
                "words": row_words(row),
            }
        )
    return lines


def floor_lines(study: StudyResults) -> list[dict[str, Any]]:
    """A line for each way of counting: what a model that learned only that would score."""
    found = []
    for kind in FLOORS:
        loss = study.floor(kind)
        if loss is None:
            continue
        bits = [study.floor(kind, domain, "bits_per_byte") for domain in ("all", *study.domains)]
        found.append(
            {
                "name": f"{kind} counts",
                "loss": number(loss, 3),
                "perplexity": number(study.floor(kind, measure="perplexity") or 0, 2),
                "bits": ["–" if value is None else number(value, 3) for value in bits],
            }
        )
    return found


def _p(row: Row) -> float | None:
    """The p value that the row's verdict rests on."""
    if row.answer is None or not row.learned or row.answer.verdict == "not learned":
        return None
    return row.answer.p_equivalence if row.answer.verdict == "equivalent" else row.answer.p


def _column(estimates: Sequence[Estimate], may: Sequence[bool], digits: int) -> list[_Cell]:
    lowest = min(
        (e.value for e, learned in zip(estimates, may, strict=True) if learned), default=None
    )
    return [
        _Cell(number(e.value, digits), reach(e, digits), e.value == lowest and e.n >= LEAST_SEEDS)
        for e in estimates
    ]


def interval_note(study: StudyResults) -> str:
    """What the intervals and verdicts in the table are."""
    if len(study.seeds) == 1:
        return "One seed per variant: no interval and no verdict."
    return (
        "± is half the 95 % interval over seeds (Student’s t). Better and worse: paired by seed, "
        "at the 5 % level, p after Holm’s correction. Equivalent: two one-sided tests (TOST) "
        f"place the difference within ±{study.margin:g} nats per token, p after Holm’s correction. "
        f"Undecided: the seeds show neither. A verdict needs {LEAST_SEEDS} seeds, and a loss below "
        "that of counting pairs of tokens (the bigram)."
    )
