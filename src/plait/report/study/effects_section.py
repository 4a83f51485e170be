"""Effects of a factorial study: a table, a forest of them, and how pairs of factors interact."""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any

import altair as alt
from markupsafe import Markup

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, Section, chart_data
from plait.report.html_table import html_table
from plait.report.palette import DASHES, SERIES, Series, series
from plait.report.study.differences import Line, forest
from plait.report.terminal.design_tables import effects_table
from plait.studies.effects import Effects, effects
from plait.studies.results import StudyResults


def effects_section(study: StudyResults) -> Section | None:
    """Main effects and two-way interactions; None for a study of another kind.

    Without figures until a seed has finished every cell.
    """
    found = effects(study)
    if found is None or study.factorial is None or not found.findings:
        return None
    references = ", ".join(f"{name}={of[0]}" for name, of in study.factorial.factors.items())
    runs = len(found.seeds) * len(study.factorial.cells)
    text = [
        f"Each of {runs} runs counts in every effect. A main effect is the mean loss at a level "
        f"minus that at the factor’s reference ({references}), over all levels of the other "
        "factors alike; left of the line is better. An interaction (×) is by how much two levels "
        "together do worse, or if negative better, than their two effects add up to."
    ]
    if found.aliases:
        groups = "; ".join(", ".join(group) for group in found.aliases)
        text.append(f"The cells that were run do not tell apart: {groups}.")
    pairs = [] if found.aliases else list(_interaction_figures(study, found))
    return Section(
        "Effects of the factors",
        text,
        [_forest_figure(study, found), *pairs],
        Markup("<h3>{}</h3>").format("Effects on held-out loss, p after Holm’s correction")
        + html_table(effects_table(found), "Effects of the factors"),
    )


def _forest_figure(study: StudyResults, found: Effects) -> Figure:
    several = len(found.seeds) > 1
    lines = [
        Line(one.name, one.name, one.difference, one.margin if several else None, one.decided)
        for one in found.findings
        if one.difference is not None
    ]
    looks = [
        Series(one.name, SERIES[0], "circle", DASHES[0])
        if len(one.levels) == 1
        else Series(one.name, SERIES[1], "diamond", DASHES[0])
        for one in found.findings
    ]
    caption = "Circles: main effects; diamonds: interactions. " + (
        "Line: 95 % interval over seeds; faint points: single seeds; filled: decided; "
        f"shaded: the ±{study.margin:g} nats that count as no effect."
        if several
        else "One seed: points without an interval, since none is known."
    )
    chart = forest(lines, looks, "effect on held-out loss (nats per token)", label=280)
    return Figure("effects", "Effects on held-out loss", chart, caption, span="full")


def _interaction_figures(study: StudyResults, found: Effects) -> Iterator[Figure]:
    """A figure for each pair of factors: mean loss by the level of one, a line for the other's."""
    assert study.factorial is not None
    factors = study.factorial.factors
    losses = {
        cell: math.fsum(study.measured(name)[seed] for seed in found.seeds) / len(found.seeds)
        for name, cell in study.factorial.cells.items()
    }
    pairs = list(combinations(enumerate(factors), 2))
    if not pairs:
        return
    rows: list[list[dict[str, Any]]] = [
        [
            {"x": x, "line": line, "loss": _mean_at(losses, {i: x, j: line})}
            for x, line in product(factors[along], factors[by])
        ]
        for (i, along), (j, by) in pairs
    ]
    ends = [row["loss"] for of_pair in rows for row in of_pair]
    air = 0.1 * (max(ends) - min(ends)) or 0.01
    for number, (((_, along), (_, by)), of_pair) in enumerate(zip(pairs, rows, strict=True)):
        yield Figure(
            f"interaction-{number}",
            f"{along} × {by}",
            _lines(
                of_pair,
                along,
                by,
                series(factors[by], factors[by][0]),
                (min(ends) - air, max(ends) + air),
            ),
            "Means over seeds and the other factors. Parallel lines: no interaction.",
            span="third",
        )


def _mean_at(losses: Mapping[tuple[str, ...], float], levels: Mapping[int, str]) -> float:
    """Mean over the cells that have these levels, by the place of their factor."""
    alike = [v for cell, v in losses.items() if all(cell[i] == of for i, of in levels.items())]
    return math.fsum(alike) / len(alike)


def _lines(
    rows: list[dict[str, Any]],
    along: str,
    by: str,
    looks: tuple[Series, ...],
    extent: tuple[float, float],
) -> Any:
    base = alt.Chart(chart_data(rows)).encode(
        x=alt.X(
            "x:N",
            title=along,
            sort=list(dict.fromkeys(row["x"] for row in rows)),
            scale=alt.Scale(type="point", padding=0.4),
            axis=alt.Axis(labelAngle=0),
        ),
        y=alt.Y(
            "loss:Q",
            title="held-out loss (nats per token)",
            scale=alt.Scale(domain=extent, nice=False),
            axis=alt.Axis(tickCount=5),
        ),
        color=colour(looks, "line").title(by),
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        shape=shape(looks, "line").title(by),
        tooltip=[
            alt.Tooltip("x:N", title=along),
            alt.Tooltip("line:N", title=by),
            alt.Tooltip("loss:Q", format=".4f", title="loss (nats/token)"),
        ],
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=dash(looks, "line").title(by))
    return alt.layer(line, points).properties(height=190)
