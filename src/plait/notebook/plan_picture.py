"""Banks over depth as a picture: which depths share which bank."""

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

DRAWN = 128
"""depths that are drawn at the most"""
_CELL, _ROW, _BOX, _AIR = 30.0, 28, 20, 3
_WIDEST = 640.0
"""pixels of all depths together"""
_COLOURS = ("#3d93d6", "#e08a1e", "#1f9f78", "#c86aa8", "#8f7de0", "#d9573a", "#a3942a")
"""of banks that are shared: half light and half dark, for either ground"""


class Row(NamedTuple):
    """A plan to draw: the part that it is of, the bank of each depth, and its text."""

    name: str
    banks: Sequence[int]
    text: str


def plan_picture(rows: Sequence[Row]) -> str:
    """Draw plans of one depth below each other, as inline SVG.

    Neighbouring depths with one bank are one box. A bank that several depths share has a colour,
    one of a single depth has none.

    Args:
        rows: at least one; up to `DRAWN` depths are drawn, of a deeper model only the texts.
    """
    depth = len(rows[0].banks)
    if depth > DRAWN:
        return "".join(f"<div>{escape(f'{row.name} {row.text}'.strip())}</div>" for row in rows)
    cell = min(_CELL, _WIDEST / depth)
    left = 8 + 7 * max(len(row.name) for row in rows)
    right = left + cell * depth
    width = right + 16 + 7.5 * max(len(row.text) for row in rows)
    height = 18 + _ROW * len(rows)
    drawn = [*_axis(depth, cell, left)]
    for number, row in enumerate(rows):
        top = 18 + _ROW * number
        drawn.append(_text(left - 10, top + 14, row.name, "end"))
        drawn += _boxes(row, cell, left, top)
        drawn.append(_text(right + 10, top + 14, row.text, "start", quiet=True))
    said = "; ".join(f"{row.name} {row.text}".strip() for row in rows)
    return (
        f'<svg role="img" aria-label="{escape(f"banks over depth: {said}")}" '
        f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" '
        'style="max-width: 100%; font: 12px system-ui, sans-serif" '
        'fill="currentColor" xmlns="http://www.w3.org/2000/svg">' + "".join(drawn) + "</svg>"
    )


def _axis(depth: int, cell: float, left: float) -> Iterator[str]:
    """Number the depths, as many as there is room for."""
    step = next(s for s in (1, 2, 5, 10, 20, 50) if s * cell >= 25)
    for at in range(0, depth, step):
        yield _text(left + cell * (at + 0.5), 11, str(at), "middle", quiet=True)


def _boxes(row: Row, cell: float, left: float, top: float) -> Iterator[str]:
    uses = Counter(row.banks)
    shared = [bank for bank in dict.fromkeys(row.banks) if uses[bank] > 1]
    air = min(_AIR, cell / 5)
    start = 0
    for bank, run in groupby(row.banks):
        length = len(list(run))
        x, width = left + cell * start + air / 2, cell * length - air
        colour = "currentColor"
        if bank in shared:
            colour = _COLOURS[shared.index(bank) % len(_COLOURS)]
        look = 'fill-opacity="0.3"' if bank in shared else 'fill-opacity="0" stroke-opacity="0.35"'
        depths = f"depth {start}" if length == 1 else f"depths {start} to {start + length - 1}"
        yield (
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BOX}" rx="4" '
            f'fill="{colour}" stroke="{colour}" {look}><title>{depths}: bank {bank}</title></rect>'
        )
        if width >= 8 * len(str(bank)) + 4:
            yield _text(x + width / 2, top + 14, str(bank), "middle", quiet=bank not in shared)
        start += length


def _text(x: float, y: float, text: str, anchor: str, quiet: bool = False) -> str:
    if not text:
        return ""
    look = ' fill-opacity="0.65"' if quiet else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{look}>{escape(text)}</text>'
