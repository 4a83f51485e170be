"""What a study left on disk, read back: `study.json` and one folder per run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from plait.config import TrainConfig
from plait.config.files import load_json
from plait.notebook.tables import note, table, titled
from plait.reading import quoted
from plait.statistics import Estimate, Looks, mean_interval, paired_difference
from plait.storage.result import Result
from plait.storage.run_folder import RunFolder
from plait.studies.contrasts import Contrast, default_contrasts
from plait.studies.factorial import FactorialDesign
from plait.studies.ladder import LadderDesign
from plait.studies.registration import deviations, digest, registered
from plait.studies.run_rows import data_frame, differing_options, run_measures
from plait.studies.tuning import Tuning, TuningCurve, tuning_curve

STUDY = "study.json"
Floor = Literal["unigram", "bigram"]
FLOORS: tuple[Floor, ...] = ("unigram", "bigram")


@dataclass(frozen=True, kw_only=True)
class _Planned:
    variant: str
    seed: int
    folder: str
    learning_rate: float = 0.0

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
    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    looks: tuple[int, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    tuning: Tuning | None = None
    tuning_runs: tuple[_Planned, ...] = ()
    plan: dict[str, Any] = field(default_factory=dict)
    factorial: FactorialDesign | None = None
    ladder: LadderDesign | None = None

    def __post_init__(self) -> None:
        if self.baseline not in self.all_variants:
            raise ValueError(f"the baseline {quoted(self.baseline)} is not among the variants")
        if not 0 < self.margin < math.inf:
            raise ValueError(f"the margin is {self.margin}")
        for contrast in self.contrasts:
            for variant in (contrast.variant, contrast.against):
                if variant not in self.all_variants:
                    raise ValueError(f"contrast {quoted(contrast.name)}: no {quoted(variant)}")
        if self.looks:
            Looks(self.looks)
        variants = set(self.all_variants)
        if self.factorial is not None and set(self.factorial.cells) != variants:
            raise ValueError("the cells of the factorial design are not the study's variants")
        if self.ladder is not None:
            others = {self.ladder.same_size(name) for name in self.ladder.rungs}
            if set(self.ladder.rungs) != variants or not others <= variants:
                raise ValueError("the rungs of the ladder are not the study's variants")

    @property
    def all_variants(self) -> tuple[str, ...]:
        """In order; an earlier version wrote the runs only."""
        return self.variants or tuple(dict.fromkeys(run.variant for run in self.runs))


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
    looks: tuple[int, ...] = ()
    """numbers of seeds at which it stops where all is decided; none: it is not looked at before"""
    tuning: tuple[TuningCurve, ...] = ()
    """how each variant's learning rate was chosen; none: it was not"""
    factorial: FactorialDesign | None = None
    """factors, levels and cells of a factorial study"""
    ladder: LadderDesign | None = None
    """sizes and rungs of a study on a ladder"""

    def reference(self, variant: str) -> str:
        """The variant that this one is compared with: the baseline, on a ladder of its size."""
        return self.baseline if self.ladder is None else self.ladder.same_size(variant)

    @property
    def compared_with(self) -> str:
        """What `reference` is, in words."""
        return self.baseline if self.ladder is None else f"{self.ladder.baseline}, same size"

    def of(self, variant: str) -> tuple[FinishedRun, ...]:
        """The variant's finished runs, by seed."""
        return tuple(sorted((r for r in self.runs if r.variant == variant), key=lambda r: r.seed))

    def measured(
        self, variant: str, domain: str = "all", measure: str = "loss"
    ) -> dict[int, float]:
        """Seed → the measure on the test split."""
        return {run.seed: run.held_out(domain, measure) for run in self.of(variant)}

    def floor(
        self,
        kind: Floor,
        domain: str = "all",
        measure: str = "loss",
        variant: str | None = None,
    ) -> float | None:
        """The measure that counting scores on the test split, mean over runs; None: no run has it.

        See `plait.evaluation.floors`. Runs of one length differ in it only by the order of their
        text. `variant`: of its runs alone.
        """
        runs = self.runs if variant is None else self.of(variant)
        counted = [
            run.result.floors[kind][domain][measure]
            for run in runs
            if run.result.floors and domain in run.result.floors[kind]
        ]
        return math.fsum(counted) / len(counted) if counted else None

    def records(self) -> list[dict[str, Any]]:
        """A flat row for each finished run, in the order of variants and seeds.

        Variant and seed; the level of each factor, or structure and size, where the study has such
        a design; what was measured, with units in the names; and the options that differ between
        runs, by their dotted path.
        """
        runs = [run for variant in self.finished_variants for run in self.of(variant)]
        options = differing_options([run.config for run in runs])
        return [
            {"variant": run.variant, "seed": run.seed}
            | self._place(run.variant)
            | run_measures(run.result)
            | differing
            for run, differing in zip(runs, options, strict=True)
        ]

    def frame(self) -> Any:
        """`records` as a pandas DataFrame: a row for each finished run.

        Raises:
            ModuleNotFoundError: pandas is not installed; the message names the extra.
        """
        return data_frame(self.records())

    def _place(self, variant: str) -> dict[str, str]:
        """Where a variant stands in the study's design."""
        if self.factorial is not None:
            levels = zip(self.factorial.factors, self.factorial.cells[variant], strict=True)
            return {f"factor_{factor}": level for factor, level in levels}
        if self.ladder is not None:
            return dict(zip(("structure", "size"), self.ladder.rungs[variant], strict=True))
        return {}

    @property
    def finished_variants(self) -> tuple[str, ...]:
        """Variants with at least one finished run."""
        return tuple(name for name in self.variants if self.of(name))

    @property
    def domains(self) -> tuple[str, ...]:
        """Held-out domains, without the pooled "all"."""
        names = {d: None for run in self.runs for d in run.result.domains}
        return tuple(name for name in names if name != "all")

    def _repr_html_(self) -> str:
        """What was measured; `plait.studies.answers.answers` judges it."""
        heads = (
            "variant",
            "seeds",
            "held-out loss, nats/token",
            f"difference to {self.compared_with}",
            "parameters stored",
        )
        rows = []
        for variant in self.finished_variants:
            losses, against = self.measured(variant), self.reference(variant)
            found = paired_difference(losses, self.measured(against))
            rows.append(
                (
                    variant,
                    str(len(losses)),
                    _with_interval(mean_interval(list(losses.values()))),
                    "–" if found is None or variant == against else _with_interval(found.estimate),
                    f"{self.of(variant)[0].result.parameters.get('stored', 0):,}",
                )
            )
        return titled(
            f"Study {self.name}",
            table(rows, heads),
            note("in brackets: 95 % interval over seeds" if len(self.seeds) > 1 else ""),
            *(note(f"not finished: {name}") for name in self.missing),
        )


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
    variants = header.all_variants
    asked = header.contrasts or default_contrasts(
        header.baseline, variants, header.factorial, header.ladder
    )
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
        seeds=header.seeds or tuple(dict.fromkeys(planned.seed for planned in header.runs)),
        runs=tuple(runs),
        contrasts=tuple(replace(c, margin=c.margin or header.margin) for c in asked),
        missing=tuple(missing),
        plan=None if plan is None else digest(plan),
        deviations=() if plan is None else deviations(plan, header.plan),
        looks=header.looks,
        tuning=_curves(folder, header),
        factorial=header.factorial,
        ladder=header.ladder,
    )


def _with_interval(estimate: Estimate) -> str:
    shown = f"{estimate.value:.3f}"
    if estimate.low is not None and estimate.high is not None:
        shown += f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return shown.replace("-", "−")


def _curves(folder: Path, header: _Header) -> tuple[TuningCurve, ...]:
    if header.tuning is None:
        return ()
    return tuple(
        tuning_curve(
            variant,
            header.tuning,
            [
                (run.learning_rate, run.seed, RunFolder(folder / run.folder))
                for run in header.tuning_runs
                if run.variant == variant
            ],
        )
        for variant in header.all_variants
    )
