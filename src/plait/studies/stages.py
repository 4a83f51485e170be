"""What a study does next: a function of the study and of what lies on the disk, and nothing else.

So a study that was killed goes on as if it had not been, and several launchers agree.
"""

from dataclasses import dataclass
from pathlib import Path

from plait.storage.run_folder import RunFolder
from plait.studies.answers import answers
from plait.studies.plan import PlannedRun, planned_runs, tuned, tuning_runs, write_plan
from plait.studies.results import read_study
from plait.studies.study import Study

TUNING, ALL = "tuning", "all seeds"


@dataclass(frozen=True)
class Stage:
    """Runs that need nothing of one another: tuning, or the seeds up to a look."""

    name: str
    runs: tuple[PlannedRun, ...]

    @property
    def waiting(self) -> list[PlannedRun]:
        """Those that have neither ended nor diverged in tuning, where that is an answer too."""
        return [run for run in self.runs if not _is_known(run)]


def next_stage(study: Study, root: Path) -> Stage:
    """Write what the study means now, and return the first stage in which a run is waiting.

    Where none is, all is trained, or every question was decided at a look.

    Raises:
        ValueError: a variant diverged at every rate of the grid.
    """
    planned, curves = tuning_runs(study, root)
    stage = Stage(TUNING, tuple(planned))
    if stage.waiting:
        write_plan(study, root, runs=[])
        return stage
    at_rates = tuned(study, curves)
    if at_rates is None:
        lost = [curve.variant for curve in curves if curve.learning_rate is None]
        raise ValueError(
            f"study {study.name}: {', '.join(lost)} diverged at every rate of the grid: begin it "
            "lower"
        )
    for look in study.looks or (len(study.seeds),):
        runs = planned_runs(at_rates, root, study.seeds[:look])
        write_plan(study, root, runs)
        stage = Stage(f"the first {look} seeds" if study.looks else ALL, tuple(runs))
        if stage.waiting:
            break
        if study.looks and all(a.decided for a in answers(read_study(root / study.name))):
            break
    return stage


def _is_known(run: PlannedRun) -> bool:
    folder = RunFolder(run.folder)
    return folder.finished or (run.tunes and folder.diverged)
