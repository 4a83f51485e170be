"""What a study can resolve, in the terminal."""

from collections.abc import Sequence

from rich.console import Console
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
        first = known[0]
        heads = [
            ["σ of the difference", f"{first.seeds} seeds detect", "seeds for a", "seeds for", ""],
            ["nats/token", "nats/token", "difference of", "equality within", "minutes"],
            ["", "", f"{_same(known, 'effect')} nats", f"{_same(known, 'margin')} nats", "a seed"],
        ]
        rows = [_row(one) for one in known]
        widths = [max(map(len, column)) for column in zip(*heads, *rows, strict=True)]
        for cells in heads:
            console.print(Text(_aligned(cells, widths), style="dim"))
        for one, cells in zip(known, rows, strict=True):
            console.print(Text(one.contrast.name))
            console.print(Text(_aligned(cells, widths)))
        console.print(
            Text(
                f"80 % power, 5 % after the correction for {len(found)} questions; σ from the "
                f"{_pairs(known)} pairs of {pilot}, its 95 % interval and what that means for the "
                "seeds in brackets.",
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


def _row(one: Resolution) -> list[str]:
    assert one.deviation is not None
    assert one.seconds is not None
    sigma = one.deviation
    return [
        f"{number(sigma.value)} ({number(sigma.low or 0)}–{number(sigma.high or 0)})",
        "–" if one.smallest is None else number(one.smallest),
        _seeds(one.for_effect),
        _seeds(one.for_equivalence),
        f"{one.seconds / 60:.1f}",
    ]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _pairs(found: Sequence[Resolution]) -> str:
    counts = sorted({one.deviation.n for one in found if one.deviation is not None})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"


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
