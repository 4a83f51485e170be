"""How each variant's learning rate was chosen: loss against rate, from tuning seeds alone."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, Section, chart_data
from plait.report.html_table import html_table
from plait.report.palette import Series
from plait.report.terminal.tuning_table import tuning_table
from plait.studies.results import StudyResults


def tuning_section(study: StudyResults, looks: Sequence[Series]) -> Section | None:
    """Curves of loss against rate, and the table; None where no rate was tuned."""
    if not study.tuning:
        return None
    text = [
        "Each variant was trained at every rate of one grid, on seeds that no result uses, and "
        "scored on the validation split; the rate with the lowest mean loss is its own. Where that "
        "lay at the edge the grid was widened; where it stayed there the variant is not tuned, and "
        "its losses may flatter whatever it is compared with."
    ]
    figures = _figures(study, looks)
    return Section("Learning rates", text, figures, html_table(tuning_table(study.tuning), "Rates"))


def _figures(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    rows: list[dict[str, Any]] = [
        {
            "variant": curve.variant,
            "rate": rate,
            "loss": mean,
            "chosen": rate == curve.learning_rate,
        }
        for curve in study.tuning
        for rate, mean in sorted(curve.means.items())
        if math.isfinite(mean) and any(look.name == curve.variant for look in looks)
    ]
    if not rows:
        return []
    base = alt.Chart(chart_data(rows)).encode(
        x=alt.X(
            "rate:Q",
            title="learning rate",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(values=sorted({row["rate"] for row in rows}), format="~g"),
        ),
        y=alt.Y("loss:Q", title="validation loss (nats per token)", scale=alt.Scale(zero=False)),
        color=colour(looks, "variant"),
    )
    points = base.mark_point(size=70).encode(
        shape=shape(looks, "variant"),
        fillOpacity=alt.condition("datum.chosen", alt.value(1), alt.value(0)),
        fill=colour(looks, "variant"),
        tooltip=["variant:N", "rate:Q", alt.Tooltip("loss:Q", format=".4f")],
    )
    line = base.mark_line(strokeWidth=1.6).encode(strokeDash=dash(looks, "variant"))
    chart = alt.layer(line, points).properties(height=280)
    caption = "Mean over the tuning seeds; filled: the rate chosen."
    return [Figure("tuning", "Loss against learning rate", chart, caption, key=True)]
