"""The study report's forest plots: what was asked, what was not, and each domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from plait.report.encodings import colour, shape
from plait.report.figure import Figure, chart_data
from plait.report.palette import BAND, INK, MUTED, Series
from plait.statistics import Difference, paired_difference
from plait.studies.answers import Answer, has_learned
from plait.studies.results import StudyResults
from plait.studies.tables import Row


@dataclass(frozen=True)
class Line:
    """A row of a forest plot; `variant` gives it its look."""

    name: str
    variant: str
    difference: Difference
    margin: float | None = None
    decided: bool = False


def answer_figure(answers: Sequence[Answer], looks: Sequence[Series]) -> Figure | None:
    """Every question with its seeds, mean, 95 % interval and margin; None: none is answered."""
    known = {
        answer.contrast.name: Line(
            answer.contrast.name,
            answer.contrast.variant,
            answer.difference,
            answer.margin,
            answer.decided,
        )
        for answer in answers
        if answer.difference is not None
    }
    if not known:
        return None
    behind = [answer.contrast.name for answer in answers if answer.verdict == "not learned"]
    lines = [line for line in known.values() if line.name not in behind]
    if not lines:
        lines, behind = list(known.values()), []
    chart = forest(lines, looks, "difference (nats per token)")
    caption = "Left of the line, the first named is better. " + _reading(lines) + without(behind)
    return Figure("difference", "The questions asked", chart, caption, key=True)


def exploratory_figure(
    study: StudyResults, rows: Sequence[Row], looks: Sequence[Series]
) -> Figure | None:
    """Differences to the baseline that no question is about; None where there are none."""
    lines = [
        Line(row.variant, row.variant, row.difference)
        for row in rows
        if row.answer is None and row.difference is not None
    ]
    if not lines:
        return None
    chart = forest(lines, looks, "difference (nats per token)")
    caption = (
        f"Differences to {compared_with(study)} that the study’s plan does not ask about: for "
        "orientation, without verdict or correction. Left of the line is better than the baseline. "
    )
    return Figure("not-asked", "Not asked", chart, caption + _reading(lines), key=True)


def _reading(lines: Sequence[Line]) -> str:
    """How the marks are read, as far as they occur."""
    margins = any(line.margin is not None for line in lines)
    if all(line.difference.estimate.low is None for line in lines):
        said = "One seed each: points without an interval, since none is known"
        return f"{said}; shaded: what counts as no difference." if margins else f"{said}."
    said = "Line: 95 % interval of the mean paired difference; faint points: single seeds"
    if margins:
        said += "; filled: decided; shaded: what counts as no difference"
    return said + "."


def compared_with(study: StudyResults) -> str:
    """What differences that are not asked about are to, in a caption."""
    return "the baseline" if study.ladder is None else "the baseline of the same size"


def left_behind(study: StudyResults) -> tuple[str, ...]:
    """Variants above the bigram, which would stretch a scale of differences; none if all are."""
    others = [v for v in study.finished_variants if v != study.reference(v)]
    behind = tuple(variant for variant in others if not has_learned(study, variant))
    return behind if len(behind) < len(others) else ()


def without(behind: Sequence[str]) -> str:
    """Say in a caption who is not drawn."""
    return f" Not drawn, not yet below the bigram: {', '.join(behind)}." if behind else ""


def domain_figures(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Difference to the baseline in bits per byte, a figure for each held-out domain.

    Without variants that have not learned yet, unless there are no others.
    """
    found = {}
    behind = left_behind(study)
    for domain in study.domains:
        bits = {
            variant: study.measured(variant, domain, "bits_per_byte") for variant in study.variants
        }
        paired = {
            variant: paired_difference(bits[variant], bits[study.reference(variant)])
            for variant in study.finished_variants
            if variant != study.reference(variant) and variant not in behind
        }
        found[domain] = {name: d for name, d in paired.items() if d is not None}
    extent = _extent([d for differences in found.values() for d in differences.values()])
    span: Literal["half", "third"] = "half" if len(found) in (1, 2, 4) else "third"
    return [
        Figure(
            f"domain-{index}",
            domain,
            forest(
                [Line(name, name, d) for name, d in differences.items()],
                looks,
                "difference in bits per byte",
                extent,
            ),
            without(behind).strip(),
            span=span,
        )
        for index, (domain, differences) in enumerate(found.items())
        if differences
    ]


