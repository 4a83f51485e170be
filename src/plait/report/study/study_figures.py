"""The study report's figures: differences, loss against size, curves, load."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np

from plait.report.encodings import colour, dash, shape
from plait.report.figure import Figure, chart_data
from plait.report.maps import load_map
from plait.report.palette import BAND, INK, MUTED, Series
from plait.statistics import Difference, paired_difference
from plait.studies.results import FinishedRun, StudyResults
from plait.studies.tables import Row

BINS = 120
"""points of a training curve after averaging"""
LATE = 0.1
"""share of the tokens that the curves leave out at the beginning, where all fall steeply"""

FOCUS = alt.param(name="focus", value="")
"""the variant that the page's key points at; the others fade"""


def difference_figure(study: StudyResults, rows: Sequence[Row], looks: Sequence[Series]) -> Figure:
    """Held-out loss against the baseline: each seed, the mean, its 95 % interval."""
    differences = {row.variant: row.difference for row in rows if row.difference is not None}
    margin = study.margin if any(d.p is not None for d in differences.values()) else None
    chart = forest(differences, looks, "held-out loss − baseline (nats per token)", margin)
    caption = "Left of the line is better than the baseline. " + (
        f"Line: 95 % interval of the mean paired difference; faint points: single seeds; shaded: "
        f"the ±{study.margin:g} nats that count as no difference."
        if margin
        else "One seed per variant: points without an interval, since none is known."
    )
    return Figure("difference", "Difference to the baseline", chart, caption, key=True)


def domain_figures(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Difference to the baseline in bits per byte, a figure for each held-out domain."""
    found = {}
    for domain in study.domains:
        bits = {
            variant: study.measured(variant, domain, "bits_per_byte") for variant in study.variants
        }
        paired = {
            variant: paired_difference(bits[variant], bits[study.reference(variant)])
            for variant in study.finished_variants
            if variant != study.reference(variant)
        }
        found[domain] = {name: d for name, d in paired.items() if d is not None}
    extent = _extent([d for differences in found.values() for d in differences.values()])
    span: Literal["half", "third"] = "half" if len(found) in (1, 2, 4) else "third"
    return [
        Figure(
            f"domain-{index}",
            domain,
            forest(differences, looks, "difference in bits per byte", None, extent),
            span=span,
        )
        for index, (domain, differences) in enumerate(found.items())
        if differences
    ]


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
        .properties(height=210)
    )
    caption = "Lower and further left is better."
    return Figure("size", "Loss against size", chart, caption, key=True)


def curve_figures(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Difference to the baseline while training; held-out and training loss against tokens seen."""
    evaluations = {run.folder: list(_evaluations(run)) for run in study.runs}
    held_out = [row for run in study.runs for row in _points(run, _late(evaluations[run.folder]))]
    train = []
    for run in study.runs:
        losses = [(r["tokens"], r["loss"]) for r in run.metrics() if r.get("loss") is not None]
        train += _points(run, _binned(_late(losses)))
    gaps = list(_gaps(study, evaluations))
    late = f"From {100 * LATE:.0f} % of the tokens on; one line for each seed."
    figures = []
    if gaps:
        figures.append(
            Figure(
                "difference-curve",
                "Difference to the baseline while training",
                _gap_lines(gaps, looks),
                "Validation loss minus the baseline’s at the same number of tokens, paired by "
                "seed; below zero is better."
                + (
                    " Point at a variant in the key for its 95 % interval."
                    if "low" in gaps[-1]
                    else ""
                ),
                span="full",
                key=True,
            )
        )
    if held_out:
        chart = _lines(held_out, looks, "validation loss (nats per token)")
        figures.append(Figure("held-out-curve", "Validation loss", chart, late, key=True))
    if train:
        chart = _lines(train, looks, "training loss (nats per token)")
        caption = f"{late} Means over up to {BINS} equal stretches."
        figures.append(Figure("training-curve", "Training loss", chart, caption, key=True))
    return figures


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
            variant_and_seed(study, run),
            load_map(list(by_depth.values()), list(by_depth), highest),
            span="quarter",
        )
        for index, run, by_depth in found
    ]


