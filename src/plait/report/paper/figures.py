"""Our figures that answer a paper's, by the name under which a recipe asks for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import altair as alt

from plait.report.encodings import colour, shape
from plait.report.figure import Figure, chart_data
from plait.report.palette import MUTED, SERIES, Series, series
from plait.report.study.curves import perplexity_figures, training_curve
from plait.report.study.differences import domain_figures, exploratory_figure
from plait.report.study.dynamics_figures import MEASURES, dynamics_figure
from plait.report.study.effects_section import effects_section
from plait.report.study.topology_section import run_topologies, topology_sections
from plait.studies.claims import PaperFigure
from plait.studies.results import StudyResults
from plait.studies.tables import comparison_table

Draw = Callable[[StudyResults, Sequence[Series]], list[Figure]]


def drawn(asked: PaperFigure, study: StudyResults) -> list[Figure]:
    """Draw what a paper's figure shows, of the arms it shows; empty where nothing was recorded.

    Raises:
        ValueError: no figure has that name.
    """
    if asked.shows not in FIGURES:
        raise ValueError(f"no figure is called {asked.shows!r}: choose {', '.join(FIGURES)}")
    of_arms = restricted(study, asked.arms)
    if not of_arms.runs:
        return []
    looks = series(of_arms.finished_variants, of_arms.baseline)
    return [replace(figure, key=False) for figure in FIGURES[asked.shows](of_arms, looks)]


def restricted(study: StudyResults, arms: Sequence[str]) -> StudyResults:
    """The results of some arms alone, without the questions about others; none: of all."""
    if not arms:
        return study
    return replace(
        study,
        variants=tuple(name for name in study.variants if name in arms),
        runs=tuple(run for run in study.runs if run.variant in arms),
        contrasts=tuple(c for c in study.contrasts if {c.variant, c.against} <= {*arms}),
    )


def _training(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    curve = training_curve(study, looks)
    return [] if curve is None else [curve]


def _topology(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    return [figure for section in topology_sections(study) for figure in section.figures]


def _effects(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    section = effects_section(study)
    return [] if section is None else list(section.figures)


def _ablation(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Difference of each arm to the baseline, whether asked for or not, as one picture."""
    unasked = replace(study, contrasts=())
    figure = exploratory_figure(unasked, comparison_table(unasked), looks)
    if figure is None:
        return []
    return [replace(figure, title="Every arm beside the baseline", span="full")]


def _cost(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """Held-out loss against what an arm costs: parameters it stores, seconds it trained."""
    points = [
        {
            "variant": run.variant,
            "loss": run.held_out(),
            "stored": run.result.parameters["stored"] / 1e6,
            "minutes": run.result.seconds / 60,
        }
        for run in study.runs
    ]
    axes = {
        "stored": ("Loss against stored parameters", "stored parameters (millions)"),
        "minutes": ("Loss against wall time", "minutes of training here"),
    }
    figures = []
    for field, (title, axis) in axes.items():
        chart = (
            alt.Chart(chart_data(points))
            .mark_point(filled=True, size=60)
            .encode(
                x=alt.X(f"{field}:Q", title=axis, scale=alt.Scale(zero=False, padding=16)),
                y=alt.Y(
                    "loss:Q",
                    title="held-out loss (nats per token)",
                    scale=alt.Scale(zero=False, padding=16),
                ),
                color=colour(looks, "variant"),
                shape=shape(looks, "variant"),
                tooltip=["variant:N", alt.Tooltip("loss:Q", format=".4f")],
            )
            .properties(height=230)
        )
        caption = "A point for each run, at equal tokens. Lower and further left is better."
        figures.append(Figure(f"cost-{field}", title, chart, caption))
    return figures


def _spectrum(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
    """|eigenvalues| of S by depth, trained and untrained: an untrained S has a spectrum as well."""
    states = ("trained", "untrained")
    figures = []
    for number, variant in enumerate(study.finished_variants):
        rows = [
            {
                "rank": rank + 1,
                "size": float(size),
                "state": state,
                "line": f"seed {run.seed}, bank {topology.bank}, {state}",
            }
            for run in study.of(variant)
            for topology in run_topologies(run)
            for state, spectrum in zip(
                states, (topology.spectrum, topology.untrained_spectrum), strict=True
            )
            for rank, size in enumerate(spectrum)
        ]
        if not rows:
            continue
        scale = alt.Scale(domain=states, range=[SERIES[0], MUTED])
        chart = (
            alt.Chart(chart_data(rows))
            .mark_line(strokeWidth=1.2)
            .encode(
                x=alt.X("rank:Q", title="eigenvalue, by size", axis=alt.Axis(tickMinStep=1)),
                y=alt.Y("size:Q", title="|eigenvalue| of S"),
                color=alt.Color("state:N", title=None, scale=scale),
                detail="line:N",
            )
            .properties(height=200)
        )
        caption = "A line for each bank and seed."
        figures.append(Figure(f"spectrum-{number}", f"Spectrum of S: {variant}", chart, caption))
    return figures


def _dynamics(name: str) -> Draw:
    def draw(study: StudyResults, looks: Sequence[Series]) -> list[Figure]:
        figure = dynamics_figure(name, study, looks)
        return [] if figure is None else [figure]

    return draw


FIGURES: Mapping[str, Draw] = {
    "perplexity": perplexity_figures,
    "training": _training,
    "domains": domain_figures,
    "topology": _topology,
    "spectrum": _spectrum,
    "ablation": _ablation,
    "effects": _effects,
    "cost": _cost,
    **{measure.name: _dynamics(measure.name) for measure in MEASURES},
}
