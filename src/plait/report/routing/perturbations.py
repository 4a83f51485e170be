"""Figures of the loss under perturbations."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, chart_data
from plait.report.palette import INK, Series
from plait.routing.analysis import Analysis


def robustness_figures(analyses: Sequence[Analysis], looks: Sequence[Series]) -> list[Figure]:
    """Rise of the loss under each perturbation; the ablation by depth apart."""
    bars: list[dict[str, Any]] = []
    depths: list[dict[str, Any]] = []
    kinds = list(dict.fromkeys(one.kind for found in analyses for one in found.robustness))
    places: dict[str, tuple[int, float]] = {}
    for found in analyses:
        for measured in found.robustness:
            spread = measured.spread or 0.0
            row = {
                "model": found.info.model,
                "rise": measured.rise,
                "low": measured.rise - spread,
                "high": measured.rise + spread,
                "draws": len(measured.losses),
                "ppl": measured.perplexity_ratio - 1,
            }
            if measured.kind == "random depth":
                depths.append(row | {"depth": measured.setting})
            else:
                name = _perturbation(measured.kind, measured.setting)
                places[name] = (kinds.index(measured.kind), measured.setting or 0.0)
                bars.append(row | {"perturbation": name})
    made = []
    if bars:
        order = sorted(places, key=lambda name: places[name])
        base = alt.Chart(chart_data(bars)).encode(
            y=alt.Y("perturbation:N", sort=order, title=None, axis=alt.Axis(labelLimit=260)),
            yOffset=alt.YOffset("model:N", sort=[look.name for look in looks]),
            tooltip=[
                "model:N",
                "perturbation:N",
                alt.Tooltip("rise:Q", format=".4f"),
                alt.Tooltip("ppl:Q", format="+.1%", title="perplexity"),
                "draws:Q",
            ],
        )
        chart = base.mark_bar().encode(
            x=alt.X("rise:Q", title="rise of the held-out loss (nats per token)"),
            color=colour(looks),
        ) + base.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
        made.append(
            Figure(
                "robustness",
                "Loss when the routing is changed",
                chart.properties(height=max(160, len(order) * (10 + 10 * len(looks)))),
                f"Same held-out tokens ({analyses[0].robustness[0].tokens:,}); whiskers: one "
                "standard deviation over draws.",
                span="full",
            )
        )
    if depths:
        base = alt.Chart(chart_data(depths)).encode(
            x=alt.X("depth:O", title="depth made random", axis=alt.Axis(labelAngle=0)),
            color=colour(looks),
        )
        chart = (
            base.mark_line(strokeWidth=2).encode(y="rise:Q", strokeDash=dash(looks))
            + base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
            + base.mark_point(filled=True, size=60, opacity=1).encode(
                y=alt.Y("rise:Q", title="rise of the held-out loss (nats per token)"),
                shape=shape(looks),
                tooltip=["model:N", "depth:O", alt.Tooltip("rise:Q", format=".4f")],
            )
        )
        made.append(
            Figure(
                "ablation",
                "Which depth's routing matters",
                chart.properties(height=240),
                "Experts of one depth drawn at random, gates kept. Whiskers: one standard "
                "deviation over draws.",
            )
        )
    return made


def _perturbation(kind: str, setting: float | None) -> str:
    if kind == "noise":
        return f"noise, σ = {setting:g}"
    if kind == "allowed paths":
        assert setting is not None
        if setting == 1:
            return "only the most frequent path"
        return f"only the {setting:,.0f} most frequent paths"
    return {"one permutation": "one permutation of experts"}.get(kind, kind)
