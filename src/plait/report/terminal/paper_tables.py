"""A paper in the terminal: how its claims came out, and what it would cost as published."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from plait.report.numbers import quantity
from plait.report.paper.paper_page import Shown
from plait.studies.price import GPU, UTILISATION, Price


def claims_table(claims: Sequence[Shown]) -> Table:
    """Return a row for each claim."""
    made = Table(box=None, header_style="dim", padding=(0, 1), show_edge=False)
    for title in ("claim", "outcome", "what came out", "the paper"):
        made.add_column(title, overflow="fold")
    for claim in claims:
        said = "\n".join(claim.tested) or claim.reason
        made.add_row(
            *map(Text, (f"{claim.name}: {claim.statement}", claim.outcome)), said, claim.published
        )
    return made


def price_table(prices: Sequence[Price]) -> Table:
    """Return a row for each study, nothing of which was measured."""
    about = f"hours of one {GPU} at {UTILISATION:.0%} of its peak, which is assumed"
    made = Table(box=None, header_style="dim", padding=(0, 1), show_edge=False, caption=about)
    made.add_column("study")
    for title in ("runs", "tokens", "FLOPs", "GPU-hours"):
        made.add_column(title, justify="right")
    for one in prices:
        hours = f"{one.gpu_hours:,.0f}"
        made.add_row(one.study, str(one.runs), quantity(one.tokens), f"{one.flops:.2e}", hours)
    return made
