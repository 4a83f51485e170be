"""Figures of what paths are about: how far they tell the class of a token, and which they hold."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from plait.report.encodings import colour, shape
from plait.report.figure import Figure, chart_data
from plait.report.palette import DIVERGING, MUTED, Series
from plait.report.routing.depth_lines import depth_figure, row_of, tooltip
from plait.routing.analysis import Analysis
from plait.routing.metrics.classes import PathClasses
from plait.routing.metrics.paths import mean_of
from plait.routing.token_classes import CLASSES

REACH = 3.0
"""log-odds at which the colours end"""


def class_figures(analyses: Sequence[Analysis], looks: Sequence[Series]) -> list[Figure]:
    """Information about the class by window and by depth, then each model's frequent paths."""
    made = [
        _window_figure(analyses, looks),
        depth_figure(
            "class-information",
            "How far one depth's expert tells the class",
            "share of the classes' entropy",
            [
                (f.info.model, f.info.routed, [part.share for part in f.classes.kind.by_depth])
                for f in analyses
                if f.classes
            ],
            looks,
            "Mutual information less chance: that of classes permuted within each document.",
        ),
        *[_profile_figure(found, number) for number, found in enumerate(analyses)],
    ]
    return [figure for figure in made if figure is not None]


def _window_figure(analyses: Sequence[Analysis], looks: Sequence[Series]) -> Figure | None:
    rows: list[dict[str, Any]] = []
    entropy = 0.0
    for found in analyses:
        if found.classes is None:
            continue
        kind = found.classes.kind
        entropy = kind.path.information.ceiling or 0.0
        single = mean_of([part.information for part in kind.by_depth])
        by_width = {1: single} | {w: part.information for w, part in kind.windows.items()}
        by_width[len(found.info.routed)] = kind.path.information
        rows += [
            row_of(measured) | {"model": found.info.model, "depths": width}
            for width, measured in by_width.items()
        ]
    if not rows:
        return None
    base = alt.Chart(chart_data(rows)).encode(
        x=alt.X("depths:O", title="depths in the window", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("model:N", sort=[look.name for look in looks]),
        tooltip=tooltip("model:N", "depths:O"),
    )
    wide = max(8, 40 // len(looks))
    chart = (
        base.mark_tick(color=MUTED, thickness=2, size=wide).encode(y="chance:Q")
        + base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q", color=colour(looks))
        + base.mark_point(filled=True, size=70, opacity=1).encode(
            y=alt.Y("value:Q", title="information about the class (nats)"),
            color=colour(looks),
            shape=shape(looks),
        )
    )
    return Figure(
        "class-windows",
        "How far a path tells the class of its tokens",
        chart.properties(height=220),
        f"Mutual information, mean over all windows, with 95 % intervals over documents; the "
        f"classes' entropy is {entropy:.2f} nats. Grey tick: the same with classes permuted within "
        "each document.",
    )


def _profile_figure(found: Analysis, number: int) -> Figure | None:
    """Shares of the classes on each frequent path, coloured by how much more that is than else."""
    if found.classes is None:
        return None
    cells = _cells(found, found.classes)
    rows = list(dict.fromkeys(cell["path"] for cell in cells))
    present = [name for name in CLASSES if any(cell["class"] == name for cell in cells)]
    scale: Any = alt.Scale(
        domain=[-REACH, 0, REACH], range=list(DIVERGING), interpolate="lab", clamp=True
    )
    legend = alt.Legend(gradientThickness=8, gradientLength=100, values=[-REACH, 0, REACH])
    base = alt.Chart(chart_data(cells)).encode(
        x=alt.X(
            "class:N",
            sort=present,
            title=None,
            axis=alt.Axis(labelAngle=-50, labelOverlap=False, ticks=False, domain=False),
        ),
        y=alt.Y(
            "path:N",
            sort=rows,
            title="path, by frequency",
            axis=alt.Axis(ticks=False, domain=False),
        ),
        tooltip=[
            alt.Tooltip("experts:N", title="path"),
            "class:N",
            alt.Tooltip("share:Q", format=".1%"),
            alt.Tooltip("log_odds:Q", format="+.2f", title="log-odds"),
        ],
    )
    dark_cell = f"abs(datum.log_odds) > {0.6 * REACH}"
    chart = base.mark_rect().encode(
        color=alt.Color("log_odds:Q", title="log-odds against the rest", scale=scale, legend=legend)
    ) + base.transform_filter("datum.share >= 0.005").mark_text(fontSize=11).encode(
        text=alt.Text("share:Q", format=".0%"),
        # cells look the same on a dark page, so their text does too
        color=alt.condition(dark_cell, alt.value("#ffffff"), alt.value("#111111")),
    )
    return Figure(
        f"class-profiles-{number}",
        f"What the most frequent paths hold: {found.info.model}",
        chart.properties(height=24 * len(rows)),
        f"Share of a path's tokens in each class; rows sum to 100 %. {_concentration(found)}",
        span="full",
    )


def _cells(found: Analysis, about: PathClasses) -> list[dict[str, Any]]:
    everything = [("all", "all tokens", about.count_C, np.zeros(len(CLASSES)))]
    frequent = [
        (
            str(rank + 1),
            "→".join(str(expert) for expert in path.experts),
            profile.count_C,
            profile.log_odds_C,
        )
        for rank, (path, profile) in enumerate(zip(found.paths, about.profiles, strict=True))
    ]
    return [
        {
            "path": row,
            "experts": experts,
            "class": name,
            "share": float(count_C[c] / count_C.sum()),
            "log_odds": float(log_odds_C[c]),
        }
        for row, experts, count_C, log_odds_C in everything + frequent
        for c, name in enumerate(CLASSES)
        if about.count_C[c]
    ]


def _concentration(found: Analysis) -> str:
    assert found.classes is not None
    total = sum(path.distinctive.tokens for path in found.paths)
    most = sum(int(profile.count_C.max()) for profile in found.classes.profiles)
    overall = found.classes.count_C.max() / found.classes.count_C.sum()
    return (
        f"{most / total:.0%} of these tokens are of their path's most frequent class; "
        f"{overall:.0%} of all are of the text's."
    )
