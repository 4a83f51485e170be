"""Banks over depth as a picture: which depths share which bank.

It is written as SVG by hand, so that it needs no package, in a notebook or beside a model.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

DRAWN = 128
"""depths that are drawn at the most in one line"""
_CELL, _ROW, _BOX, _AIR, _AXIS, _EDGE = 30.0, 28, 20, 3, 18, 14
_GAP = 10
"""pixels between lines"""
_WIDEST = 704.0
"""pixels of all depths of a line together"""
_COLOURS = ("#3d93d6", "#e08a1e", "#1f9f78", "#c86aa8", "#8f7de0", "#d9573a", "#a3942a")
"""of banks that are shared: half light and half dark, for either ground"""


class Row(NamedTuple):
    """A plan to draw: the part that it is of, the bank of each depth, and its text.

    A depth that has none of the part has the bank None; `words` stand in the place of numbers.
    """

    name: str
    banks: Sequence[int | None]
    text: str
    words: Mapping[int, str] | None = None


class Paper(NamedTuple):
    """What a picture that stands alone is drawn on: colours, and the pixels that a depth has."""

    ink: str
    ground: str
    cell: float = 44.0


def plan_picture(
    rows: Sequence[Row], per_line: int | None = None, paper: Paper | None = None
) -> str:
    """Draw plans of one depth below each other, as SVG.

    Neighbouring depths with one bank are one box. A bank that several depths share has a colour,
    one of a single depth has none.

    Args:
        rows: at least one.
        per_line: depths side by side, a deeper model goes on below; None: all of them, or, of a
            model of more than `DRAWN`, only the texts.
        paper: that it is drawn on; None: what it stands in has ink and ground.
    """
    depth = len(rows[0].banks)
    if per_line is None and depth > DRAWN:
        return "".join(f"<div>{escape(f'{row.name} {row.text}'.strip())}</div>" for row in rows)
    edge = _EDGE if paper else 0
    per_line = min(depth, per_line or depth)
    cell = min(paper.cell if paper else _CELL, _WIDEST / per_line)
    left = edge + 8 + 7 * max(len(row.name) for row in rows)
    right = left + cell * per_line
    width = right + 16 + 7.5 * max(len(row.text) for row in rows) + edge
    starts, line = range(0, depth, per_line), _AXIS + _ROW * len(rows) + _GAP
    height = 2 * edge + line * len(starts) - _GAP
    drawn = [f'<rect width="100%" height="100%" fill="{paper.ground}"/>'] if paper else []
    for number, start in enumerate(starts):
        depths, top = range(start, min(start + per_line, depth)), edge + line * number
        drawn += _axis(depths, cell, left, top)
        for place, row in enumerate(rows):
            y = top + _AXIS + _ROW * place
            drawn.append(_text(left - 10, y + 14, row.name, "end"))
            drawn += _boxes(row, depths, cell, left, y)
            drawn.append(_text(right + 10, y + 14, row.text, "start", quiet=True))
    said = "; ".join(f"{row.name} {row.text}".strip() for row in rows)
    ink = f"; color: {paper.ink}" if paper else ""
    return (
        f'<svg role="img" aria-label="{escape(f"banks over depth: {said}")}" '
        f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" '
        f'style="max-width: 100%; font: 12px system-ui, sans-serif{ink}" '
        'fill="currentColor" xmlns="http://www.w3.org/2000/svg">' + "".join(drawn) + "</svg>"
    )


def _axis(depths: range, cell: float, left: float, top: float) -> Iterator[str]:
    """Number the depths, as many as there is room for."""
    step = next(s for s in (1, 2, 5, 10, 20, 50) if s * cell >= 25)
    for depth in depths[::step]:
        middle = left + cell * (depth - depths.start + 0.5)
        yield _text(middle, top + 11, str(depth), "middle", quiet=True)


def _boxes(row: Row, depths: range, cell: float, left: float, top: float) -> Iterator[str]:
    uses = Counter(row.banks)
    shared = [bank for bank in dict.fromkeys(row.banks) if uses[bank] > 1 and bank is not None]
    air = min(_AIR, cell / 5)
    for bank, run in groupby(depths, lambda depth: row.banks[depth]):
        first, *more = run
        if bank is None:
            continue
        x = left + cell * (first - depths.start) + air / 2
        width = cell * (1 + len(more)) - air
        colour = "currentColor"
        if bank in shared:
            colour = _COLOURS[shared.index(bank) % len(_COLOURS)]
        look = 'fill-opacity="0.3"' if bank in shared else 'fill-opacity="0" stroke-opacity="0.35"'
        where = f"depths {first} to {more[-1]}" if more else f"depth {first}"
        yield (
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BOX}" rx="4" '
            f'fill="{colour}" stroke="{colour}" {look}><title>{where}: bank {bank}</title></rect>'
        )
        word = (row.words or {}).get(bank, str(bank))
        if width >= 7 * len(word) + 4:
            yield _text(x + width / 2, top + 14, word, "middle", quiet=bank not in shared)


def _text(x: float, y: float, text: str, anchor: str, quiet: bool = False) -> str:
    if not text:
        return ""
    look = ' fill-opacity="0.65"' if quiet else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{look}>{escape(text)}</text>'
