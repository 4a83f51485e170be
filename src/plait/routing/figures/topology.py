"""Figures of S beside the untrained S, of what it does to gates, and of its spectrum."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from plait.report.figure import Figure, chart_data
from plait.report.palette import MUTED, SERIES
from plait.routing.analysis import Analysis
from plait.routing.figures.encodings import heatmap
from plait.routing.metrics.topology import Topology

SHOWN = 4
"""banks drawn for a model: evenly spread where it has more"""


def topology_figures(analyses: Sequence[Analysis]) -> list[Figure]:
    """S, untrained S and effective re-weighting of some banks, and the spectra of all."""
    made = []
    for number, found in enumerate(analyses):
        if not found.topologies:
            continue
        places = np.linspace(0, len(found.topologies) - 1, SHOWN).round().astype(int)
        for place in sorted(set(places.tolist())):
            made += _maps(found, found.topologies[place], number)
        made.append(_spectrum_figure(found, number))
    return made


def _maps(found: Analysis, topology: Topology, number: int) -> list[Figure]:
    """S trained and untrained on one scale, and the mean re-weighting on a scale of its own."""
    both = np.concatenate([_entries(topology.s_EE), _entries(topology.untrained_EE)])
    extent = (min(0.0, float(both.min())), float(both.max()))
    where = f"bank {topology.bank}, depths {', '.join(map(str, topology.depths))}"
    states = [
        ("trained", topology.s_EE, topology.row_entropy),
        ("untrained", topology.untrained_EE, topology.untrained_row_entropy),
    ]
    maps = [
        Figure(
            f"topology-{number}-{topology.bank}-{state}",
            f"S {state}, bank {topology.bank}: {found.info.model}",
            _map(s_EE, ("to", "to expert"), ("from", "expert"), "S", extent),
            f"Row entropy {entropy:.3f} nats of at most {topology.entropy_ceiling:.3f}; {where}.",
            span="third",
        )
        for state, s_EE, entropy in states
    ]
    effective = topology.effective_EE
    if effective is not None and np.isfinite(_entries(effective)).any():
        axes = ("from", "sending expert"), ("to", "receiving expert")
        known = _entries(effective)
        highest = float(np.nanmax(known))
        maps.append(
            Figure(
                f"topology-{number}-{topology.bank}-effective",
                f"Mean re-weighting, bank {topology.bank}: {found.info.model}",
                _map(effective.T, *axes, "mean Ŝ", (min(0.0, float(np.nanmin(known))), highest)),
                "What the receiver's gate gets of the sender's, mean over the tokens that chose "
                "both; blank where none did.",
                span="third",
            )
        )
    return maps


def _map(
    values_EE: npt.NDArray[np.float64],
    x: tuple[str, str],
    y: tuple[str, str],
    title: str,
    extent: tuple[float, float],
) -> Any:
    """Rows of `values_EE` are senders; an empty diagonal is left blank."""
    cells = [
        {"from": a, "to": b, "value": float(value)}
        for (a, b), value in np.ndenumerate(values_EE)
        if np.isfinite(value) and (a != b or value)
    ]
    return heatmap(cells, x, y, "value", title, extent)


def _entries(values_EE: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """All entries but an empty diagonal, which would only stretch the scale."""
    diagonal = np.eye(len(values_EE), dtype=bool) & ~(np.nan_to_num(values_EE) != 0)
    entries: npt.NDArray[np.float64] = values_EE[~diagonal]
    return entries


def _spectrum_figure(found: Analysis, number: int) -> Figure:
    rows = [
        {
            "rank": rank + 1,
            "size": float(size),
            "state": state,
            "line": f"bank {topology.bank}, {state}",
        }
        for topology in found.topologies
        for state, spectrum in (
            ("trained", topology.spectrum),
            ("untrained", topology.untrained_spectrum),
        )
        for rank, size in enumerate(spectrum)
    ]
    states = ["trained", "untrained"]
    chart = (
        alt.Chart(chart_data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.5)
        .encode(
            x=alt.X("rank:Q", title="eigenvalue, by size", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("size:Q", title="|eigenvalue| of S"),
            color=alt.Color(
                "state:N", title=None, scale=alt.Scale(domain=states, range=[SERIES[0], MUTED])
            ),
            strokeDash=alt.StrokeDash(
                "state:N", title=None, scale=alt.Scale(domain=states, range=[[1, 0], [4, 3]])
            ),
            detail="line:N",
            tooltip=["line:N", "rank:Q", alt.Tooltip("size:Q", format=".4f")],
        )
        .properties(height=240)
    )
    return Figure(
        f"spectrum-{number}",
        f"Spectrum of S: {found.info.model}",
        chart,
        "One line per bank. Untrained, S is uniform: one eigenvalue of 1 and the rest 1/(E − 1).",
    )
