"""The picture of `plait bench --pieces growth`: tokens/s against what makes a model larger."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from plait.report.encodings import colour, shape
from plait.report.figure import chart_data, styled
from plait.report.palette import Series, series

PANEL = {"width": 190, "height": 130}
COLUMNS = 3


def write_growth(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw rows {shape, direction, at, speed} into an .svg or .png: a panel for each direction.

    Directions are joined by the word that they begin with ("experts, 3 per token" and
    "experts, 2 per token" share a panel), sizes stand on a logarithmic axis, words as bars.
    """
    names = list(dict.fromkeys(str(row["shape"]) for row in rows))
    looks = series(names, "")
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault(str(row["direction"]).partition(",")[0], []).append(row)
    drawn = []
    for title, of in panels.items():
        base = alt.Chart(chart_data(dict(row) for row in of)).encode(color=colour(looks, "shape"))
        sizes = sorted({row["at"] for row in of})
        words = isinstance(sizes[0], str)
        panel = _bars(base, looks) if words else _lines(base, title, sizes, looks)
        drawn.append(panel.properties(**PANEL))
    chart: Any = alt.concat(*drawn, columns=COLUMNS)
    styled(chart).properties(background="white").save(str(path))


def _speed(channel: Any) -> Any:
    return channel("speed:Q", title="tokens/s, relative", scale=alt.Scale(domainMin=0))


def _lines(base: Any, title: str, sizes: Sequence[int], looks: Sequence[Series]) -> Any:
    at = alt.X(
        "at:Q",
        title=title,
        scale=alt.Scale(type="log", base=2, nice=False, padding=8),
        axis=alt.Axis(values=sizes, format="d"),
    )
    lines = base.mark_line(strokeWidth=1.5).encode(x=at, y=_speed(alt.Y))
    points = base.mark_point(filled=True, size=45, opacity=1)
    return lines + points.encode(x=at, y=_speed(alt.Y), shape=shape(looks, "shape"))


def _bars(base: Any, looks: Sequence[Series]) -> Any:
    at = alt.Y("at:N", title=None, sort=None)
    return base.mark_bar().encode(
        y=at, yOffset=alt.YOffset("shape:N", sort=[look.name for look in looks]), x=_speed(alt.X)
    )
