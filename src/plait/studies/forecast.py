"""What a study will take, said before it begins: runs, hours on this machine, disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.config import TrainConfig
from plait.config.counts import count
from plait.storage.run_folder import RunFolder
from plait.studies.plan import PlannedRun, planned_runs, tuned, tuning_runs
from plait.studies.study import Study
from plait.studies.throughput import Throughput, measure

WORTH_MEASURING = 2e12
"""training FLOPs of what waits, about a minute of a core: below it a look would cost more"""
MOST_TO_TRY = 5e12
"""training FLOPs of a step, about a minute of a core: a larger one is not tried"""
ASSUMED_FLOPS = 1e11
"""a second, of a machine on which no step was tried"""
LONG = 24 * 3600
"""seconds from which a study asks before it begins"""


@dataclass(frozen=True)
class Forecast:
    """At the most: a study with looks may stop sooner, and tuning may widen its grid."""

    runs: int
    tokens: int
    bytes: int
    """of the checkpoints that stay"""
    throughput: Throughput | None
    """None: nothing was measured, for it is a small study or no CPU trains it"""
    assumed: bool = False
    """the throughput is that of `ASSUMED_FLOPS`: a step is too large to be tried"""

    @property
    def jobs(self) -> int:
        """Runs at a time that are fastest here."""
        return 1 if self.throughput is None else min(self.throughput.jobs, max(1, self.runs))

    @property
    def seconds(self) -> float | None:
        """None where the speed is not known; scoring and start-up are not in it."""
        return None if self.throughput is None else self.tokens / self.throughput.best

    @property
    def runs_per_hour(self) -> float | None:
        """Runs of this study that the machine gets done in an hour."""
        return None if not self.seconds else 3600 * self.runs / self.seconds


def forecast(study: Study, root: Path, *, cpu: bool) -> Forecast:
    """Count what waits and, on a CPU, try a few steps of the baseline.

    Args:
        study: as it will be run.
        root: the folder of all studies.
        cpu: whether it will be trained on the processor.
    """
    waiting = waiting_runs(study, root)
    flops = sum(count(run.config.model).flops_training * run.tokens for run in waiting)
    speed, assumed = None, False
    if cpu and len(waiting) > 1 and flops > WORTH_MEASURING:
        baseline = study.variants[study.baseline]
        a_token = count(baseline.model).flops_training
        assumed = a_token * baseline.tokens_per_step > MOST_TO_TRY
        if assumed:
            speed = Throughput(1, ASSUMED_FLOPS / a_token, ASSUMED_FLOPS / a_token)
        else:
            speed = measure(baseline, root / study.name, len(waiting))
    return Forecast(
        runs=len(waiting),
        tokens=sum(run.tokens for run in waiting),
        bytes=sum(_bytes(run.config) for run in waiting),
        throughput=speed,
        assumed=assumed,
    )


def waiting_runs(study: Study, root: Path) -> Sequence[PlannedRun]:
    """Runs that are not finished; with tuning, those of results are not known by folder yet."""
    tuning, curves = tuning_runs(study, root)
    at_rates = tuned(study, curves)
    if at_rates is None:
        return [*_unfinished(tuning), *planned_runs(study, root)]
    return _unfinished(planned_runs(at_rates, root))


def _unfinished(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    return [run for run in runs if not RunFolder(run.folder).finished]


def _bytes(config: TrainConfig) -> int:
    """Weights and optimizer state in fp32: two moments with AdamW, about one with Muon."""
    state = 2 if config.optimizer.name == "adamw" else 1
    return 4 * count(config.model).stored * (1 + state)
