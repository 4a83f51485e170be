"""Maps of cells: the one heatmap, the one picture of load, and the one picture of S."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from plait.report.figure import chart_data
from plait.report.palette import DIVERGING, SEQUENTIAL

Extent = tuple[float | None, float | None]
"""least and greatest value of a colour scale; None takes the data's"""


def heatmap(
    cells: list[dict[str, Any]],
    x: tuple[str, str],
    y: tuple[str, str],
    value: tuple[str, str],
    extent: Extent = (0.0, None),
    scheme: Any = SEQUENTIAL,
    middle: float | None = None,
) -> Any:
    """Draw cells as colours.

    Args:
        cells: one mapping for each.
        x: field across and the axis' title; whole numbers.
        y: field down and the axis' title; whole numbers.
        value: field of the colour and the legend's title.
        extent: ends of the colour scale; what lies beyond is drawn as the end.
        scheme: name of Vega's colour scheme, or colours between which it is interpolated.
        middle: value at which a diverging scheme turns.
    """
    known = [cell[value[0]] for cell in cells if np.isfinite(cell[value[0]])]
    low = extent[0] if extent[0] is not None else min(known, default=0.0)
    high = extent[1] if extent[1] is not None else max(known, default=1.0)
    rows = len({cell[y[0]] for cell in cells})
    colours: Any = {"scheme": scheme}
    if not isinstance(scheme, str):
        colours = {"range": list(scheme), "interpolate": "lab"}
    domain = [low, high] if middle is None else [low, middle, high]
    scale: Any = alt.Scale(domain=domain, clamp=True, **colours)

    def axis(field: tuple[str, str]) -> alt.Axis:
        values = sorted({cell[field[0]] for cell in cells})
        step = -(-len(values) // 16)
        return alt.Axis(
            title=field[1],
            labelAngle=0,
            values=values[::step],
            ticks=False,
            domain=False,
            grid=False,
        )

    return (
        alt.Chart(chart_data(cells))
        .mark_rect()
        .encode(
            x=alt.X(f"{x[0]}:O", axis=axis(x)),
            y=alt.Y(f"{y[0]}:O", axis=axis(y)),
            color=alt.Color(
                f"{value[0]}:Q",
                title=value[1],
                scale=scale,
                legend=alt.Legend(
                    gradientThickness=8,
                    gradientLength=100,
                    tickCount=2,
                    titleLimit=300,
                    format=".2~f",
                ),
            ),
            tooltip=[
                f"{y[0]}:O",
                f"{x[0]}:O",
                alt.Tooltip(f"{value[0]}:Q", format=".4f", title=value[1]),
            ],
        )
        .properties(height=max(110, min(300, 26 * rows)))
    )


LOAD_CAPTION = "Share of all choices at a depth, over the even share: 1 is even, 0 is dead."


def load_map(
    shares: Sequence[Sequence[float]], depths: Sequence[int], highest: float | None = None
) -> Any:
    """Draw the load of each expert at each depth, relative to an equal share.

    Args:
        shares: of the choices, by depth and expert; each depth's sum to 1.
        depths: their numbers.
        highest: end of the colour scale; None: the data's.
    """
    cells = [
        {"depth": depth, "expert": expert, "load": float(share) * len(of_depth)}
        for depth, of_depth in zip(depths, shares, strict=True)
        for expert, share in enumerate(of_depth)
    ]
    axes = ("expert", "expert"), ("depth", "depth")
    return heatmap(cells, *axes, ("load", "load / mean"), (0.0, highest))


def topology_map(
    values_EE: npt.NDArray[np.floating],
    title: str,
    neutral: float,
    reach: float | None = None,
    blank_diagonal: bool = True,
) -> Any:
    """Draw a topology: entry (i, j) is how much expert i (down) listens to expert j (across).

    The colours part at the neutral value: what is grey is as it was before training. What is not
    finite is left blank.

    Args:
        values_EE: S as a multiple of uniform, see `Topology.relative_EE`, or another E × E of it.
        title: of the legend.
        neutral: value of every entry where nothing was learned.
        reach: distance from it at which the colours end; None: the values' own.
        blank_diagonal: leave out a diagonal of zeros, which no expert uses.
    """
    cells = [
        {"listener": i, "heard": j, "weight": float(weight)}
        for (i, j), weight in np.ndenumerate(values_EE)
        if np.isfinite(weight) and (i != j or weight or not blank_diagonal)
    ]
    axes = ("heard", "expert heard"), ("listener", "expert that listens")
    far = reach if reach is not None else topology_reach(values_EE, neutral)
    low = max(0.0, neutral - far) if neutral > 0 else neutral - far
    return heatmap(cells, *axes, ("weight", title), (low, neutral + far), DIVERGING, middle=neutral)


def topology_title(neighbours: int, signed: bool) -> str:
    """What a map of S shows: S as a multiple of uniform, or a signed S as it is."""
    return "S, 0 untrained" if signed else f"S × {neighbours}, 1 untrained"


LEAST_REACH = 0.05
"""of a scale of S, times uniform: closer to it, all is drawn as nearly neutral"""


def topology_reach(values_EE: npt.NDArray[np.floating], neutral: float) -> float:
    """Return the largest distance from the neutral value, an empty diagonal left out."""
    diagonal = np.eye(len(values_EE), dtype=bool) & ~(np.nan_to_num(values_EE) != 0)
    distances = np.abs(values_EE[~diagonal] - neutral)
    known = distances[np.isfinite(distances)]
    return max(LEAST_REACH, float(known.max(initial=0.0)))
