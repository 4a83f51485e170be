"""Figures of how many paths there are: coverage and entropy over windows."""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, chart_data
from plait.report.palette import MUTED, Series
from plait.report.routing.depth_lines import row_of, tooltip
from plait.routing.analysis import Analysis

CURVE_POINTS = 80


def coverage_figure(analyses: Sequence[Analysis], looks: Sequence[Series]) -> Figure | None:
    """Share of tokens that the n most frequent paths cover, against log n, beside chance."""
    rows = []
    for found in analyses:
        rows += _curve(found.coverage.curve, found.info.model)
    rows += _curve(analyses[0].coverage.chance_curve, "chance")
    chart = (
        alt.Chart(chart_data(rows))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X(
                "paths:Q",
                title="most frequent paths (number, log scale)",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=[10**n for n in range(7)], format="~s"),
            ),
            y=alt.Y(
                "share:Q",
                title="tokens covered",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=colour(looks, chance=True),
            strokeDash=dash(looks, chance=True),
            tooltip=["model:N", "paths:Q", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(height=260)
    )
    return Figure(
        "coverage",
        "Tokens on the most frequent paths",
        chart,
        "A path is the sequence of top-1 experts over depth. Chance: independent uniform choice, "
        "the same number of tokens"
        + (", experts and depths as in the first model." if len(analyses) > 1 else "."),
    )


def window_figure(analyses: Sequence[Analysis], looks: Sequence[Series]) -> Figure | None:
    """Path entropy over windows of depths, beside chance and the ceiling."""
    rows, bounds = [], []
    for found in analyses:
        for width, entropy in [
            *found.windows.items(),
            (len(found.info.routed), found.entropy),
        ]:
            measured = entropy.miller_madow
            rows.append(row_of(measured) | {"model": found.info.model, "width": width})
            bounds.append({"width": width, "bound": measured.chance, "kind": "chance"})
    base = alt.Chart(chart_data(rows))
    x = alt.X("width:O", title="depths in the window", axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("model:N", sort=[look.name for look in looks])
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        xOffset=offset,
        y=alt.Y("value:Q", title="path entropy (nats)"),
        color=colour(looks),
        shape=shape(looks),
        tooltip=tooltip("model:N", "width:O"),
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        x=x, xOffset=offset, y="low:Q", y2="high:Q", color=colour(looks)
    )
    ticks = (
        alt.Chart(chart_data(_unique(bounds)))
        .mark_tick(color=MUTED, thickness=2, size=40)
        .encode(x=x, y="bound:Q", tooltip=["kind:N", alt.Tooltip("bound:Q", format=".3f")])
    )
    return Figure(
        "windows",
        "Path entropy over windows of depths",
        (ticks + bars + points).properties(height=260),
        "Miller–Madow corrected, mean over all windows, with 95 % intervals over documents. Grey "
        "tick: the same for independent uniform choice over as many tokens.",
    )


def _curve(curve: npt.NDArray[np.float64], model: str) -> list[dict[str, Any]]:
    """About 80 points of a coverage curve, evenly spread over log n."""
    last = len(curve)
    at = np.unique(np.geomspace(1, last, CURVE_POINTS).round().astype(int))
    return [{"paths": int(n), "share": float(curve[n - 1]), "model": model} for n in at]


def _unique(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(items) for items in dict.fromkeys(tuple(row.items()) for row in rows)]
