"""The study report's figures of single numbers: loss against size, load of the experts."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from plait.report.encodings import FOCUS, colour, focused, shape
from plait.report.figure import Figure, chart_data
from plait.report.maps import load_map
from plait.report.numbers import number
from plait.report.palette import Series
from plait.studies.results import FinishedRun, StudyResults
from plait.studies.tables import Row


def size_figure(rows: Sequence[Row], looks: Sequence[Series]) -> Figure:
    """Held-out loss against stored parameters."""
    points = [
        {
            "variant": row.variant,
            "stored": row.stored / 1e6,
            "active": row.active / 1e6,
            "loss": row.loss.value,
        }
        for row in rows
    ]
    chart: Any = (
        alt.Chart(chart_data(points))
        .mark_point(filled=True, size=110)
        .encode(
            x=alt.X(
                "stored:Q",
                title="stored parameters (millions)",
                scale=alt.Scale(zero=False, padding=24),
                axis=alt.Axis(tickCount=5),
            ),
            y=alt.Y(
                "loss:Q",
                title="held-out loss (nats per token)",
                scale=alt.Scale(zero=False, padding=24),
                axis=alt.Axis(tickCount=6),
            ),
            color=colour(looks, "variant"),
            shape=shape(looks, "variant"),
            opacity=focused(),
            tooltip=[
                "variant:N",
                alt.Tooltip("stored:Q", format=".2f", title="stored (M)"),
                alt.Tooltip("active:Q", format=".2f", title="active (M)"),
                alt.Tooltip("loss:Q", format=".4f", title="loss (nats/token)"),
            ],
        )
        .add_params(FOCUS)
        .properties(height=max(190, 30 * len(points)))
    )
    caption = "Lower and further left is better."
    return Figure("size", "Loss against size", chart, caption, key=True)


def load_figures(study: StudyResults) -> list[Figure]:
    """Each variant's load: share of the tokens' choices by expert and depth, balanced = 1."""
    found = []
    for index, variant in enumerate(study.finished_variants):
        run = study.of(variant)[0]
        by_depth = {depth: shares for depth, shares in enumerate(run.result.load) if shares}
        if by_depth:
            found.append((index, run, by_depth))
    maps = [by_depth for _, _, by_depth in found]
    highest = max((max(s) * len(s) for of in maps for s in of.values()), default=1.0)
    return [
        Figure(
            f"load-{index}",
            _variant_and_seed(study, run),
            load_map(list(by_depth.values()), list(by_depth), highest),
            span="quarter",
        )
        for index, run, by_depth in found
    ]


def load_gist(study: StudyResults) -> str:
    """How unequal the load is: the most chosen expert of each variant's first seed, over even."""
    highest = [
        max(max(shares) * len(shares) for shares in load if shares)
        for variant in study.finished_variants
        if any(load := study.of(variant)[0].result.load)
    ]
    if not highest:
        return ""
    low, high = number(min(highest), 1), number(max(highest), 1)
    return (
        f"the most chosen expert has {low if low == high else f'{low} to {high}'} × an even share"
    )


def _variant_and_seed(study: StudyResults, run: FinishedRun) -> str:
    """The variant's name, with the seed where the study has several."""
    return run.variant if len(study.seeds) == 1 else f"{run.variant}, seed {run.seed}"
