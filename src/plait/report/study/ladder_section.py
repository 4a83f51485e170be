"""A ladder of sizes: loss against compute, the largest size predicted, compute saved, rankings."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import numpy as np
from markupsafe import Markup

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, Section, chart_data
from plait.report.html_table import html_table
from plait.report.palette import INK, MUTED, Series, series
from plait.report.terminal.design_tables import ladder_table, ranking_table
from plait.statistics import paired_difference
from plait.studies.results import StudyResults
from plait.studies.scaling import Climb, Scaling, scaling

ASIDE = 1.07
"""factor of compute by which intervals of one size stand side by side"""
HEIGHT = 300
"""pixels"""
POINTS = 60
"""of a drawn curve"""


def ladder_section(study: StudyResults) -> Section | None:
    """What a study on a ladder found; None for a study of another kind."""
    found = scaling(study)
    if found is None or study.ladder is None or not any(climb.rungs for climb in found.climbs):
        return None
    looks = series(study.ladder.structures, found.baseline)
    predicted = [climb for climb in found.climbs if climb.held_out is not None]
    figures = [_climb_figure(found, looks), *_gap_figures(found, looks)]
    if predicted:
        figures.append(_predicted_figure(predicted, looks))
    html = Markup("<h3>{}</h3>").format("The largest size predicted, and compute saved")
    html += html_table(ladder_table(found), "The largest size predicted, and compute saved")
    if found.accuracy:
        html += Markup("<h3>{}</h3>").format("How often a smaller size ranks as the largest does")
        html += html_table(ranking_table(found), "Rankings by size")
    return Section("Over sizes", list(_text(study, found)), figures, html)


def _text(study: StudyResults, found: Scaling) -> Iterator[str]:
    yield (
        "Each structure at each size, all structures of a size on the same tokens. A curve is "
        "E + A ÷ C^α, with C the training FLOPs of a run. The largest size takes no part in the "
        "curve that predicts it: where the interval holds what was observed, the smaller sizes "
        "could have told."
    )
    yield (
        f"Compute saved is {found.baseline}’s compute ÷ the structure’s own at equal loss: the "
        "lowest that both curves, here through all sizes, reach where they were measured; above "
        "1 the structure needs less. Intervals cover the variation between seeds only, and not "
        "that other sizes, rates or more tokens would move a curve."
    )
    bigram = study.floor("bigram")
    high = [
        f"{climb.structure} at {one.size}"
        for climb in found.climbs
        for one in climb.rungs
        if bigram is not None and one.loss.value >= bigram
    ]
    if high:
        yield f"Careful: counting pairs of tokens (the bigram) scores as well as {', '.join(high)}."


def _climb_figure(found: Scaling, looks: Sequence[Series]) -> Figure:
    points: list[dict[str, Any]] = [
        {
            "structure": climb.structure,
            "size": one.size,
            "compute": one.compute,
            "loss": one.loss.value,
            "seeds": one.loss.n,
        }
        for climb in found.climbs
        for one in climb.rungs
    ]
    curves = [row for climb in found.climbs for row in _curve(climb)]
    bars = list(_bars(found))
    ends = [row["loss"] for row in [*points, *curves]]
    ends += [end for bar in bars for end in (bar["low"], bar["high"])]
    air = 0.05 * (max(ends) - min(ends)) or 0.01
    y_scale = alt.Scale(type="log", domain=[min(ends) - air, max(ends) + air], nice=False)
    ticks = [float(tick) for tick in _ticks(min(ends) - air, max(ends) + air)]
    computes = [row["compute"] for row in points] + [bar["compute"] for bar in bars]
    x = _compute_axis(computes)
    y_axis = alt.Axis(values=ticks, format="~g")

    def y(field: str) -> alt.Y:
        title = "held-out loss (nats per token)"
        return alt.Y(f"{field}:Q", title=title, scale=y_scale, axis=y_axis)

    by_colour = colour(looks, "structure")
    layers: list[Any] = []
    if curves:
        line = alt.Chart(chart_data(curves)).mark_line(strokeWidth=1.8)
        layers.append(
            line.encode(x=x, y=y("loss"), color=by_colour, strokeDash=dash(looks, "structure"))
        )
    if bars:
        bar = alt.Chart(chart_data(bars)).mark_rule(strokeWidth=2)
        layers.append(bar.encode(x=x, y=y("low"), y2="high:Q", color=by_colour))
    layers.append(
        alt.Chart(chart_data(points))
        .mark_point(filled=True, size=85, opacity=1)
        .encode(
            x=x,
            y=y("loss"),
            color=by_colour,
            shape=shape(looks, "structure"),
            tooltip=[
                "structure:N",
                "size:N",
                "seeds:Q",
                alt.Tooltip("compute:Q", format=".3e", title="FLOPs"),
                alt.Tooltip("loss:Q", format=".4f", title="loss (nats/token)"),
            ],
        )
    )
    caption = "Points: means over seeds. Both axes are logarithmic."
    if bars:
        caption = (
            "Curves go through all sizes but the largest; bars there, set side by side, are what "
            f"they predict, with the 90 % interval. {caption}"
        )
    chart = alt.layer(*layers).properties(height=HEIGHT)
    return Figure("ladder", "Loss against compute", chart, caption)


def _curve(climb: Climb) -> Iterator[dict[str, Any]]:
    """Points of the curve through all sizes but the largest, out to that one."""
    if climb.smaller is None:
        return
    computes = [one.compute for one in climb.rungs]
    for compute in np.geomspace(min(computes), max(computes), POINTS):
        loss = climb.smaller.at(float(compute))
        yield {"structure": climb.structure, "compute": float(compute), "loss": loss}


def _bars(found: Scaling) -> Iterator[dict[str, Any]]:
    """Intervals of what is predicted, moved apart so that equal compute does not hide them."""
    known = [climb for climb in found.climbs if climb.held_out and climb.held_out.low is not None]
    for place, climb in enumerate(known):
        assert climb.held_out is not None
        aside = ASIDE ** (place + 1)
        yield {
            "structure": climb.structure,
            "compute": max(one.compute for one in climb.rungs) * aside,
            "low": climb.held_out.low,
            "high": climb.held_out.high,
        }


def _gap_figures(found: Scaling, looks: Sequence[Series]) -> Iterator[Figure]:
    """How the difference to the baseline moves with size: none where no seed is shared."""
    by_structure = {climb.structure: climb for climb in found.climbs}
    base = {one.size: one for one in by_structure[found.baseline].rungs}
    rows: list[dict[str, Any]] = []
    for climb in found.climbs:
        for one in climb.rungs:
            if climb.structure == found.baseline or one.size not in base:
                continue
            difference = paired_difference(one.losses, base[one.size].losses)
            if difference is not None:
                estimate = difference.estimate
                rows.append(
                    {
                        "structure": climb.structure,
                        "size": one.size,
                        "compute": one.compute,
                        "difference": estimate.value,
                        **({} if estimate.low is None else {"low": estimate.low}),
                        **({} if estimate.high is None else {"high": estimate.high}),
                    }
                )
    if not rows:
        return
    title = f"held-out loss − {found.baseline} (nats per token)"
    x = _compute_axis([row["compute"] for row in rows])
    y = alt.Y("difference:Q", title=title, axis=alt.Axis(tickCount=6))
    base_chart = alt.Chart(chart_data(rows)).encode(x=x, color=colour(looks, "structure"))
    zero = alt.Chart(chart_data([{"difference": 0}])).mark_rule(color=MUTED, strokeWidth=1.5)
    layers = [
        zero.encode(y=y),
        base_chart.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash(looks, "structure")),
    ]
    if any("low" in row for row in rows):
        bar = base_chart.mark_rule(strokeWidth=2, opacity=0.6)
        layers.append(bar.encode(y=alt.Y("low:Q", title=title), y2="high:Q"))
    layers.append(
        base_chart.mark_point(filled=True, size=85, opacity=1).encode(
            y=y,
            shape=shape(looks, "structure"),
            tooltip=[
                "structure:N",
                "size:N",
                alt.Tooltip("difference:Q", format="+.4f", title="difference (nats/token)"),
            ],
        )
    )
    caption = (
        "Paired by seed at each size, with the 95 % interval where there is one. Below zero is "
        "better; towards zero, the difference shrinks as models grow."
    )
    chart = alt.layer(*layers).properties(height=HEIGHT)
    yield Figure("ladder-difference", f"Difference to {found.baseline} by size", chart, caption)


def _compute_axis(computes: Sequence[float]) -> alt.X:
    scale = alt.Scale(type="log", domain=[min(computes) / 1.3, max(computes) * 1.3], nice=False)
    axis = alt.Axis(format=".0e", tickCount=5, grid=False)
    return alt.X("compute:Q", title="training compute (FLOPs)", scale=scale, axis=axis)


def _predicted_figure(climbs: Sequence[Climb], looks: Sequence[Series]) -> Figure:
    """Observed minus predicted at the largest size; the interval is that of the prediction."""
    rows: list[dict[str, Any]] = []
    for climb in climbs:
        held_out = climb.held_out
        assert held_out is not None
        row: dict[str, Any] = {
            "structure": climb.structure,
            "missed": held_out.observed - held_out.predicted,
        }
        if held_out.low is not None and held_out.high is not None:
            reach = held_out.high - held_out.predicted
            row |= {"low": -reach, "high": reach}
        rows.append(row)
    title = "observed − predicted (nats per token)"

    def along(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, axis=alt.Axis(tickCount=7))

    axis = alt.Axis(ticks=False, domain=False, labelColor=INK, labelLimit=280)
    y = alt.Y("structure:N", title=None, sort=[row["structure"] for row in rows], axis=axis)
    by_colour = colour(looks, "structure").legend(None)
    by_shape = shape(looks, "structure").legend(None)
    data = alt.Chart(chart_data(rows))
    zero = alt.Chart(chart_data([{"missed": 0}])).mark_rule(color=MUTED, strokeWidth=1.5)
    layers = [zero.encode(x=along("missed"))]
    if any("low" in row for row in rows):
        bar = data.mark_rule(strokeWidth=9, opacity=0.3)
        layers.append(bar.encode(x=along("low"), x2="high:Q", y=y, color=by_colour))
    tooltip = ["structure:N", alt.Tooltip("missed:Q", format="+.4f", title="observed − predicted")]
    layers.append(
        data.mark_point(filled=True, size=110, opacity=1).encode(
            x=along("missed"),
            y=y,
            color=by_colour,
            shape=by_shape,
            tooltip=tooltip,
        )
    )
    chart = alt.layer(*layers).properties(height=max(70, 34 * len(rows)))
    caption = (
        "Point: what was observed at the largest size, from what the smaller ones predict (the "
        "line at 0). Bar: the 90 % interval of that prediction, which one seed has not."
    )
    return Figure("predicted", "The largest size, predicted", chart, caption, span="full")


def _ticks(low: float, high: float) -> Sequence[float]:
    """About six round values."""
    raw = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - raw))
    count = int((high - low) / step) + 2
    start = np.ceil(low / step) * step
    return [round(start + step * i, 10) for i in range(count) if start + step * i <= high]
