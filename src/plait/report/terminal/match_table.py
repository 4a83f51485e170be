"""How near a matched control comes to what was wanted, and what changed for it."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from plait.config.matching import Match
from plait.report.numbers import signed

LABELS = {
    "stored": "stored parameters",
    "active": "active parameters per token",
    "flops": "FLOPs per token, forward",
    "kv": "key/value cache per token in bf16, bytes",
}


def match_summary(name: str, to: str, found: Match) -> Group:
    """Return all budgets, wanted and found, and the fields before and after."""
    costs = Table("budget", "", title=f"{name}, matched to {to}", box=None, header_style="dim")
    for column in ("wanted", "found", "residual"):
        costs.add_column(column, justify="right")
    for budget, residual in found.residuals.items():
        costs.add_row(
            budget,
            LABELS[budget] + ("" if budget in found.equal else " (not held)"),
            f"{found.wanted[budget]:,}",
            f"{found.found[budget]:,}",
            f"{signed(100 * residual, 2)} %",
            style=None if budget in found.equal else "dim",
        )
    if not found.changes:
        return Group(costs, Text(), Text("nothing has to change"))
    changes = Table("field", box=None, header_style="dim")
    for column in ("before", "after"):
        changes.add_column(column, justify="right")
    for path, (before, after) in found.changes.items():
        changes.add_row(path, f"{before:,}", f"{after:,}")
    return Group(costs, Text(), changes)
