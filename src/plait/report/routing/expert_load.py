"""Figures of load, router entropy and experts that are chosen together."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plait.report.figure import Figure
from plait.report.maps import LOAD_CAPTION, heatmap, load_map
from plait.report.palette import Series
from plait.report.routing.depth_lines import depth_figure
from plait.routing.analysis import Analysis

DIVERGING = "blueorange"
"""around a middle that means "as chance"; told apart with any colour vision"""


def load_figures(analyses: Sequence[Analysis], looks: Sequence[Series]) -> list[Figure]:
    """Load of the busiest expert, router entropy and token information by depth."""
    made = [
        depth_figure(
            "max-load",
            "Load of the busiest expert",
            "max / mean load (1 = even)",
            [(f.info.model, f.info.routed, f.load.max_over_mean) for f in analyses],
            looks,
            span="third",
        ),
        depth_figure(
            "router-entropy",
            "How undecided the router is",
            "router entropy (nats)",
            [(f.info.model, f.info.routed, f.router_entropy) for f in analyses if f.router_entropy],
            looks,
            span="third",
        ),
        depth_figure(
            "token-information",
            "How far the token alone decides",
            "I(expert; token) / H(expert)",
            [(f.info.model, f.info.routed, f.token_information) for f in analyses],
            looks,
            span="third",
        ),
    ]
    return [figure for figure in made if figure is not None]


def load_maps(analyses: Sequence[Analysis]) -> list[Figure]:
    """Load of each expert at each depth of each model."""
    return [_load_map(found, number) for number, found in enumerate(analyses)]


def _load_map(found: Analysis, number: int) -> Figure:
    counts = found.info.experts
    shares = [found.load.share_LE[row, :count].tolist() for row, count in enumerate(counts)]
    return Figure(
        f"load-{number}",
        f"Load of each expert: {found.info.model}",
        load_map(shares, found.info.routed),
        LOAD_CAPTION,
    )


def coactivation_figures(analyses: Sequence[Analysis]) -> list[Figure]:
    """Co-activation of each model at its most regular depth."""
    made = []
    for number, found in enumerate(analyses):
        pairs = [
            (c.pair_entropy.value / c.pair_entropy.ceiling, row)
            for row, c in enumerate(found.coactivation)
            if c.pair_entropy is not None and c.pair_entropy.ceiling
        ]
        if pairs:
            together = found.coactivation[min(pairs)[1]]
            made.append(_coactivation_figure(found, together.depth, together.lift_EE, number))
    return made


def _coactivation_figure(
    found: Analysis, depth: int, lift_EE: npt.NDArray[np.float64], number: int
) -> Figure:
    with np.errstate(divide="ignore", invalid="ignore"):
        log_lift = np.clip(np.log2(lift_EE), -3, 3)
    cells = [
        {"expert": a, "other": b, "value": float(log_lift[a, b]), "lift": float(lift_EE[a, b])}
        for a in range(len(lift_EE))
        for b in range(len(lift_EE))
        if a != b and np.isfinite(lift_EE[a, b])
    ]
    chart = heatmap(
        cells,
        ("expert", "expert"),
        ("other", "expert"),
        ("value", "log2 (joint / chance)"),
        (-3, 3),
        scheme=DIVERGING,
    )
    return Figure(
        f"coactivation-{number}",
        f"Experts chosen together at depth {depth}: {found.info.model}",
        chart,
        "How often a token chooses both, over what the loads give by chance: 1 is twice as often, "
        "−1 half as often; blank: a dead expert. The depth with the most regular pairs.",
    )
