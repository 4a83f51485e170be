"""The runs that a study means, and its plan on disk."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from plait.atomic import write_json
from plait.config import TrainConfig
from plait.config.files import to_dict
from plait.data.corpora import open_corpus
from plait.storage.run_folder import CORPUS, run_folder
from plait.studies.registration import design_of, plan_of, register
from plait.studies.results import STUDY
from plait.studies.study import Study


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
    def tokens(self) -> int:
        """Tokens of the whole run, in full optimizer steps."""
        return self.config.steps * self.config.tokens_per_step


def planned_runs(study: Study, root: Path) -> list[PlannedRun]:
    """All runs, seed by seed, so that an unfinished study still compares every variant once."""
    runs = []
    for seed in study.seeds:
        for variant, config in study.variants.items():
            seeded = dataclasses.replace(config, seed=seed)
            folder = run_folder(seeded, root, study.name, variant)
            runs.append(PlannedRun(variant, seed, seeded, folder))
    return runs


def write_plan(study: Study, root: Path) -> None:
    """Write `study.json`, from which table and report are made without the study's function.

    Beside it go `corpus.json`, the manifest of the corpus: sources, licences, splits; and, before
    the first run, `plan.json`: see `plait.studies.registration`.
    Raises FileNotFoundError where the corpus is not built yet.
    """
    folder = root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(study.variants[study.baseline].data.corpus)
    write_json(folder / CORPUS, corpus.manifest)
    order = list(study.variants)
    runs = sorted(planned_runs(study, root), key=lambda run: (order.index(run.variant), run.seed))
    plan = {
        "name": study.name,
        "description": study.description,
        "baseline": study.baseline,
        "margin": study.margin,
        "contrasts": [to_dict(contrast) for contrast in study.contrasts],
        "plan": plan_of(study),
        **design_of(study),
        "runs": [
            {"variant": run.variant, "seed": run.seed, "folder": run.folder.name} for run in runs
        ],
    }
    register(study, folder)
    write_json(folder / STUDY, plan)
