"""What a study will take and can resolve, before it begins."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from plait.report.numbers import quantity, size
from plait.report.terminal.power_table import show
from plait.studies.forecast import Forecast
from plait.studies.planning import resolutions
from plait.studies.results import STUDY, read_study
from plait.studies.study import Study


def say_forecast(
    study: Study, expected: Forecast, root: Path, pilot: str | None, jobs: int, console: Console
) -> None:
    """Print runs, hours and bytes, and the power where a pilot tells the deviation.

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
                else f" ({expected.runs_per_hour:.0f} runs an hour, {jobs} at a time)"
            )
        console.print(Text(f"{said}, {size(expected.bytes)} of disk when done"), soft_wrap=True)
    folder = root / (pilot or study.name)
    if pilot is None and not (folder / STUDY).is_file():
        return
    found = resolutions(read_study(folder), study.questions, len(study.seeds))
    if pilot is not None or any(one.deviation is not None for one in found):
        show(found, f"study {folder.name}", console)


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {seconds / 3600:.1f} hours"
