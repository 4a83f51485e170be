"""Figures of S beside the untrained S."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from plait.report.figure import Figure, chart_data
from plait.report.palette import MUTED
from plait.routing.analysis import Analysis
from plait.routing.figures.encodings import (
    heatmap,
)


def topology_figures(analyses: Sequence[Analysis]) -> list[Figure]:
    """S beside the untrained S, and their spectra."""
    made = []
    for number, found in enumerate(analyses):
        spectra = []
        for topology in found.topologies:
            # The diagonal is empty by construction and would only stretch the scale.
            off = ~np.eye(len(topology.s_EE), dtype=bool)
            values = np.concatenate([topology.s_EE[off], topology.untrained_EE[off]])
            low = min(0.0, float(values.min()))
            extent = (low, float(values.max()))
            for state, s_EE in (("trained", topology.s_EE), ("untrained", topology.untrained_EE)):
                cells = [
                    {"to": b, "from": a, "value": float(s_EE[a, b])}
                    for a in range(len(s_EE))
                    for b in range(len(s_EE))
                    if a != b or s_EE[a, b]
                ]
                chart = heatmap(
                    cells, ("to", "to expert"), ("from", "expert"), "value", "S", extent
                )
                made.append(
                    Figure(
                        f"topology-{number}-{topology.bank}-{state}",
                        f"S {state}, bank {topology.bank}: {found.info.model}",
                        chart,
                        f"Row entropy {_nats(topology, state)} nats of at most "
                        f"{topology.entropy_ceiling:.3f}; depths "
                        f"{', '.join(map(str, topology.depths))}.",
                        span="third",
                    )
                )
            for state, spectrum in (
                ("trained", topology.spectrum),
                ("untrained", topology.untrained_spectrum),
            ):
                spectra += [
                    {
                        "rank": rank + 1,
                        "size": float(size),
                        "state": state,
                        "bank": f"bank {topology.bank}",
                        "line": f"{state} {topology.bank}",
                    }
                    for rank, size in enumerate(spectrum)
                ]
        if spectra:
            made.append(_spectrum_figure(found, spectra, number))
    return made


def _spectrum_figure(found: Analysis, rows: list[dict[str, Any]], number: int) -> Figure:
    chart = (
        alt.Chart(chart_data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.5)
        .encode(
            x=alt.X("rank:Q", title="eigenvalue, by size", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("size:Q", title="|eigenvalue| of S"),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=["trained", "untrained"], range=["#0068b3", MUTED]),
            ),
            strokeDash=alt.StrokeDash(
                "state:N",
                title=None,
                scale=alt.Scale(domain=["trained", "untrained"], range=[[1, 0], [4, 3]]),
            ),
            detail="line:N",
            tooltip=["bank:N", "state:N", "rank:Q", alt.Tooltip("size:Q", format=".4f")],
        )
        .properties(height=240)
    )
    return Figure(
        f"spectrum-{number}",
        f"Spectrum of S: {found.info.model}",
        chart,
        "One line per bank. Untrained, S is uniform: one eigenvalue of 1 and the rest 1/(E − 1).",
    )


def _nats(topology: Any, state: str) -> str:
    value = topology.row_entropy if state == "trained" else topology.untrained_row_entropy
    return f"{value:.3f}"
