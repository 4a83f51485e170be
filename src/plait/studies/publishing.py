"""A study without its weights: what others need to judge it, small enough to be kept under git.

::

    OUT/<study>/
      study.json, plan.json, corpus.json, report.html, report.json, report.csv
      <run>/config.yaml, result.json    as they are, so that every hash still fits
      <run>/metrics.jsonl               the rows of its evaluations alone
"""

import json
import shutil
from pathlib import Path

from plait.atomic import own_folder, publish
from plait.reading import read_json
from plait.storage.metrics_file import read_rows
from plait.storage.result import RESULT
from plait.storage.run_folder import AWAY, CHECKPOINTS, CONFIG, CORPUS, DIVERGED, METRICS
from plait.studies.registration import PLAN
from plait.studies.results import STUDY, read_study

REPORT = ("report.html", "report.json", "report.csv")


def publish_study(folder: Path, out: Path) -> Path:
    """Copy a study's plan, configurations, results and report, and return where they lie.

    Args:
        folder: `runs/<study>`.
        out: the folder of published studies. What was published of this study before is replaced.

    Raises:
        FileNotFoundError: there is no study in `folder`.
        ValueError: no run has finished, or something else stands where it would go.
    """
    study = read_study(folder)
    if not study.runs:
        raise ValueError(f"no run of study {study.name} has finished yet: nothing to publish")
    target = out / study.name
    if target.exists() and not _published(target):
        raise ValueError(f"{target} is no published study: choose another place, or remove it")
    header = read_json(folder / STUDY, "delete it and run again")
    with own_folder(target) as partial:
        for name in (STUDY, PLAN, CORPUS, *REPORT):
            _copy(folder / name, partial / name)
        for run in (*header["runs"], *header.get("tuning_runs", ())):
            _publish_run(folder / run["folder"], partial / run["folder"])
        publish(partial, target)
    return target


def _published(folder: Path) -> bool:
    trained = any(any(folder.glob(f"*/{name}")) for name in (CHECKPOINTS, AWAY))
    return (folder / STUDY).is_file() and not trained


def _publish_run(run: Path, out: Path) -> None:
    """Copy what a finished run says of itself; of one that is not finished nothing."""
    if not any((run / name).is_file() for name in (RESULT, DIVERGED)):
        return
    out.mkdir()
    for name in (CONFIG, RESULT, DIVERGED):
        _copy(run / name, out / name)
    rows = [row for row in read_rows(run / METRICS) if "evaluation" in row]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (out / METRICS).write_text(text, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
