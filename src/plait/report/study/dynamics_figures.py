"""Training dynamics: what routing did on held-out text at each evaluation, against tokens seen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from plait.config import ModelConfig
from plait.evaluation.path_meter import TOKENS
from plait.report.encodings import FOCUS, colour, dash, focused, shape
from plait.report.figure import Figure, Section, chart_data
from plait.report.palette import MUTED, Series
from plait.report.study.curves import tokens_axis
from plait.routing import chance
from plait.studies.results import FinishedRun, StudyResults

SMOOTHING = 0.5
"""weight of what came before in the exponential average of a curve"""


@dataclass(frozen=True)
class _Measure:
    """One figure: its name in the evaluation's row, and the value that it is read beside."""

    name: str
    title: str
    axis: str
    caption: str
    beside: Callable[[ModelConfig, int], float | None] = lambda config, tokens: None
    """of a model and the tokens whose paths were kept; drawn dashed"""


def _uniform_entropy(config: ModelConfig, tokens: int) -> float | None:
    most = [math.log(config.experts_at(depth)) for depth in config.routed_depths]
    return _mean(most) if most else None


def _path_chance(config: ModelConfig, tokens: int) -> float:
    log_paths = sum(math.log(config.experts_at(depth)) for depth in config.routed_depths)
    return chance.plug_in_entropy(tokens, log_paths)


def _overlap_chance(config: ModelConfig, tokens: int) -> float | None:
    pairs = pairwise(map(config.experts_at, config.routed_depths))
    top_k = config.experts.top_k
    found = [chance.jaccard(max(before, after), top_k) for before, after in pairs]
    return _mean(found) if found else None


def _agreement_chance(config: ModelConfig, tokens: int) -> float | None:
    plan, top_k, found = config.plans.experts, config.experts.top_k, []
    for bank in range(plan.count):
        uses, experts = len(plan.uses(bank)), config.experts_in_bank(bank)
        if uses > 1 and experts > top_k:
            found.append(chance.agreement(experts, top_k, uses))
    return _mean(found) if found else None


def _listeners(config: ModelConfig) -> list[int]:
    """Experts that each one can listen to, by routed depth; none without an S that began even."""
    c = config.collaboration
    if c is None or c.signed or c.control in ("gate-scale", "frozen-random"):
        return []
    return [config.experts_at(d) - (0 if c.self_loop else 1) for d in config.routed_depths]


def _even_entropy(config: ModelConfig, tokens: int) -> float | None:
    listeners = _listeners(config)
    return _mean([math.log(count) for count in listeners]) if listeners else None


def _even_entry(config: ModelConfig, tokens: int) -> float | None:
    listeners = _listeners(config)
    return _mean([1 / count for count in listeners]) if listeners else None


MEASURES = (
    _Measure(
        "load_max_over_mean",
        "Load of the fullest expert",
        "load, max / mean",
        "1 is balanced. Mean over depths.",
    ),
    _Measure(
        "dead_experts",
        "Dead experts",
        "dead experts per depth",
        "Experts that no token of the text chose. Mean over depths.",
    ),
    _Measure(
        "router_entropy",
        "Router entropy",
        "router entropy (nats)",
        "Of a token’s probabilities over all experts; dashed: uniform. Mean over depths.",
        _uniform_entropy,
    ),
    _Measure(
        "path_entropy",
        "Path entropy",
        "path entropy (nats)",
        "Of the top-1 experts over all routed depths, plug-in; dashed: chance. At the most "
        f"{math.log(TOKENS):.2f}, the logarithm of {TOKENS:,} tokens.",
        _path_chance,
    ),
    _Measure(
        "consistency",
        "Consistency",
        "Jaccard, neighbouring depths",
        "Experts that neighbouring depths have in common, over those of either; dashed: chance. "
        "Where depths share no bank, router or decision, their numbers mean nothing to each other.",
        _overlap_chance,
    ),
    _Measure(
        "consistency_in_blocks",
        "Consistency inside blocks",
        "Jaccard, depths that share",
        "The same over neighbours that share a bank, router or decision only; dashed: chance.",
        _overlap_chance,
    ),
    _Measure(
        "agreement",
        "Agreement in tied groups",
        "agreement",
        "How alike the depths of a tied bank choose, mean over banks: 1, all the same experts; 0, "
        "as different ones as there are. Dashed: chance.",
        _agreement_chance,
    ),
    _Measure(
        "topology_entropy",
        "Entropy of S",
        "row entropy of S (nats)",
        "Of who an expert listens to; dashed: even, as S begins. Mean over depths.",
        _even_entropy,
    ),
    _Measure(
        "topology_max",
        "Largest entry of S",
        "largest entry of S",
        "Dashed: even, as S begins. Mean over depths.",
        _even_entry,
    ),
)


def dynamics_section(study: StudyResults, looks: Sequence[Series]) -> Section | None:
    """Draw every measure that the runs recorded; None where none did, as in older runs."""
    curves = {run.folder: list(_recorded(run)) for run in study.runs}
    figures = [
        figure
        for measure in MEASURES
        if (figure := _figure(measure, study, curves, looks)) is not None
    ]
    if not figures:
        return None
    seeds = (
        "the line is the mean over seeds, the band their range"
        if len(study.seeds) > 1
        else "one seed, so no range"
    )
    text = (
        "What routing did at each evaluation while training, on the same validation text for "
        f"every run: all of it, and for paths and consistency its first {TOKENS:,} tokens, spread "
        "evenly over domains. Each seed’s curve is an exponential average with weight "
        f"{SMOOTHING:g} on what came before; {seeds}."
    )
    gist = "load, entropies and consistency against tokens"
    return Section("Training dynamics", [text], figures, folded=True, gist=gist)


