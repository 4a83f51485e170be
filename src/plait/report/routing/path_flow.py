"""The path-flow figure: ribbons of tokens between the experts of neighbouring depths."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from plait.report.figure import Figure, chart_data
from plait.report.palette import INK
from plait.report.routing.path_tokens import label
from plait.routing.analysis import Analysis
from plait.routing.metrics.flow import OTHER, Link


def flow_figures(analyses: Sequence[Analysis]) -> list[Figure]:
    """Path flow of each model with more than one routed depth."""
    return [
        _flow_figure(found, number)
        for number, found in enumerate(analyses)
        if len(found.info.routed) > 1
    ]


def _flow_figure(found: Analysis, number: int) -> Figure:
    gap, bar = 0.012, 0.09
    places: list[dict[int, tuple[float, float]]] = []
    blocks: list[dict[str, Any]] = []
    for row, nodes in enumerate(found.flow.nodes):
        top, place = 0.0, {}
        for expert, share in nodes:
            place[expert] = (top, share)
            blocks.append(
                {
                    "left": row - bar / 2,
                    "right": row + bar / 2,
                    "low": top,
                    "high": top + share,
                    "middle": top + share / 2,
                    "label": "other" if expert == OTHER else str(expert),
                    "large": share > 0.035,
                    "share": share,
                    "depth": found.info.routed[row],
                }
            )
            top += share + gap
        places.append(place)
    ribbons: list[dict[str, Any]] = []
    outgoing: list[dict[int, float]] = [{} for _ in places]
    incoming: list[dict[int, float]] = [{} for _ in places]
    two = len(found.info.domains) == 2
    for link in sorted(found.flow.links, key=lambda k: (k.row, _last(k.source), _last(k.target))):
        start = places[link.row][link.source][0] + outgoing[link.row].get(link.source, 0.0)
        end = places[link.row + 1][link.target][0] + incoming[link.row + 1].get(link.target, 0.0)
        outgoing[link.row][link.source] = outgoing[link.row].get(link.source, 0.0) + link.share
        incoming[link.row + 1][link.target] = (
            incoming[link.row + 1].get(link.target, 0.0) + link.share
        )
        if link.share >= 0.002:
            ribbons += _ribbon(link, start, end, bar, found.info.routed, two)
    axis = alt.Axis(
        values=list(range(len(places))),
        labelExpr="[" + ",".join(f"'{d}'" for d in found.info.routed) + "][round(datum.value)]",
        grid=False,
        domain=False,
        ticks=False,
    )
    x = alt.X(
        "x:Q",
        title="depth",
        axis=axis,
        scale=alt.Scale(domain=[-0.1, len(places) - 0.8], nice=False),
    )
    y_hidden = alt.Axis(title=None, labels=False, ticks=False, grid=False, domain=False)
    lowest = max(block["high"] for block in blocks)
    y_scale = alt.Scale(domain=[lowest, 0], nice=False)
    colour: Any = (
        alt.Color(
            "lean:Q",
            title=f"{label(found.info.domains[0])} ← carries more of → "
            f"{label(found.info.domains[1])}",
            scale=alt.Scale(scheme="blueorange", domain=[-1, 1]),
            legend=alt.Legend(titleLimit=400, gradientLength=160, gradientThickness=8, tickCount=3),
        )
        if two
        else alt.value("#3d9fd6")
    )
    flows = (
        alt.Chart(chart_data(ribbons))
        .mark_area(interpolate="monotone", opacity=0.6)
        .encode(
            x=x,
            y=alt.Y("low:Q", axis=y_hidden, scale=y_scale),
            y2="high:Q",
            detail="link:N",
            color=colour,
            tooltip=["link:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    bars = (
        alt.Chart(chart_data(blocks))
        .mark_rect(color=INK)
        .encode(
            x="left:Q",
            x2="right:Q",
            y="low:Q",
            y2="high:Q",
            tooltip=["depth:O", "label:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    names = (
        alt.Chart(chart_data([block for block in blocks if block["large"]]))
        .mark_text(align="left", dx=3, fontSize=10, color=INK)
        .encode(x="right:Q", y="middle:Q", text="label:N")
    )
    return Figure(
        f"flow-{number}",
        f"Path flow: {found.info.model}",
        (flows + bars + names).properties(height=380),
        "Top-1 experts of each depth (bars: share of tokens, the most used by number) and the "
        "tokens that go from one to the next; flows under 0.2 % left out."
        + (" Colour: the domain that the flow carries more of, over both shares." if two else ""),
        span="full",
    )


def _ribbon(
    link: Link, start: float, end: float, bar: float, routed: Sequence[int], two: bool
) -> list[dict[str, Any]]:
    """Points of one flow, a smooth step from the right of one bar to the left of the next."""
    points = []
    both = float(link.share_D.sum())
    lean = float((link.share_D[1] - link.share_D[0]) / both) if two and both else 0.0
    names = ["other" if e == OTHER else str(e) for e in (link.source, link.target)]
    name = f"depth {routed[link.row]} expert {names[0]} → {names[1]}"
    for t in np.linspace(0, 1, 9):
        smooth = t * t * (3 - 2 * t)
        top = start + (end - start) * smooth
        points.append(
            {
                "x": round(link.row + bar / 2 + (1 - bar) * float(t), 4),
                "low": round(top, 5),
                "high": round(top + link.share, 5),
                "link": name,
                "share": link.share,
                "lean": lean,
            }
        )
    return points


def _last(expert: int) -> int:
    return expert if expert != OTHER else 2**31
