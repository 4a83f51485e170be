"""Figures of S against the untrained S, of what it does to gates, and of its spectrum."""

from collections.abc import Sequence

import altair as alt
import numpy as np

from plait.report.figure import Figure, chart_data
from plait.report.maps import topology_map, topology_title
from plait.report.palette import MUTED, SERIES
from plait.routing.analysis import Analysis
from plait.routing.metrics.topology import Topology

SHOWN = 4
"""banks drawn for a model: evenly spread where it has more"""


def topology_figures(analyses: Sequence[Analysis]) -> list[Figure]:
    """S and effective re-weighting of some banks, and the spectra of all."""
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
    """S and the mean re-weighting, each on a scale of its own around what is untrained."""
    where = f"bank {topology.bank}, depths {', '.join(map(str, topology.depths))}"
    state = "" if topology.trained else " Never trained."
    maps = [
        Figure(
            f"topology-{number}-{topology.bank}",
            f"S, bank {topology.bank}: {found.info.model}",
            topology_map(
                topology.relative_EE,
                topology_title(topology.neighbours, topology.signed),
                topology.neutral,
            ),
            f"Row entropy {topology.row_entropy:.3f} nats, untrained "
            f"{topology.untrained_row_entropy:.3f}, at most {topology.entropy_ceiling:.3f}; "
            f"{where}.{state} A row listens, a column is heard; grey is untrained.",
            span="third",
        )
    ]
    effective = topology.effective_EE
    if effective is not None and np.isfinite(effective).any():
        neutral = topology.effective_neutral
        maps.append(
            Figure(
                f"topology-{number}-{topology.bank}-effective",
                f"Mean re-weighting, bank {topology.bank}: {found.info.model}",
                topology_map(effective.T, f"mean Ŝ, {neutral:.3g} untrained", neutral),
                "How much the expert that listens takes of the one it hears, which is what its "
                "gate gives away: mean over the tokens that chose both; blank where none did.",
                span="third",
            )
        )
    return maps


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
