"""What a study can resolve, in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plait.report.numbers import number
from plait.studies.planning import Resolution, Seeds


def show(found: Sequence[Resolution], pilot: str, console: Console) -> None:
    """Print a line per contrast, and plainly where the planned seeds cannot answer it."""
    if not found:
        console.print(
            Text("The study asks no contrasts, and effects of a design have no table here.")
        )
    known = [one for one in found if one.deviation is not None]
    if known:
        table = Table(box=None, header_style="dim", padding=(0, 1), show_edge=False)
        for title in (
            "\nquestion",
            "σ of the difference\nnats/token",
            f"{known[0].seeds} seeds detect\nnats/token",
            f"seeds for a difference\nof {_same(known, 'effect')} nats",
            f"seeds for equality\nwithin {_same(known, 'margin')} nats",
            "minutes\na seed",
        ):
            table.add_column(title, justify="left" if "question" in title else "right")
        for one in known:
            assert one.deviation is not None
            assert one.seconds is not None
            sigma = one.deviation
            table.add_row(
                one.contrast.name,
                f"{number(sigma.value)} ({number(sigma.low or 0)}–{number(sigma.high or 0)}, "
                f"{sigma.n} pairs)",
                "–" if one.smallest is None else number(one.smallest),
                _seeds(one.for_effect),
                _seeds(one.for_equivalence),
                f"{one.seconds / 60:.1f}",
            )
        console.print(table)
        console.print(
            Text(
                f"80 % power, 5 % after the correction for {len(found)} questions; σ from {pilot}, "
                "its 95 % interval and what that means for the seeds in brackets.",
                style="dim",
            )
        )
    for one in found:
        if one.can_answer is None:
            console.print(Text(f"{one.contrast.name}: {pilot} has no two pairs to judge by."))
        elif not one.can_answer:
            console.print(
                Text(
                    f"{one.contrast.name}: {one.seeds} seeds cannot answer it: they would neither "
                    f"detect {one.effect:g} nats per token nor show equality within "
                    f"±{one.margin:g}.",
                    style="yellow",
                )
            )


def _same(found: Sequence[Resolution], what: str) -> str:
    values = {getattr(one, what) for one in found}
    return f"{values.pop():g}" if len(values) == 1 else "its margin,"


def _seeds(needed: Seeds | None) -> str:
    if needed is None:
        return "–"
    low, high = (_count(n) for n in (needed.low, needed.high))
    return f"{_count(needed.value)} ({low}–{high})"


def _count(seeds: int | None) -> str:
    return "over 1000" if seeds is None else str(seeds)
