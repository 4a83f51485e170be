"""Figures of a routing analysis: one code for the report page and for PNG, SVG, PDF and HTML files.

Models that are compared share a figure where lines or bars can; maps are drawn one per model.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from markupsafe import Markup

from plait.report.figure import Figure, Section
from plait.report.palette import Series, series
from plait.report.routing.consistency_figures import consistency_figures, consistency_maps
from plait.report.routing.coverage import coverage_figure, window_figure
from plait.report.routing.domains import domain_figure, expert_domain_figures
from plait.report.routing.expert_load import coactivation_figures, load_figures, load_maps
from plait.report.routing.path_classes import class_figures
from plait.report.routing.path_flow import flow_figures
from plait.report.routing.path_tokens import shown, tokens_figure, tokens_table
from plait.report.routing.perturbations import robustness_figures
from plait.report.routing.topology_figures import topology_figures
from plait.routing.analysis import Analysis

__all__ = ["comparison_figures", "sections", "shown"]


CARRIED = "What paths carry"


def sections(analyses: Sequence[Analysis], decode: Callable[[int], str]) -> list[Section]:
    """Every figure that the analyses have data for, in the sections of a report.

    What paths carry comes as tables too, which a page shows in place of the figures.

    Args:
        analyses: one for each model, over the same tokens; their names differ.
        decode: a token's text, not yet made safe.
    """
    looks = series([found.info.model for found in analyses], baseline="")
    tables = [tokens_table(found, decode) for found in analyses]
    tokens = [tokens_figure(found, decode, number) for number, found in enumerate(analyses)]
    parts: list[tuple[str, Sequence[Figure | None]]] = [
        ("Paths", [coverage_figure(analyses, looks), window_figure(analyses, looks)]),
        ("Path flow", flow_figures(analyses)),
        ("What paths are about", class_figures(analyses, looks)),
        (CARRIED, tokens),
        (
            "Consistency over depth",
            [*consistency_figures(analyses, looks), *consistency_maps(analyses)],
        ),
        (
            "Load",
            [
                *load_figures(analyses, looks),
                *load_maps(analyses),
                *coactivation_figures(analyses),
            ],
        ),
        (
            "Specialisation by domain",
            [domain_figure(analyses, looks), *expert_domain_figures(analyses)],
        ),
        ("Robustness", robustness_figures(analyses, looks)),
        ("Learned topology", topology_figures(analyses)),
    ]
    made = []
    for title, figures in parts:
        known = [figure for figure in figures if figure is not None]
        if known:
            html = Markup("").join(tables) if title == CARRIED else Markup("")
            made.append(Section(title, figures=known, html=html))
    return made


def comparison_figures(analyses: Sequence[Analysis], looks: Sequence[Series]) -> list[Figure]:
    """Only the figures in which models share axes, for a report whose key names them.

    Args:
        analyses: one for each model, over the same tokens.
        looks: of the models, by name.
    """
    made = [
        coverage_figure(analyses, looks),
        window_figure(analyses, looks),
        *consistency_figures(analyses, looks),
        *load_figures(analyses, looks),
        domain_figure(analyses, looks),
    ]
    return [
        replace(figure, name=f"routing-{figure.name}", key=True, span="third")
        for figure in made
        if figure is not None
    ]
