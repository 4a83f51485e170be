"""Commands on studies: the main job."""

from pathlib import Path
from typing import Literal

from plait import recipes
from plait.cli.output import console, say

RUNS = Path("runs")


def study_list() -> None:
    """List the studies that have a name: their variants, seeds and tokens."""
    from plait.report.terminal.recipe_tables import studies_table

    console.print(studies_table({name: recipes.study(name) for name in recipes.STUDIES}))


def study_run(name: str, /, runs: Path = RUNS, jobs: int = 1, device: str | None = None) -> int:
    """Train every run of a study that is not finished yet.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
        jobs: processes at a time; the processor's threads are divided among them.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    from plait.cli.data import ensure_corpus
    from plait.studies.runner import run

    study = recipes.study(name)
    for corpus in dict.fromkeys(c.data.corpus for c in study.variants.values()):
        ensure_corpus(corpus)
    return run(study, runs, jobs=jobs, device=device, console=console).exit_code


def study_show(name: str, /, runs: Path = RUNS) -> None:
    """Print the table of a study, as far as it has come.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
    """
    from plait.report.terminal.study_table import show

    show(runs / _name(name), console)


def study_report(
    name: str,
    /,
    runs: Path = RUNS,
    out: Path | None = None,
    figures: tuple[Literal["svg", "png", "pdf"], ...] = (),
    routing_tokens: int = 20_000,
    device: str | None = None,
) -> None:
    """Write the report of a study: one HTML file that needs no network.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
        out: the HTML file; by default report.html in the study's folder.
        figures: also write every figure in these formats.
        routing_tokens: held-out tokens traced for the section on routing; 0: no such section.
        device: that the traced models run on, as torch names it; None: CUDA where there is one,
            else the CPU.
    """
    from plait.report.study.routing_section import study_section
    from plait.report.study.study_report import write_report

    folder = runs / _name(name)
    with console.status("routing"):
        section = study_section(folder, routing_tokens, device) if routing_tokens else None
    sections = [section] if section is not None else []
    path = write_report(folder, out, sections=sections, figure_formats=figures)
    say(f"report: {path}")


def _name(name: str) -> str:
    return recipes.study(name).name if ".py:" in name else name
