"""What commands print through: one voice under torchrun."""

import os

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

console = Console(quiet=os.environ.get("RANK", "0") != "0")


def progress() -> Progress:
    """Return a display of bars for work whose parts are not known before."""
    return Progress(console=console)


def say(text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def say_rows(table: Table) -> None:
    """Print a table with each row on one line, however long: names are copied, or searched for."""
    unbounded = console.options.update(max_width=10_000)
    table.width = console.measure(table, options=unbounded).maximum
    console.print(table, crop=False)
