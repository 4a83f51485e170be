"""The study report's curves: differences and losses against the tokens seen."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import altair as alt
import numpy as np

from plait.report.encodings import FOCUS, colour, dash, focused, shape
from plait.report.figure import Figure, chart_data
from plait.report.numbers import number
from plait.report.palette import MUTED, Series
from plait.report.study.differences import compared_with, left_behind, without
from plait.statistics import paired_difference
from plait.studies.results import FLOORS, FinishedRun, Floor, StudyResults

BINS = 120
"""points of a training curve after averaging"""
LATE = 0.1
"""share of the tokens that the curves leave out at the beginning, where all fall steeply"""
_LATE = f"From {100 * LATE:.0f} % of the tokens on; one line for each seed."


def curve_figures(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Difference to the baseline and validation loss, against tokens seen."""
    evaluations = {run.folder: list(_evaluations(run)) for run in study.runs}
    held_out = [row for run in study.runs for row in _points(run, _late(evaluations[run.folder]))]
    gaps = list(_gaps(study, evaluations))
    figures = []
    if gaps:
        figures.append(
            Figure(
                "difference-curve",
                "Difference to the baseline while training",
                _gap_lines(gaps, looks),
                f"Validation loss minus that of {compared_with(study)} at the same number of "
                "tokens, paired by seed; below zero is better."
                + (
                    " Point at a variant in the key for its 95 % interval."
                    if "low" in gaps[-1]
                    else ""
                )
                + without(left_behind(study)),
                key=True,
            )
        )
    if held_out:
        levels = {kind: loss for kind in FLOORS if (loss := study.floor(kind)) is not None}
        near = {kind: level for kind, level in levels.items() if _is_near(level, held_out)}
        chart = _lines(held_out, looks, "validation loss (nats per token)", near)
        caption = f"{_LATE} {_floors(levels, near)}".rstrip()
        figures.append(Figure("held-out-curve", "Validation loss", chart, caption, key=True))
    return figures


def perplexity_figures(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Validation perplexity against tokens seen: all of it on a logarithmic axis, and its end."""
    points = [
        row | {"loss": math.exp(row["loss"])}
        for run in study.runs
        for row in _points(run, _evaluations(run))
        if row["loss"] < 700
    ]
    if not points:
        return []
    half = max(row["tokens"] for row in points) / 2
    late = [row for row in points if row["tokens"] >= half]
    whole = _lines(points, looks, "validation perplexity", log=True)
    figures = [Figure("perplexity", "Validation perplexity", whole, "One line for each seed.")]
    if len({row["tokens"] for row in late}) > 1:
        end = _lines(late, looks, "validation perplexity")
        figures.append(Figure("perplexity-late", "The second half", end, "The same, zoomed."))
    return figures


def training_curve(study: StudyResults, looks: Sequence[Series]) -> Figure | None:
    """Training loss against tokens seen; None where no run logged one."""
    train = []
    for run in study.runs:
        losses = [(r["tokens"], r["loss"]) for r in run.metrics() if r.get("loss") is not None]
        train += _points(run, _binned(_late(losses)))
    if not train:
        return None
    chart = _lines(train, looks, "training loss (nats per token)")
    caption = f"{_LATE} Means over up to {BINS} equal stretches."
    return Figure("training-curve", "Training loss", chart, caption, span="full", key=True)


def _is_near(level: float, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a line at that loss squeezes the curves by a quarter at the most."""
    losses = [float(row["loss"]) for row in rows]
    air = 0.25 * (max(losses) - min(losses))
    return min(losses) - air <= level <= max(losses) + air


def _floors(levels: Mapping[Floor, float], drawn: Mapping[Floor, float]) -> str:
    """What counting scores, with the values that no line shows."""
    if not levels:
        return ""
    outside = [f"{kind} {number(level)}" for kind, level in levels.items() if kind not in drawn]
    said = "Dashed: what counting tokens scores on the test split. " if drawn else ""
    if outside:
        said += f"Counting scores, beyond this range: {', '.join(outside)} nats per token."
    return said


def tokens_axis() -> alt.X:
    """Tokens seen, from where the data begins."""
    return alt.X(
        "tokens:Q",
        title="tokens seen (millions)",
        scale=alt.Scale(zero=False, nice=False),
        axis=alt.Axis(tickCount=6, grid=False),
    )


def _lines(
    rows: list[dict[str, Any]],
    looks: Sequence[Series],
    title: str,
    levels: Mapping[Floor, float] = MappingProxyType({}),
    log: bool = False,
) -> Any:
    kind: Any = "log" if log else "linear"
    y = alt.Y("loss:Q", title=title, scale=alt.Scale(zero=False, type=kind))
    base = alt.Chart(chart_data(rows)).encode(
        x=tokens_axis(), y=y, color=colour(looks, "variant"), detail="seed:N"
    )
    line = base.mark_line(strokeWidth=1.6).encode(
        strokeDash=dash(looks, "variant"), opacity=focused(0.9)
    )
    layers = [line, _hover(base, "loss")]
    if levels:
        floors = [{"floor": kind, "loss": loss} for kind, loss in levels.items()]
        at = alt.Chart(chart_data(floors)).encode(y=y)
        layers.append(at.mark_rule(color=MUTED, strokeDash=[4, 3]))
        words = at.mark_text(color=MUTED, align="right", baseline="bottom", dy=-2, fontSize=11.5)
        layers.append(words.encode(x=alt.value("width"), text="floor:N"))
    return alt.layer(*layers).add_params(FOCUS).properties(height=250)


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
    return alt.layer(*layers).add_params(FOCUS).properties(height=250)


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

    behind = left_behind(study)
    for variant in study.finished_variants:
        against = study.reference(variant)
        if variant == against or variant in behind:
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