def variant_and_seed(study: StudyResults, run: FinishedRun) -> str:
    """The variant's name, with the seed where the study has several."""
    return run.variant if len(study.seeds) == 1 else f"{run.variant}, seed {run.seed}"


# ------------------------------------------------------------------ encodings


def focused(shown: float = 1.0) -> Any:
    """Opacity of what belongs to a variant: it fades while the key points at another."""
    return alt.condition("focus == '' || datum.variant == focus", alt.value(shown), alt.value(0.1))


def tokens_axis() -> alt.X:
    """Tokens seen, from where the data begins."""
    return alt.X(
        "tokens:Q",
        title="tokens seen (millions)",
        scale=alt.Scale(zero=False, nice=False),
        axis=alt.Axis(tickCount=6, grid=False),
    )


# ------------------------------------------------------------------ charts


def forest(
    differences: Mapping[str, Difference],
    looks: Sequence[Series],
    title: str,
    margin: float | None,
    extent: tuple[float, float] | None = None,
) -> Any:
    """Each difference with its seeds, mean and 95 % interval, above one another beside zero."""
    low, high = extent or _extent(list(differences.values()))
    if margin is not None:
        low, high = min(low, -1.5 * margin), max(high, 1.5 * margin)
    scale = alt.Scale(domain=[low, high], nice=False)

    def along(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))

    y = alt.Y(
        "variant:N",
        title=None,
        sort=list(differences),
        axis=alt.Axis(ticks=False, domain=False, labelColor=INK, labelLimit=280),
    )
    by_colour = colour(looks, "variant").legend(None)
    by_shape = shape(looks, "variant").legend(None)
    layers: list[Any] = []
    if margin is not None:
        band = alt.Chart(chart_data([{"from": -margin, "to": margin}])).mark_rect(color=BAND)
        layers.append(band.encode(x=along("from"), x2="to:Q"))
    zero = alt.Chart(chart_data([{"mean": 0}])).mark_rule(color=MUTED, strokeWidth=1.5)
    layers.append(zero.encode(x=along("mean")))
    means = [
        {"variant": n, "mean": d.estimate.value, "low": d.estimate.low, "high": d.estimate.high}
        for n, d in differences.items()
    ]
    known = [row for row in means if row["low"] is not None]
    if known:
        seeds = [
            {"variant": name, "seed": seed, "difference": value}
            for name, d in differences.items()
            for seed, value in d.by_seed.items()
        ]
        rule = alt.Chart(chart_data(known)).mark_rule(strokeWidth=2.5)
        single = alt.Chart(chart_data(seeds)).mark_point(filled=True, size=28, opacity=0.45)
        layers.append(rule.encode(x=along("low"), x2="high:Q", y=y, color=by_colour))
        layers.append(
            single.encode(
                x=along("difference"),
                y=y,
                color=by_colour,
                tooltip=["variant:N", "seed:N", alt.Tooltip("difference:Q", format="+.4f")],
            )
        )
    tooltip: list[Any] = ["variant:N", alt.Tooltip("mean:Q", format="+.4f", title="difference")]
    if known:
        tooltip.append(alt.Tooltip("low:Q", format="+.4f", title="95 % from"))
        tooltip.append(alt.Tooltip("high:Q", format="+.4f", title="95 % to"))
    layers.append(
        alt.Chart(chart_data(means))
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            x=along("mean"),
            y=y,
            color=by_colour,
            shape=by_shape,
            tooltip=tooltip,
        )
    )
    return alt.layer(*layers).properties(height=max(60, 32 * len(differences)))


def _lines(rows: list[dict[str, Any]], looks: Sequence[Series], title: str) -> Any:
    base = alt.Chart(chart_data(rows)).encode(
        x=tokens_axis(),
        y=alt.Y("loss:Q", title=title, scale=alt.Scale(zero=False)),
        color=colour(looks, "variant"),
        detail="seed:N",
    )
    line = base.mark_line(strokeWidth=1.6).encode(
        strokeDash=dash(looks, "variant"), opacity=focused(0.9)
    )
    return alt.layer(line, _hover(base, "loss")).add_params(FOCUS).properties(height=280)


