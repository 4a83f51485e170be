"""The runs that a study means, and what is written of it for table and report."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.atomic import write_json
from plait.config import TrainConfig
from plait.config.files import to_dict
from plait.data.corpora import open_corpus
from plait.storage.run_folder import CORPUS, RunFolder, run_folder
from plait.studies.registration import design_of, plan_of, register
from plait.studies.results import STUDY
from plait.studies.study import Study
from plait.studies.tuning import TuningCurve, at_rate, next_rates, tuning_config, tuning_curve

TUNING = ".tuning"
"""behind a variant's name in the folders of its tuning runs"""


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed, and the folder that belongs to exactly this configuration."""

    variant: str
    seed: int
    config: TrainConfig
    folder: Path

    @property
    def name(self) -> str:
        """How the run is called on screen."""
        return f"{self.variant}-s{self.seed}"

    @property
    def tunes(self) -> bool:
        """Whether it tries a learning rate, so that diverging is an answer too."""
        return self.variant.endswith(TUNING)

    @property
    def tokens(self) -> int:
        """Tokens of the whole run, in full optimizer steps."""
        return self.config.steps * self.config.tokens_per_step


def planned_runs(study: Study, root: Path, seeds: Sequence[int] | None = None) -> list[PlannedRun]:
    """All runs, seed by seed, so that an unfinished study still compares every variant once.

    Args:
        study: whose variants have the rates that they run at, see `tuned`.
        root: the folder of all studies.
        seeds: of these only; None: all of the study's.
    """
    return [
        _planned(study, root, variant, dataclasses.replace(config, seed=seed))
        for seed in (study.seeds if seeds is None else seeds)
        for variant, config in study.variants.items()
    ]


def tuning_runs(study: Study, root: Path) -> tuple[list[PlannedRun], list[TuningCurve]]:
    """The tuning runs that are planned as far as is known now, and each variant's curve so far."""
    tuning = study.tuning
    if tuning is None:
        return [], []
    planned: list[PlannedRun] = []
    curves = []
    for variant, config in study.variants.items():
        own: list[PlannedRun] = []
        rates = list(tuning.learning_rate)
        while rates:
            own += [
                _planned(study, root, f"{variant}{TUNING}", tuning_config(config, rate, seed))
                for rate in rates
                for seed in tuning.seeds
            ]
            curve = tuning_curve(
                variant,
                tuning,
                [(r.config.optimizer.learning_rate, r.seed, RunFolder(r.folder)) for r in own],
            )
            whole = all(len(by) == len(tuning.seeds) for by in curve.losses.values())
            known = {r.config.optimizer.learning_rate for r in own} == set(curve.losses)
            rates = list(next_rates(tuning, curve.means)) if whole and known else []
        planned += own
        curves.append(curve)
    return planned, curves


def tuned(study: Study, curves: Sequence[TuningCurve]) -> Study | None:
    """The study with every variant at its chosen rate; None while one is not chosen yet."""
    rates = {curve.variant: curve.learning_rate for curve in curves}
    variants = {}
    for name, config in study.variants.items():
        rate = rates.get(name, config.optimizer.learning_rate)
        if rate is None:
            return None
        variants[name] = at_rate(config, rate)
    return dataclasses.replace(study, variants=variants)


def write_plan(study: Study, root: Path, runs: Sequence[PlannedRun] | None = None) -> None:
    """Write `study.json`, from which table and report are made without the study's function.

    Beside it go `corpus.json`, the manifest of the corpus: sources, licences, splits; and, before
    the first run, `plan.json`: see `plait.studies.registration`.

    Args:
        study: as it is stated.
        root: the folder of all studies.
        runs: whose results count, so far; None: those of all seeds.

    Raises FileNotFoundError where the corpus is not built yet.
    """
    folder = root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(study.variants[study.baseline].data.corpus)
    write_json(folder / CORPUS, corpus.manifest)
    order = list(study.variants)
    runs = planned_runs(study, root) if runs is None else runs
    runs = sorted(runs, key=lambda run: (order.index(run.variant), study.seeds.index(run.seed)))
    tuning, _ = tuning_runs(study, root)
    written = {
        "name": study.name,
        "description": study.description,
        "baseline": study.baseline,
        "margin": study.margin,
        "variants": order,
        "seeds": list(study.seeds),
        "looks": list(study.looks),
        "contrasts": [to_dict(contrast) for contrast in study.contrasts],
        "tuning": None if study.tuning is None else to_dict(study.tuning),
        "tuning_runs": [
            {
                "variant": run.variant.removesuffix(TUNING),
                "learning_rate": run.config.optimizer.learning_rate,
                "seed": run.seed,
                "folder": run.folder.name,
            }
            for run in tuning
        ],
        "plan": plan_of(study),
        **design_of(study),
        "runs": [
            {"variant": run.variant, "seed": run.seed, "folder": run.folder.name} for run in runs
        ],
    }
    register(study, folder)
    write_json(folder / STUDY, written)


def _planned(study: Study, root: Path, name: str, config: TrainConfig) -> PlannedRun:
    return PlannedRun(name, config.seed, config, run_folder(config, root, study.name, name))
