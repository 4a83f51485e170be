"""The comparison in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plait.report.numbers import number, p_value, quantity, reach, signed
from plait.report.study.design_words import study_headline
from plait.report.study.wording import row_words
from plait.report.terminal.design_tables import design_tables
from plait.report.terminal.tuning_table import tuning_table
from plait.statistics import Estimate
from plait.studies.answers import LEAST_SEEDS
from plait.studies.results import FLOORS, read_study
from plait.studies.tables import Row, comparison_table

_MEASURED = (
    "held-out loss\nnats/token",
    "difference\nnats/token",
    "bits/\nbyte",
    "parameters\nstored",
)
_WIDE = (
    "parameters\nactive",
    "training\nFLOPs/token",
    "tokens\nseen",
    "gate\nmass",
    "\nperplexity",
)


def show(study_folder: Path, console: Console | None = None) -> None:
    """Print a study's result in words and as a table, as far as its runs are finished.

    A narrow terminal leaves out columns that the report has.

    Raises FileNotFoundError where the folder holds no study, ValueError where a file is damaged.
    """
    console = console or Console()
    study = read_study(study_folder)
    rows = comparison_table(study)
    said = study_headline(study)
    console.print(Text(f"\n{said.title}", style="bold"))
    for sentence in said.sentences:
        console.print(Text(sentence))
    if rows:
        wide = console.width >= 130
        table = Table(box=None, header_style="dim", padding=(0, 1), show_edge=False)
        table.add_column("\nvariant", overflow="fold")
        for title in _MEASURED + (_WIDE if wide else ()):
            table.add_column(title, justify="right")
        table.add_column(f"against\n{study.compared_with}")
        lowest = min(row.loss.value for row in rows)
        for row in rows:
            best = "bold" if row.loss.value == lowest and len(row.seeds) >= LEAST_SEEDS else ""
            difference = row.difference.estimate if row.difference else None
            further = (
                quantity(row.active),
                quantity(row.training_flops),
                quantity(row.tokens),
                "–" if row.gate_mass is None else number(row.gate_mass, 2),
                number(row.perplexity.value, 2),
            )
            table.add_row(
                Text(row.variant, style=best),
                Text(_with_reach(row.loss), style=best),
                "–" if difference is None else signed(difference.value) + _reach(difference),
                number(row.bits_per_byte["all"].value),
                quantity(row.stored),
                *(further if wide else ()),
                _verdict(row, wide),
            )
        for kind in FLOORS:
            if (loss := study.floor(kind)) is not None:
                table.add_row(f"({kind} counts)", number(loss), style="dim")
        console.print()
        console.print(table)
        if any(row.loss.low is not None for row in rows):
            console.print(Text("± is half the 95 % interval over seeds.", style="dim"))
        for more in design_tables(study):
            console.print(more)
    if study.tuning:
        console.print(tuning_table(study.tuning))
    if study.plan is None:
        console.print(Text("No plan was written before the first run.", style="dim"))
    for said_so in study.deviations:
        console.print(Text(f"Not as planned: {said_so}", style="yellow"))
    for name in study.missing:
        console.print(Text(f"not finished: {name}", style="yellow"))


def _verdict(row: Row, wide: bool) -> str:
    p = row.answer.p if row.answer is not None else None
    return row_words(row) + (f", {p_value(p)}" if wide and p is not None else "")


def _with_reach(estimate: Estimate) -> str:
    return number(estimate.value) + _reach(estimate)


def _reach(estimate: Estimate) -> str:
    text = reach(estimate)
    return f" {text}" if text else ""