def _gap_lines(rows: list[dict[str, Any]], looks: Sequence[Series]) -> Any:
    title = "validation loss − baseline (nats per token)"
    base = alt.Chart(chart_data(rows)).encode(x=tokens_axis(), color=colour(looks, "variant"))
    values = [0.0, *(row["difference"] for row in rows)]
    air = 0.08 * (max(values) - min(values)) or 0.01
    scale = alt.Scale(domain=[min(values) - air, max(values) + air], nice=False)
    y = alt.Y("difference:Q", title=title, scale=scale)
    zero = alt.Chart(chart_data([{"difference": 0}])).mark_rule(color=MUTED, strokeWidth=1.5)
    layers = [
        zero.encode(y=y),
        base.mark_line(strokeWidth=2).encode(
            y=y, strokeDash=dash(looks, "variant"), opacity=focused()
        ),
        base.mark_point(filled=True, size=55).encode(
            y=y, shape=shape(looks, "variant"), opacity=focused()
        ),
        _hover(base.encode(y=y), "difference"),
    ]
    if any("low" in row for row in rows):
        low = alt.Y("low:Q", title=title, scale=scale)
        band = base.mark_area(clip=True).encode(y=low, y2="high:Q")
        shown = alt.condition("datum.variant == focus", alt.value(0.25), alt.value(0))
        layers.insert(0, band.encode(opacity=shown))
    return alt.layer(*layers).add_params(FOCUS).properties(height=280)


def _hover(base: Any, field: str) -> Any:
    """Invisible points, large enough to hit, that carry the tooltips of lines."""
    return base.mark_point(filled=True, size=90, opacity=0).encode(
        tooltip=[
            "variant:N",
            "seed:N",
            alt.Tooltip("tokens:Q", format=".2f", title="tokens (M)"),
            alt.Tooltip(f"{field}:Q", format=".4f", title=f"{field} (nats/token)"),
        ]
    )


# ------------------------------------------------------------------ data


def _extent(differences: Sequence[Difference]) -> tuple[float, float]:
    """A range that holds zero, every seed and every interval, with some air."""
    ends = [0.0]
    for d in differences:
        ends += [*d.by_seed.values(), d.estimate.value]
        ends += [end for end in (d.estimate.low, d.estimate.high) if end is not None]
    air = 0.06 * (max(ends) - min(ends)) or 0.01
    return min(ends) - air, max(ends) + air


def _evaluations(run: FinishedRun) -> Iterable[tuple[int, float]]:
    """Tokens seen and held-out loss at each evaluation while training."""
    for row in run.metrics():
        if "evaluation" in row:
            yield row["tokens"], row["evaluation"]["all"]["loss"]


def _points(run: FinishedRun, points: Iterable[tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {"variant": run.variant, "seed": run.seed, "tokens": tokens / 1e6, "loss": loss}
        for tokens, loss in points
    ]


def _gaps(
    study: StudyResults, evaluations: Mapping[Any, list[tuple[int, float]]]
) -> Iterable[dict[str, Any]]:
    """Paired differences to the baseline at each evaluation that both runs of a seed have."""

    def at(variant: str, tokens: int) -> dict[int, float]:
        losses = {run.seed: dict(evaluations[run.folder]) for run in study.of(variant)}
        return {seed: of[tokens] for seed, of in losses.items() if tokens in of}

    for variant in study.finished_variants:
        against = study.reference(variant)
        if variant == against:
            continue
        for tokens in sorted({t for run in study.of(variant) for t, _ in evaluations[run.folder]}):
            difference = paired_difference(at(variant, tokens), at(against, tokens))
            if difference is None or not math.isfinite(difference.estimate.value):
                continue
            estimate = difference.estimate
            row = {"variant": variant, "tokens": tokens / 1e6, "difference": estimate.value}
            if estimate.low is not None:
                row |= {"low": estimate.low, "high": estimate.high}
            yield row


def _late(points: Iterable[tuple[int, float]]) -> list[tuple[float, float]]:
    """Points after the first tenth of the tokens, finite values only."""
    found = list(points)
    start = LATE * max((tokens for tokens, _ in found), default=0)
    return [(t, v) for t, v in found if t >= start and math.isfinite(v)]


def _binned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over at most BINS equal stretches."""
    if len(points) <= BINS:
        return points
    parts = np.array_split(np.array(points, dtype=float), BINS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]
