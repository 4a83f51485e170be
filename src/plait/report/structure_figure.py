"""The picture of a structure by depth: which depths share which bank, a row for each kind of part.

It is written as SVG by hand, so that an exported model has it without the extra `report`.
"""

from collections.abc import Iterator
from html import escape
from itertools import groupby

from plait.config import ModelConfig
from plait.report.palette import BAND, INK, MUTED, RULE, SERIES
from plait.sharing import KINDS, Plan

LABELS, CELL, ROW, EDGE = 190, 44, 46, 14
"""pixels: of the column of names, a depth, a row, and around it all"""
PER_LINE = 16
"""depths side by side; deeper models go on below"""


def structure_figure(config: ModelConfig) -> str:
    """Return the picture as SVG: depth from left to right, a colour for each bank that is shared.

    Neighbouring depths that share a bank stand in one box. A kind of part that a depth has none of
    leaves its place empty: a dense depth has no router, and no more has one that takes over the
    decision of an earlier one.
    """
    kinds = _drawn(config)
    starts = range(0, config.depth, PER_LINE)
    per_line = min(config.depth, PER_LINE)
    line = 34 + len(kinds) * ROW
    width, height = 2 * EDGE + LABELS + per_line * CELL, 2 * EDGE + len(starts) * line
    said = "; ".join(f"{kind}: {plan}" for kind, plan in kinds.items())
    marks = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(said, quote=True)}">',
        "<style>text{font:13px system-ui,-apple-system,'Segoe UI',Arial,sans-serif;"
        f"fill:{INK}}}.m{{fill:{MUTED};font-size:12px}}.b{{font-weight:600}}</style>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>',
    ]
    for number, start in enumerate(starts):
        depths = range(start, min(start + PER_LINE, config.depth))
        marks += _line(config, kinds, depths, EDGE + number * line)
    return "\n".join([*marks, "</svg>\n"])


def _drawn(config: ModelConfig) -> dict[str, Plan]:
    """The kinds that say something: the three that every model has, and others that are shared."""
    plans = {kind: getattr(config.plans, kind) for kind in KINDS}
    order = ("norms", "attention", "router", "decision", "collaboration", "experts")
    always = {"attention", "experts"}
    always |= {"router"} if config.routed_depths else set()
    always |= {"collaboration"} if config.collaboration is not None else set()
    return {
        kind: plans[kind]
        for kind in order
        if kind in always or plans[kind].count < plans[kind].depth
    }


def _line(config: ModelConfig, kinds: dict[str, Plan], depths: range, top: int) -> Iterator[str]:
    left = EDGE + LABELS
    yield f'<text x="{EDGE}" y="{top + 18}" class="m">depth</text>'
    for column, depth in enumerate(depths):
        x = left + (column + 0.5) * CELL
        yield f'<text x="{x:g}" y="{top + 18}" class="m" text-anchor="middle">{depth}</text>'
    for row, (kind, plan) in enumerate(kinds.items()):
        y = top + 30 + row * ROW
        text = str(plan) if len(str(plan)) <= 26 else f"{str(plan)[:25]}…"
        yield f'<text x="{EDGE}" y="{y + 15}" class="b">{kind}</text>'
        yield f'<text x="{EDGE}" y="{y + 31}" class="m">{escape(text)}</text>'
        yield from _row(config, kind, plan, depths, y)


def _row(config: ModelConfig, kind: str, plan: Plan, depths: range, y: int) -> Iterator[str]:
    where = {
        "every": tuple(range(config.depth)),
        "routed": config.routed_depths,
        "deciding": config.deciding_depths,
    }[KINDS[kind].where]
    shared = [bank for bank in range(plan.count) if len(plan.uses(bank)) > 1]
    for bank, group in groupby(depths, lambda depth: plan.banks[depth] if depth in where else None):
        together = list(group)
        if bank is None:
            continue
        x = EDGE + LABELS + (together[0] - depths.start) * CELL + 2
        wide = len(together) * CELL - 4
        fill, opacity, edge = BAND, 1.0, RULE
        if bank in shared:
            fill = edge = SERIES[shared.index(bank) % len(SERIES)]
            opacity = 0.16
        dense = kind == "experts" and config.experts_at(together[0]) == 1
        yield (
            f'<rect x="{x}" y="{y}" width="{wide}" height="{ROW - 8}" rx="5" fill="{fill}" '
            f'fill-opacity="{opacity}" stroke="{edge}" stroke-width="1.4"/>'
        )
        yield (
            f'<text x="{x + wide / 2:g}" y="{y + 24}" text-anchor="middle">'
            f"{'dense' if dense else bank}</text>"
        )
