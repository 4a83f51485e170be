"""What commands print through: one voice under torchrun."""

import os

from rich.console import Console
from rich.progress import Progress

console = Console(quiet=os.environ.get("RANK", "0") != "0")


def progress() -> Progress:
    """Return a display of bars for work whose parts are not known before."""
    return Progress(console=console)


def say(text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