def dynamics_figure(name: str, study: StudyResults, looks: Sequence[Series]) -> Figure | None:
    """Draw one measure of `MEASURES`; None where no run recorded it."""
    measure = next(measure for measure in MEASURES if measure.name == name)
    curves = {run.folder: list(_recorded(run)) for run in study.runs}
    return _figure(measure, study, curves, looks)


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Average each value with those before it, their weights falling by `weight` at each step.

    The weights are divided by their sum, so that a curve does not begin at 0.
    """
    found, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + value, weight * norm + 1
        found.append(total / norm)
    return found


Recorded = list[tuple[int, Mapping[str, Any]]]


def _recorded(run: FinishedRun) -> Recorded:
    """Tokens seen and what the evaluation there said of routing."""
    found: Recorded = []
    for row in run.metrics():
        tokens, routing = row.get("tokens"), row.get("routing")
        if isinstance(tokens, int) and tokens < 1e18 and isinstance(routing, dict):
            found.append((tokens, routing))
    return found


def _figure(
    measure: _Measure,
    study: StudyResults,
    curves: Mapping[Any, Recorded],
    looks: Sequence[Series],
) -> Figure | None:
    points: list[dict[str, Any]] = []
    beside: set[float] = set()
    for variant in study.finished_variants:
        by_seed = [_curve(measure.name, curves[run.folder]) for run in study.of(variant)]
        by_seed = [curve for curve in by_seed if curve]
        if not by_seed:
            continue
        points += [{"variant": variant, **point} for point in _over_seeds(by_seed)]
        for run in study.of(variant):
            value = measure.beside(run.config.model, _path_tokens(curves[run.folder]))
            beside |= set() if value is None else {round(value, 6)}
    if not points:
        return None
    chart = _chart(points, sorted(beside), looks, measure)
    caption = f"{measure.caption} Smoothed with weight {SMOOTHING:g}."
    name = f"dynamics-{measure.name.replace('_', '-')}"
    return Figure(name, measure.title, chart, caption, key=True)


def _curve(name: str, recorded: Recorded) -> dict[int, float]:
    """Smoothed values of one run, by tokens seen; lists are averaged over depths."""
    found = [(tokens, _number(of.get(name))) for tokens, of in recorded]
    known = {tokens: value for tokens, value in found if value is not None}
    return dict(zip(known, smoothed(list(known.values())), strict=True))


def _number(value: Any) -> float | None:
    if isinstance(value, list):
        numbers = [number for item in value if (number := _number(item)) is not None]
        return _mean(numbers) if numbers else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if known else None


def _path_tokens(recorded: Recorded) -> int:
    tokens = recorded[-1][1].get("path_tokens") if recorded else None
    return tokens if isinstance(tokens, int) and 0 < tokens <= TOKENS else TOKENS


def _over_seeds(by_seed: Sequence[Mapping[int, float]]) -> list[dict[str, float]]:
    """Mean and range at the tokens that every seed was evaluated at."""
    common = [t for t in by_seed[0] if all(t in curve for curve in by_seed)]
    points = []
    for tokens in common:
        values = [curve[tokens] for curve in by_seed]
        point = {"tokens": tokens / 1e6, "value": _mean(values)}
        if len(values) > 1:
            point |= {"low": min(values), "high": max(values)}
        points.append(point)
    return points


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _chart(
    points: list[dict[str, Any]],
    beside: Sequence[float],
    looks: Sequence[Series],
    measure: _Measure,
) -> Any:
    scale = alt.Scale(zero=False, padding=6)

    def along(field: str) -> alt.Y:
        axis = alt.Axis(tickCount=5)
        return alt.Y(f"{field}:Q", title=measure.axis, scale=scale, axis=axis)

    base = alt.Chart(chart_data(points)).encode(x=tokens_axis(), color=colour(looks, "variant"))
    layers: list[Any] = []
    if any("low" in point for point in points):
        band = base.mark_area().encode(y=along("low"), y2="high:Q")
        shown = "focus == '' || datum.variant == focus"
        layers.append(band.encode(opacity=alt.condition(shown, alt.value(0.16), alt.value(0))))
    if beside:
        rule = alt.Chart(chart_data([{"value": value} for value in beside]))
        rule = rule.mark_rule(color=MUTED, strokeDash=[4, 3])
        layers.append(rule.encode(y=along("value")))
    line = base.mark_line(strokeWidth=1.8).encode(
        y=along("value"), strokeDash=dash(looks, "variant"), opacity=focused()
    )
    tooltip: list[Any] = [
        "variant:N",
        alt.Tooltip("tokens:Q", format=".2f", title="tokens (M)"),
        alt.Tooltip("value:Q", format=".4g", title=measure.axis),
    ]
    if any("low" in point for point in points):
        tooltip.append(alt.Tooltip("low:Q", format=".4g", title="least of the seeds"))
        tooltip.append(alt.Tooltip("high:Q", format=".4g", title="largest"))
    dots = base.mark_point(filled=True, size=36).encode(
        y=along("value"), shape=shape(looks, "variant"), opacity=focused(), tooltip=tooltip
    )
    return alt.layer(*layers, line, dots).add_params(FOCUS).properties(height=220)
