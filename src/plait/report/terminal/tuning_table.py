"""The learning rate of each variant and how it was chosen: for terminal and page."""

import math

from rich.table import Table

from plait.report.numbers import number
from plait.studies.tuning import TuningCurve

WORDS = {
    "running": "not chosen yet",
    "tuned": "lowest inside the grid",
    "not tuned": "not tuned: lowest at the edge",
}


def tuning_table(curves: tuple[TuningCurve, ...]) -> Table:
    """A row per variant: its rate, the mean validation loss at each rate, what became of it."""
    rates = sorted({rate for curve in curves for rate in curve.losses})
    table = Table(box=None, header_style="dim", padding=(0, 1), show_edge=False)
    table.add_column("variant", overflow="fold")
    table.add_column("rate chosen", justify="right")
    for rate in rates:
        table.add_column(f"at {rate:g}", justify="right")
    table.add_column("outcome")
    for curve in curves:
        means = curve.means
        table.add_row(
            curve.variant,
            "–" if curve.learning_rate is None else f"{curve.learning_rate:g}",
            *(_loss(means.get(rate)) for rate in rates),
            WORDS[curve.state],
        )
    return table


def _loss(value: float | None) -> str:
    if value is None:
        return "–"
    return number(value) if math.isfinite(value) else "diverged"
