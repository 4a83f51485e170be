"""Figures of what experts are for: domains by depth and by expert."""

from collections.abc import Sequence

import altair as alt
import numpy as np

from plait.report.figure import Figure, chart_data
from plait.report.palette import Series, series
from plait.report.routing.depth_lines import (
    depth_figure,
)
from plait.report.routing.path_tokens import label
from plait.routing.analysis import Analysis


def domain_figure(analyses: Sequence[Analysis], looks: Sequence[Series]) -> Figure | None:
    """How far experts follow the domain, by depth."""
    return depth_figure(
        "domains",
        "How far experts follow the domain",
        "information (0 = chance, 1 = all)",
        [(f.info.model, f.info.routed, f.domains.corrected) for f in analyses if f.domains],
        looks,
        "Mutual information of expert and domain over the domain's entropy, both less what "
        "documents with shuffled domains give.",
    )


def expert_domain_figures(analyses: Sequence[Analysis]) -> list[Figure]:
    """Bars by domain for the experts of the depth that follows the domain most."""
    made = []
    for number, found in enumerate(analyses):
        if found.domains is None:
            continue
        strongest = int(np.argmax([m.value for m in found.domains.corrected]))
        share_DE = found.domains.share_LDE[strongest][:, : found.info.experts[strongest]]
        present = [d for d in range(len(share_DE)) if np.isfinite(share_DE[d]).all()]
        order = np.argsort(-(share_DE[present[0]] - share_DE[present[-1]]), kind="stable")[:32]
        bars = [
            {
                "expert": int(expert),
                "domain": label(found.info.domains[d]),
                "share": float(share_DE[d, expert]),
            }
            for expert in order
            for d in present
        ]
        domains = series([label(found.info.domains[d]) for d in present], baseline="")
        chart = (
            alt.Chart(chart_data(bars))
            .mark_bar()
            .encode(
                x=alt.X(
                    "expert:O",
                    sort=[int(e) for e in order],
                    title="expert, by preference",
                    axis=alt.Axis(labelAngle=0),
                ),
                xOffset=alt.XOffset("domain:N", sort=[look.name for look in domains]),
                y=alt.Y(
                    "share:Q", title="share of the domain's choices", axis=alt.Axis(format="%")
                ),
                color=alt.Color(
                    "domain:N",
                    title=None,
                    sort=[look.name for look in domains],
                    scale=alt.Scale(
                        domain=[look.name for look in domains],
                        range=[look.colour for look in domains],
                    ),
                ),
                tooltip=["expert:O", "domain:N", alt.Tooltip("share:Q", format=".2%")],
            )
            .properties(height=200)
        )
        depth = found.info.routed[strongest]
        made.append(
            Figure(
                f"specialisation-{number}",
                f"Experts by domain at depth {depth}: {found.info.model}",
                chart,
                "The depth whose experts follow the domain most; each domain's bars sum to 100 %"
                + (" over all experts, 32 shown." if share_DE.shape[1] > 32 else "."),
            )
        )
    return made
