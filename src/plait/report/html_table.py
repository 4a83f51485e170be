"""A table of the terminal as one of a page: the same columns and cells, written once."""

from collections.abc import Sequence

from markupsafe import Markup
from rich.table import Table


def html_table(table: Table, label: str) -> Markup:
    """Return a table as HTML, everything in it escaped; its first column names the rows.

    What a cell has in brackets stands below it in small.
    """
    first, *others = table.columns
    classes = ["words" if column.justify == "left" else "" for column in others]
    heads = _heads([str(column.header) for column in others], classes)
    rows = Markup("")
    for name, *cells in zip(*[column.cells for column in table.columns], strict=True):
        values = Markup("").join(
            _cell(str(cell), kind) for cell, kind in zip(cells, classes, strict=True)
        )
        rows += Markup('<tr><th scope="row" class="name">{}</th>{}</tr>').format(str(name), values)
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}">'
        '<table class="plain"><thead><tr><th scope="col" class="name">{}</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(label, str(first.header), heads, rows)


def _heads(texts: Sequence[str], classes: Sequence[str]) -> Markup:
    return Markup("").join(
        Markup('<th scope="col" class="{}">{}</th>').format(kind, text)
        for text, kind in zip(texts, classes, strict=True)
    )


def _cell(text: str, kind: str) -> Markup:
    place = text.find(" [")
    opened = Markup('<td class="{}">').format(kind) if kind else Markup("<td>")
    if place < 0:
        return opened + Markup("{}</td>").format(text)
    value, small = text[:place], text[place + 1 :]
    return opened + Markup("{}<small>{}</small></td>").format(value, small)
