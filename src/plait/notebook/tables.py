"""Small tables and captions as HTML."""

from collections.abc import Iterable, Sequence
from html import escape

_LEFT, _RIGHT = ' style="text-align: left"', ' style="text-align: right"'


def titled(title: str, *parts: str) -> str:
    """Put a title above parts that are HTML already; empty ones are left out."""
    return "".join([f"<div><strong>{escape(title)}</strong></div>", *filter(None, parts)])


def note(text: str) -> str:
    """Return a line of small print; nothing where there is no text."""
    return f'<div style="font-size: 90%; opacity: 0.75">{escape(text)}</div>' if text else ""


def table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """Return rows of text as a table: what names a row stands left, its figures right."""

    def cells(row: Sequence[str], tag: str) -> str:
        sides = [_LEFT] + [_RIGHT] * (len(row) - 1)
        each = zip(row, sides, strict=True)
        return "".join(f"<{tag}{side}>{escape(text)}</{tag}>" for text, side in each)

    head = f"<thead><tr>{cells(heads, 'th')}</tr></thead>" if heads else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"
