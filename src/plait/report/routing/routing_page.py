"""The page of `plait trace`: table, notes and figures in one HTML file without a network."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from markupsafe import Markup

from plait.report.page import render
from plait.report.routing.sections import sections
from plait.report.terminal.routing_table import (
    Reading,
    reading_number,
    readings,
    routing_table,
)
from plait.routing.analysis import Analysis, notes
from plait.statistics import Estimate


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
    """Return the summary table as HTML, everything in it escaped.

    A row for each metric, a column for each model: the value and under it its interval. Chance has
    a column of its own where most metrics have one for all models, and stands in the cells where
    it differs between them.
    """
    metrics = readings(analyses)
    chances = [{_chance(value) for value in values if value is not None} for _, values in metrics]
    common = sum(len(chance) == 1 and "" not in chance for chance in chances)
    own_column = common >= sum(len(chance) > 1 for chance in chances)
    heads = ["metric", *["chance"] * own_column, *[found.info.model for found in analyses]]
    rows = Markup("")
    for (name, values), chance in zip(metrics, chances, strict=True):
        aside = own_column and len(chance) == 1
        cells = [_cell(value, with_chance=not aside) for value in values]
        if own_column:
            cells.insert(0, Markup("<td>{}</td>").format(chance.pop() if aside else ""))
        rows += Markup('<tr><th scope="row" class="name">{}</th>{}</tr>').format(
            name, _joined("{}", cells)
        )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Routing metrics">'
        '<table class="plain metrics"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(
        Markup('<th scope="col" class="name">{}</th>').format(heads[0])
        + _joined('<th scope="col">{}</th>', heads[1:]),
        rows,
    )


def _chance(value: Reading) -> str:
    if not isinstance(value, Estimate) or value.chance is None:
        return ""
    return reading_number(value.chance)


def _cell(value: Reading, with_chance: bool) -> Markup:
    """A value, under it in small its interval and, where it is asked for, its chance."""
    if not isinstance(value, Estimate):
        return Markup("<td>{}</td>").format("–" if value is None else value)
    small = []
    if value.low is not None and value.high is not None:
        small.append(f"[{reading_number(value.low)}, {reading_number(value.high)}]")
    if with_chance and _chance(value):
        small.append(f"chance {_chance(value)}")
    lines = _joined("<small>{}</small>", small)
    return Markup("<td>{}{}</td>").format(reading_number(value.value), lines)


def _joined(form: str, texts: Sequence[str]) -> Markup:
    return Markup("").join(Markup(form).format(text) for text in texts)
