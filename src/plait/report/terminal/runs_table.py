"""The runs on the disk, as a table."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from plait.report.numbers import number, quantity, size
from plait.storage.run_listing import FoundRun

_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "damaged": "red"}


def runs_table(runs: Sequence[FoundRun]) -> Table:
    """Return a row for each run: state, held-out loss, tokens, size, and its folder."""
    table = Table("state", box=None, header_style="dim")
    for column in ("loss,\nnats/token", "tokens", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("study/run", no_wrap=True)
    for run in runs:
        tokens = quantity(run.tokens)
        if run.tokens < run.tokens_planned:
            tokens += f" of {quantity(run.tokens_planned)}"
        table.add_row(
            Text(run.state, style=_STYLES.get(run.state, "")),
            "–" if run.loss is None else number(run.loss),
            tokens,
            size(run.bytes),
            Text(f"{run.study}/{run.folder.name}"),
        )
    table.add_row(
        "", "", "", size(sum(run.bytes for run in runs)), f"{len(runs)} run{'s' * (len(runs) != 1)}"
    )
    return table
