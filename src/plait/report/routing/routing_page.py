"""The page of `plait trace`: table, notes and figures in one HTML file without a network."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from markupsafe import Markup

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
    columns = routing_table(analyses).columns
    heads = _joined('<th scope="col">{}</th>', [str(column.header) for column in columns])
    rows = Markup("")
    for name, *cells in zip(*[column.cells for column in columns], strict=True):
        values = Markup("").join(_cell(str(cell)) for cell in cells)
        rows += Markup('<tr><th scope="row" class="name">{}</th>{}</tr>').format(str(name), values)
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Routing metrics">'
        '<table class="plain"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(heads, rows)


def _cell(text: str) -> Markup:
    """A value, its interval and its chance under it in small."""
    place = text.find(" [") if " [" in text else text.find(" · chance")
    if place < 0:
        return Markup("<td>{}</td>").format(text)
    return Markup("<td>{}<small>{}</small></td>").format(text[:place], text[place:].lstrip(" ·"))


def _joined(form: str, texts: Sequence[str]) -> Markup:
    return Markup("").join(Markup(form).format(text) for text in texts)
