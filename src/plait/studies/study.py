"""A study: variants × seeds under equal conditions, each run in its own folder."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.training import TrainConfig, run_folder
from plait.training.loop import open_corpus

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared with what: a recipe function returns one.

    `variants` maps a name (letters, digits and . _ + -, for it names folders) to a whole training
    configuration; each is trained once per seed, everything else in it unchanged. `margin` is the
    difference in nats per token below which variants count as equal in the equivalence test.
    """

    name: str
    baseline: str
    variants: Mapping[str, TrainConfig]
    seeds: tuple[int, ...] = (0,)
    margin: float = 0.01
    description: str = ""

    def __post_init__(self) -> None:
        for name in (self.name, *self.variants):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name a folder: use letters, digits and . _ + - only, and "
                    "begin with a letter or digit"
                )
        if self.baseline not in self.variants:
            raise ValueError(
                f"study {self.name}: the baseline {self.baseline!r} is not among the variants "
                f"{', '.join(self.variants)}"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"study {self.name}: give each seed once, at least one: {self.seeds}")
        if self.margin <= 0:
            raise ValueError(f"study {self.name}: margin {self.margin} must be above 0 nats")
        configs = self.variants.values()
        self._same("data.corpus", {config.data.corpus for config in configs})
        self._same("evaluation.final_tokens", {c.evaluation.final_tokens for c in configs})

    def _same(self, option: str, values: set[Any]) -> None:
        if len(values) > 1:
            raise ValueError(
                f"study {self.name}: variants differ in {option} "
                f"({', '.join(sorted(map(str, values)))}), so their losses would not be "
                "comparable: make it the same"
            )


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

    Beside it goes `corpus.json`, the manifest of the corpus: sources, licences, splits.
    Raises FileNotFoundError where the corpus is not built yet.
    """
    folder = root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(study.variants[study.baseline].data.corpus)
    _write(folder / "corpus.json", corpus.manifest)
    order = list(study.variants)
    runs = sorted(planned_runs(study, root), key=lambda run: (order.index(run.variant), run.seed))
    plan = {
        "name": study.name,
        "description": study.description,
        "baseline": study.baseline,
        "margin": study.margin,
        "runs": [
            {"variant": run.variant, "seed": run.seed, "folder": run.folder.name} for run in runs
        ],
    }
    _write(folder / "study.json", plan)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)
