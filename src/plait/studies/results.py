"""What a study left on disk, read back: `study.json` and one folder per run."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class RunResult:
    """One finished run: its whole configuration, its result, and where its metrics are."""

    folder: Path
    variant: str
    seed: int
    config: Mapping[str, Any]
    result: Mapping[str, Any]

    def held_out(self, domain: str = "all", measure: str = "loss") -> float:
        """A measure ("loss" in nats per token, "perplexity", "bits_per_byte") on the test split."""
        return float(self.result["evaluation"]["domains"][domain][measure])

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of `metrics.jsonl`; half a line, left by a run killed while writing, is not one."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n") and line.strip():
                    yield json.loads(line)


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
    runs: tuple[RunResult, ...]
    missing: tuple[str, ...] = field(default=())

    def of(self, variant: str) -> tuple[RunResult, ...]:
        """The variant's finished runs, by seed."""
        return tuple(sorted((r for r in self.runs if r.variant == variant), key=lambda r: r.seed))

    def measured(
        self, variant: str, domain: str = "all", measure: str = "loss"
    ) -> dict[int, float]:
        """Seed → the measure on the test split."""
        return {run.seed: run.held_out(domain, measure) for run in self.of(variant)}

    @property
    def finished_variants(self) -> tuple[str, ...]:
        """Variants with at least one finished run."""
        return tuple(name for name in self.variants if self.of(name))

    @property
    def domains(self) -> tuple[str, ...]:
        """Held-out domains, without the pooled "all"."""
        names = {d: None for run in self.runs for d in run.result["evaluation"]["domains"]}
        return tuple(name for name in names if name != "all")


def read_study(folder: Path) -> StudyResults:
    """Read a study folder.

    Raises FileNotFoundError where there is no study, ValueError where a file of it is damaged.
    """
    path = folder / "study.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no study in {folder} (no study.json): run `plait study run` first"
        )
    header = _json(path)
    runs, missing = [], []
    for planned in header["runs"]:
        run_folder = folder / planned["folder"]
        if is_finished(run_folder):
            config = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
            result = _json(run_folder / "result.json")
            if not math.isfinite(float(result["evaluation"]["domains"]["all"]["loss"])):
                missing.append(f"{planned['folder']} (its held-out loss is not a number)")
                continue
            runs.append(RunResult(run_folder, planned["variant"], planned["seed"], config, result))
        else:
            missing.append(planned["folder"])
    return StudyResults(
        name=header["name"],
        description=header["description"],
        folder=folder,
        baseline=header["baseline"],
        margin=header["margin"],
        variants=tuple(dict.fromkeys(planned["variant"] for planned in header["runs"])),
        seeds=tuple(dict.fromkeys(planned["seed"] for planned in header["runs"])),
        runs=tuple(runs),
        missing=tuple(missing),
    )


def is_finished(run_folder: Path) -> bool:
    """Whether the run wrote its result; the trainer writes it last and in one step."""
    return (run_folder / "result.json").exists()


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run again") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged (not an object): delete it and run again")
    return data
