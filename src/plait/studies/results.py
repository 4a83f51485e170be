"""What a study left on disk, read back: `study.json` and one folder per run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from plait.config import TrainConfig
from plait.config.files import load_json
from plait.reading import quoted
from plait.storage.result import Result
from plait.storage.run_folder import RunFolder
from plait.studies.contrasts import Contrast, against_baseline
from plait.studies.registration import deviations, digest, registered

STUDY = "study.json"
Floor = Literal["unigram", "bigram"]
FLOORS: tuple[Floor, ...] = ("unigram", "bigram")


@dataclass(frozen=True)
class _Planned:
    variant: str
    seed: int
    folder: str

    def __post_init__(self) -> None:
        plain = Path(self.folder).name == self.folder and "\0" not in self.folder
        if not plain or self.folder in ("", ".."):
            raise ValueError(f"{quoted(self.folder)} is no folder beside it")


@dataclass(frozen=True)
class _Header:
    """What `study.json` says, see `plait.studies.plan.write_plan`."""

    name: str
    description: str
    baseline: str
    margin: float
    runs: tuple[_Planned, ...]
    contrasts: tuple[Contrast, ...] = ()
    plan: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.baseline not in {run.variant for run in self.runs}:
            raise ValueError(f"the baseline {quoted(self.baseline)} has no run")
        if not 0 < self.margin < math.inf:
            raise ValueError(f"the margin is {self.margin}")
        variants = {run.variant for run in self.runs}
        for contrast in self.contrasts:
            for variant in (contrast.variant, contrast.against):
                if variant not in variants:
                    raise ValueError(f"contrast {quoted(contrast.name)}: {quoted(variant)} not run")


@dataclass(frozen=True)
class FinishedRun:
    """One finished run: its experiment, its result, and where its metrics are."""

    folder: Path
    variant: str
    seed: int
    config: TrainConfig
    result: Result

    def held_out(self, domain: str = "all", measure: str = "loss") -> float:
        """See `Result.held_out`."""
        return self.result.held_out(domain, measure)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of `metrics.jsonl`."""
        yield from RunFolder(self.folder).metrics()


@dataclass(frozen=True)
class StudyResults:
    """A study's finished runs in the order of its variants, and the runs that are not finished."""

    name: str
    description: str
    folder: Path
    baseline: str
    margin: float
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[FinishedRun, ...]
    contrasts: tuple[Contrast, ...]
    """the questions asked, each with its margin"""
    missing: tuple[str, ...] = ()
    plan: str | None = None
    """SHA-256 of the plan that was written before the first run; None: none was"""
    deviations: tuple[str, ...] = ()
    """where the study departs from that plan"""

    def of(self, variant: str) -> tuple[FinishedRun, ...]:
        """The variant's finished runs, by seed."""
        return tuple(sorted((r for r in self.runs if r.variant == variant), key=lambda r: r.seed))

    def measured(
        self, variant: str, domain: str = "all", measure: str = "loss"
    ) -> dict[int, float]:
        """Seed → the measure on the test split."""
        return {run.seed: run.held_out(domain, measure) for run in self.of(variant)}

    def floor(self, kind: Floor, domain: str = "all", measure: str = "loss") -> float | None:
        """The measure that counting scores on the test split, mean over runs; None: no run has it.

        See `plait.evaluation.floors`. Runs differ in it only by the order of their text.
        """
        counted = [
            run.result.floors[kind][domain][measure]
            for run in self.runs
            if run.result.floors and domain in run.result.floors[kind]
        ]
        return math.fsum(counted) / len(counted) if counted else None

    @property
    def finished_variants(self) -> tuple[str, ...]:
        """Variants with at least one finished run."""
        return tuple(name for name in self.variants if self.of(name))

    @property
    def domains(self) -> tuple[str, ...]:
        """Held-out domains, without the pooled "all"."""
        names = {d: None for run in self.runs for d in run.result.domains}
        return tuple(name for name in names if name != "all")


def read_study(folder: Path) -> StudyResults:
    """Read a study folder.

    Raises FileNotFoundError where there is no study, ValueError where a file of it is damaged.
    """
    path = folder / STUDY
    if not path.exists():
        raise FileNotFoundError(
            f"no study in {folder} (no study.json): run `plait study run` first"
        )
    header = load_json(_Header, path, "delete it and run again")
    plan = registered(folder)
    variants = tuple(dict.fromkeys(planned.variant for planned in header.runs))
    asked = header.contrasts or against_baseline(header.baseline, variants)
    runs, missing = [], []
    for planned in header.runs:
        run = RunFolder(folder / planned.folder)
        result = run.result()
        if result is None:
            missing.append(planned.folder)
        elif not math.isfinite(result.held_out()):
            missing.append(f"{planned.folder} (its held-out loss is not a number)")
        else:
            who = planned.variant, planned.seed
            runs.append(FinishedRun(run.path, *who, run.config(), result))
    return StudyResults(
        name=header.name,
        description=header.description,
        folder=folder,
        baseline=header.baseline,
        margin=header.margin,
        variants=variants,
        seeds=tuple(dict.fromkeys(planned.seed for planned in header.runs)),
        runs=tuple(runs),
        contrasts=tuple(replace(c, margin=c.margin or header.margin) for c in asked),
        missing=tuple(missing),
        plan=None if plan is None else digest(plan),
        deviations=() if plan is None else deviations(plan, header.plan),
    )
