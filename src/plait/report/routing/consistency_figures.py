"""Figures of how alike depths choose: lines over neighbours, maps over all pairs."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy.typing as npt

from plait.report.figure import Figure, chart_data
from plait.report.maps import heatmap
from plait.report.palette import INK, Series
from plait.report.routing.depth_lines import depth_figure
from plait.routing.analysis import Analysis


def consistency_figures(analyses: Sequence[Analysis], looks: Sequence[Series]) -> list[Figure]:
    """Consistency and label-free information between neighbouring depths."""
    made = [
        depth_figure(
            "consistency",
            "Consistency of neighbouring depths",
            "Jaccard index of expert sets",
            [(f.info.model, f.info.routed[1:], f.consistency.by_pair) for f in analyses],
            looks,
            "Expert sets of each depth and the one before. Where neither bank, router nor decision "
            "is shared, an index has no common meaning and this is no consistency.",
        ),
        depth_figure(
            "information",
            "What a depth tells of the next, without labels",
            "mutual information / entropy",
            [(f.info.model, f.info.routed[1:], f.information.by_pair) for f in analyses],
            looks,
            "Top-1 experts of each depth and the one before: 1 = known from it, whatever the "
            "experts' numbers.",
        ),
    ]
    return [figure for figure in made if figure is not None]


def consistency_maps(analyses: Sequence[Analysis]) -> list[Figure]:
    """Consistency and information between all pairs of depths of each model."""
    many = [(n, found) for n, found in enumerate(analyses) if len(found.info.routed) > 2]
    return [
        *[_consistency_map(found, number) for number, found in many],
        *[_information_map(found, number) for number, found in many],
    ]


def _consistency_map(found: Analysis, number: int) -> Figure:
    cells = _cells(found, found.consistency.matrix_LL)
    shared = [cell for cell in cells if cell["labels"] == "shared"]
    chart = heatmap(cells, ("from", "depth"), ("to", "depth"), ("value", "Jaccard index"))
    chart += (
        alt.Chart(chart_data(shared))
        .mark_rect(fillOpacity=0, stroke=INK, strokeWidth=1)
        .encode(x="from:O", y="to:O")
    )
    return Figure(
        f"consistency-matrix-{number}",
        f"Consistency of all depths: {found.info.model}",
        chart,
        "Jaccard index of the expert sets of two depths, mean over tokens."
        + (" Outlined: depths whose expert numbers mean the same." if shared else ""),
        span="third",
    )


def _information_map(found: Analysis, number: int) -> Figure:
    cells = _cells(found, found.information.matrix_LL)
    title = "mutual information / entropy"
    return Figure(
        f"information-matrix-{number}",
        f"Information of all depths: {found.info.model}",
        heatmap(cells, ("from", "depth"), ("to", "depth"), ("value", title)),
        "How much the top-1 expert at one depth (across) tells of that at another (down), over "
        "its entropy.",
        span="third",
    )


def _cells(found: Analysis, matrix_LL: npt.NDArray[Any]) -> list[dict[str, Any]]:
    shared, depths = found.consistency.shared_labels_LL, found.info.routed
    return [
        {
            "from": depths[a],
            "to": depths[b],
            "value": float(matrix_LL[a, b]),
            "labels": "shared" if shared[a, b] else "not shared",
        }
        for a in range(len(depths))
        for b in range(len(depths))
        if a != b
    ]
