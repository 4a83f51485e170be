"""How a study was measured: rules, environment, sources and splits of the text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.config.files import load_json
from plait.studies.results import StudyResults


def rules(study: StudyResults) -> list[str]:
    """What held for every run, a sentence each."""
    counts = {int(run.held_out(measure="tokens")) for run in study.runs}
    same = len({run.result.corpus_fingerprint for run in study.runs}) == 1
    seeds = ", ".join(str(seed) for seed in study.seeds)
    return [
        "Documents were split by their hash into training, validation and test before anything was "
        "trained, the tokenizer included; every figure called held-out is on the test split, the "
        "curves on validation.",
        f"Every run was scored on the same {counts.pop():,} test tokens."
        if len(counts) == 1
        else "Careful: the runs were scored on different numbers of test tokens.",
        "Runs with the same seed saw the same text in the same order"
        + (f" (seeds {seeds})." if len(study.seeds) > 1 else f" (one seed: {seeds}).")
        if same
        else "Careful: not all runs used the same corpus (their fingerprints differ).",
        "One seed per variant. A difference between two single runs says what happened once; at "
        "least 3 seeds are needed to say how sure it is."
        if len(study.seeds) == 1
        else "Differences are paired by seed. An interval covers the seeds’ variation only: not "
        "that of other corpora, sizes or learning rates.",
    ]


def facts(study: StudyResults) -> list[tuple[str, str]]:
    """Corpus, size and environment, as terms with their values."""
    run = study.runs[0]
    said = [
        ("Corpus", run.config.data.corpus),
        ("Corpus fingerprint", run.result.corpus_fingerprint),
        ("Runs", f"{len(study.runs)} finished, {len(study.finished_variants)} variants"),
        ("Tokens per run", f"{run.result.tokens:,} in {run.result.steps:,} steps"),
        ("Time of all runs", f"{sum(r.result.seconds for r in study.runs) / 60:,.0f} min"),
    ]
    said.append(("Plan", "none before the first run" if study.plan is None else study.plan[:12]))
    return [*said, *((key, str(value)) for key, value in run.result.environment.items())]


@dataclass(frozen=True)
class _Source:
    source: str
    domain: str
    licence: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class _Shard:
    tokens: int


@dataclass(frozen=True)
class _CorpusFacts:
    sources: list[_Source]
    splits: dict[str, dict[str, _Shard]]


def corpus(path: Path) -> dict[str, Any]:
    """Sources and splits from the copy of the corpus's manifest, nothing where there is none."""
    if not path.exists():
        return {"sources": [], "splits": {}}
    found = load_json(_CorpusFacts, path, "put the corpus' manifest in its place")
    return {"sources": found.sources, "splits": found.splits}
