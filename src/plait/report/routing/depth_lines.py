"""What routing figures have in common: lines over depth, looks and tooltips."""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, chart_data
from plait.report.palette import MUTED, Series
from plait.statistics import Estimate


def depth_figure(
    name: str,
    title: str,
    axis: str,
    lines: Sequence[tuple[str, Sequence[int], Sequence[Estimate]]],
    looks: Sequence[Series],
    caption: str = "",
    span: Literal["third", "half"] = "half",
) -> Figure | None:
    """Draw one line over depth for each (model, depths, figures); None without any figure."""
    rows = [
        {field: getattr(measured, field) for field in ("value", "low", "high", "chance")}
        | {"model": model, "depth": depth}
        for model, depths, figures in lines
        for depth, measured in zip(depths, figures, strict=True)
    ]
    if not rows:
        return None
    keys = "Bands: 95 % interval over documents"
    if any(row["chance"] is not None for row in rows):
        keys += "; dashed grey: chance"
    return Figure(name, title, _by_depth(rows, axis, looks), f"{caption} {keys}.".strip(), span)


def _by_depth(rows: list[dict[str, Any]], title: str, looks: Sequence[Series]) -> Any:
    """Lines over depth with bands for intervals; chance dashed in grey where there is one."""
    depths: list[Any] = sorted({row["depth"] for row in rows})
    base = alt.Chart(chart_data(rows)).encode(
        x=alt.X("depth:O", title="depth", sort=depths, axis=alt.Axis(labelAngle=0))
    )
    layers = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q", color=colour(looks))
    lines = base.encode(
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True)),
        color=colour(looks),
        tooltip=tooltip("model:N", "depth:O"),
    )
    layers += lines.mark_line(strokeWidth=2).encode(strokeDash=dash(looks))
    layers += lines.mark_point(filled=True, size=45, opacity=1).encode(shape=shape(looks))
    if any(row["chance"] is not None for row in rows):
        layers = (
            base.mark_line(color=MUTED, strokeDash=[4, 3], strokeWidth=1.2).encode(
                y="chance:Q", detail="model:N"
            )
            + layers
        )
    return layers.properties(height=220)


def tooltip(*fields: str) -> list[Any]:
    """Return the fields, then the figure with its interval and chance."""
    numbers = [alt.Tooltip(f"{n}:Q", format=".4f") for n in ("value", "low", "high", "chance")]
    return [*fields, *numbers]


def row_of(measured: Estimate) -> dict[str, Any]:
    """Return what `by_depth` draws of a figure."""
    return {name: getattr(measured, name) for name in ("value", "low", "high", "chance")}
