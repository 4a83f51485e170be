"""What a study will take and can resolve, before it begins."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from plait.report.numbers import quantity, size
from plait.report.terminal.power_table import show
from plait.statistics import seeds_for_equivalence, smallest_effect
from plait.studies.answers import LEAST_SEEDS, LEVEL
from plait.studies.forecast import Forecast
from plait.studies.planning import MOST_SEEDS, POWER, resolutions
from plait.studies.results import STUDY, read_study
from plait.studies.study import Study


def say_forecast(
    study: Study,
    expected: Forecast,
    root: Path,
    pilot: str | None,
    jobs: int,
    console: Console,
    assumed: float | None = None,
) -> None:
    """Print runs, hours and bytes, and the power where the deviation is known.

    It is told by a pilot; without one `assumed` is taken, in nats per token of a paired difference,
    which says nothing of a factorial design's effects.

    Raises:
        FileNotFoundError: there is no pilot of that name.
    """
    if expected.runs:
        said = f"study {study.name}: {expected.runs} runs of "
        said += f"{quantity(expected.tokens / expected.runs)} tokens"
        if expected.seconds is not None and expected.runs_per_hour is not None:
            said += f", {_time(expected.seconds)} on this machine"
            said += (
                " (at 100 GFLOP/s, which is assumed)"
                if expected.assumed
                else f" ({_rate(expected.runs_per_hour)}, {jobs} at a time)"
            )
        console.print(
            Text(f"{said}, {size(expected.bytes)} of checkpoints when done"), soft_wrap=True
        )
    folder = root / (pilot or study.name)
    if pilot is not None or (folder / STUDY).is_file():
        found = resolutions(read_study(folder), study.questions, len(study.seeds))
        if pilot is not None or any(one.deviation is not None for one in found):
            show(found, f"study {folder.name}", console)
            return
    if assumed is not None and study.questions and len(study.seeds) > 1:
        console.print(Text(_at_deviation(study, assumed)), soft_wrap=True)


def _at_deviation(study: Study, deviation: float) -> str:
    """What seeds and questions come to at one deviation, nats per token."""
    seeds, asked = len(study.seeds), study.questions
    level = LEVEL / len(asked)
    detected = smallest_effect(deviation, seeds, POWER, level)
    margin = min(question.margin or study.margin for question in asked)
    needed = seeds_for_equivalence(margin, deviation, POWER, level, LEAST_SEEDS, MOST_SEEDS)
    return (
        f"At σ = {deviation:g} nats of a paired difference, as such runs had it before, "
        f"{seeds} seeds detect {detected:.3f} nats; equality within ±{margin:g} takes "
        f"{needed or f'over {MOST_SEEDS}'} seeds (80 % power, {len(asked)} "
        f"question{'s' if len(asked) > 1 else ''})."
    )


def _rate(runs_per_hour: float) -> str:
    if runs_per_hour < 1.5:
        return f"{24 * runs_per_hour:.2g} runs a day"
    return f"{runs_per_hour:.0f} runs an hour"


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {seconds / 3600:.1f} hours"