def forest(
    lines: Sequence[Line],
    looks: Sequence[Series],
    title: str,
    extent: tuple[float, float] | None = None,
    label: int = 220,
) -> Any:
    """Each difference with its seeds, mean and 95 % interval, above one another beside zero.

    `extent` is the range of the axis, the narrowest that holds all where None; `label` is how many
    pixels a name may take.
    """
    margins = [line.margin for line in lines if line.margin is not None]
    low, high = extent or _extent([line.difference for line in lines])
    if margins:
        low, high = min(low, -1.5 * max(margins)), max(high, 1.5 * max(margins))
    scale = alt.Scale(domain=[low, high], nice=False)

    def along(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))

    y = alt.Y(
        "name:N",
        title=None,
        sort=[line.name for line in lines],
        axis=alt.Axis(ticks=False, domain=False, labelColor=INK, labelLimit=label),
    )
    by_colour = colour(looks, "variant").legend(None)
    by_shape = shape(looks, "variant").legend(None)
    layers: list[Any] = []
    if margins:
        bands = [
            {"name": line.name, "from": -line.margin, "to": line.margin}
            for line in lines
            if line.margin is not None
        ]
        band = alt.Chart(chart_data(bands)).mark_bar(color=BAND, height=alt.RelativeBandSize(1))
        layers.append(band.encode(x=along("from"), x2="to:Q", y=y))
    zero = alt.Chart(chart_data([{"mean": 0}])).mark_rule(color=MUTED, strokeWidth=1.5)
    layers.append(zero.encode(x=along("mean")))
    means = [_mean(line) for line in lines]
    known = [row for row in means if row["low"] is not None]
    if known:
        seeds = [
            {"name": line.name, "variant": line.variant, "seed": seed, "difference": value}
            for line in lines
            for seed, value in line.difference.by_seed.items()
        ]
        rule = alt.Chart(chart_data(known)).mark_rule(strokeWidth=2.5)
        single = alt.Chart(chart_data(seeds)).mark_point(filled=True, size=28, opacity=0.45)
        layers.append(rule.encode(x=along("low"), x2="high:Q", y=y, color=by_colour))
        layers.append(
            single.encode(
                x=along("difference"),
                y=y,
                color=by_colour,
                tooltip=["name:N", "seed:N", alt.Tooltip("difference:Q", format="+.4f")],
            )
        )
    tooltip: list[Any] = ["name:N", alt.Tooltip("mean:Q", format="+.4f", title="difference")]
    if known:
        tooltip.append(alt.Tooltip("low:Q", format="+.4f", title="95 % from"))
        tooltip.append(alt.Tooltip("high:Q", format="+.4f", title="95 % to"))
    filled = alt.condition("datum.decided", alt.value(1), alt.value(0)) if margins else alt.value(1)
    layers.append(
        alt.Chart(chart_data(means))
        .mark_point(size=90, opacity=1, strokeWidth=1.8)
        .encode(
            x=along("mean"),
            y=y,
            color=by_colour,
            fill=alt.Fill("variant:N", scale=by_colour.to_dict()["scale"], legend=None),
            fillOpacity=filled,
            shape=by_shape,
            tooltip=tooltip,
        )
    )
    return alt.layer(*layers).properties(height=max(60, 30 * len(lines)))


def _mean(line: Line) -> dict[str, Any]:
    estimate = line.difference.estimate
    return {
        "name": line.name,
        "variant": line.variant,
        "mean": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "decided": line.decided,
    }


def _extent(differences: Sequence[Difference]) -> tuple[float, float]:
    """A range that holds zero, every seed and every interval, with some air."""
    ends = [0.0]
    for d in differences:
        ends += [*d.by_seed.values(), d.estimate.value]
        ends += [end for end in (d.estimate.low, d.estimate.high) if end is not None]
    air = 0.06 * (max(ends) - min(ends)) or 0.01
    return min(ends) - air, max(ends) + air
