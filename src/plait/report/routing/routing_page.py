"""The page of `plait trace`: table, notes and figures in one HTML file without a network."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from markupsafe import Markup

from plait.report.html_table import html_table as table_markup
from plait.report.page import render
from plait.report.routing.sections import sections
from plait.report.terminal.routing_table import routing_table
from plait.routing.analysis import Analysis, notes


def page(analyses: Sequence[Analysis], decode: Callable[[int], str]) -> str:
    """Return the analyses as one self-contained HTML page.

    Args:
        analyses: one for each model, over the same tokens; their names differ.
        decode: a token's text, not yet made safe.
    """
    shown = sections(analyses, decode)
    summary = routing_table(analyses)
    return render(
        "routing.html.j2",
        [replace(section, figures=()) if section.html else section for section in shown],
        page_title="Routing of " + ", ".join(found.info.model for found in analyses),
        sample=str(summary.title),
        caption=str(summary.caption),
        table=html_table(analyses),
        notes=notes(analyses),
    )


def html_table(analyses: Sequence[Analysis]) -> Markup:
    """Return the summary table as HTML, everything in it escaped."""
    return table_markup(routing_table(analyses), "Routing metrics")
