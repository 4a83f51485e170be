"""Is what lies on the disk whole, and does each link of the chain fit the one before it?

corpus fingerprint → configuration hash → checkpoint hashes → result → report. Every check is one
line; none of them trusts a name.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from plait.config.files import config_hash
from plait.data.corpora import open_corpus
from plait.data.corpus import MANIFEST, Corpus, file_sha256
from plait.data.tokenizer import Tokenizer
from plait.reading import one_line
from plait.storage import manifest
from plait.storage.model_folder import read_config, read_state
from plait.storage.places import Place, place_of, step_of
from plait.storage.result import RESULT, Result
from plait.storage.run_folder import (
    AWAY,
    CHECKPOINTS,
    CONFIG,
    CORPUS,
    METRICS,
    TOKENIZER,
    RunFolder,
)
from plait.storage.tensor_files import TensorFiles
from plait.studies.answers import answers
from plait.studies.registration import PLAN, registered
from plait.studies.results import STUDY, read_study
from plait.studies.tables import comparison_table, contrast_records, design_records, records


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `problem` is None where it holds."""

    what: str
    problem: str | None = None


def verify(path: Path) -> Iterator[Check]:
    """Check a corpus, a run, a study, a model folder or an export, whichever lies at `path`.

    Of a folder that is none of these, every study in it is checked.

    Raises:
        FileNotFoundError: it is none of these.
    """
    if (path / STUDY).is_file():
        yield from _study(path)
    elif (path / CONFIG).is_file() and (
        (path / CHECKPOINTS).is_dir() or (path / METRICS).is_file()
    ):
        yield from _run(path)
    elif (path / CONFIG).is_file():
        yield from _model(path)
    elif (path / MANIFEST).is_file():
        yield _check("corpus: every file as its manifest says", lambda: Corpus.open(path).verify())
    elif (path / "config.json").is_file():
        yield from _export(path)
    elif studies := sorted(path.rglob(STUDY)):
        for study in studies:
            for check in _study(study.parent):
                yield Check(f"{study.parent.relative_to(path)}: {check.what}", check.problem)
    else:
        what = "neither a corpus, run, study, model nor export" if path.exists() else "not there"
        raise FileNotFoundError(f"{path}: {what}")


def _study(path: Path) -> Iterator[Check]:
    yield _check(f"{STUDY}: reads", lambda: read_study(path))
    try:
        header = json.loads((path / STUDY).read_text(encoding="utf-8"))
        planned = [*header["runs"], *header.get("tuning_runs", ())]
        folders = [path / run["folder"] for run in planned]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for folder in folders:
        if not (folder / CONFIG).is_file():
            yield Check(f"{folder.name}: not begun")
            continue
        for check in _run(folder):
            yield Check(f"{folder.name}: {check.what}", check.problem)
    if (path / PLAN).is_file():
        yield _check(f"{PLAN}: as it was before the first run", lambda: registered(path))
    if (path / "report.json").is_file():
        yield _check("report: made of the results that are there", lambda: _report(path))


def _report(path: Path) -> None:
    written = json.loads((path / "report.json").read_text(encoding="utf-8"))
    for folder, expected in written["results"].items():
        result = path / folder / RESULT
        if not result.is_file():
            raise ValueError(f"{result} is gone since the report was made: make it again")
        if file_sha256(result) != expected:
            raise ValueError(f"{result} has changed since the report was made: make it again")
    study = read_study(path)
    found = [records(comparison_table(study)), contrast_records(answers(study))]
    parts = design_records(study)
    shown = [written["rows"], written.get("contrasts"), {name: written.get(name) for name in parts}]
    if shown != json.loads(json.dumps([*found, parts])):
        raise ValueError(f"{path / 'report.json'}: its table is not that of the results")


def _run(path: Path) -> Iterator[Check]:
    run = RunFolder(path)
    yield _check(f"{CONFIG}: its hash is that of the folder", lambda: _config(run))
    published = not any((path / name).exists() for name in (CHECKPOINTS, AWAY, CORPUS))
    if not published:
        yield _check(f"{CORPUS} and {TOKENIZER}: of one corpus", lambda: _corpus(path))
    try:
        place = place_of(path)
        names = place.names()
    except (OSError, ValueError) as error:
        yield Check("checkpoints: can be reached", one_line(error))
        return
    for name in names:
        yield _check(f"{name}: as its manifest says", partial(_checkpoint, path, place, name))
    if names:
        yield _check("weights: those of the configuration", lambda: read_state(path))
    if run.finished:
        yield _check(f"{RESULT}: as it was written, of this chain", lambda: _result(run))


def _config(run: RunFolder) -> None:
    found = config_hash(run.config())
    named = re.search(r"-([0-9a-f]{12})$", run.path.resolve().name)
    if named and named[1] != found:
        raise ValueError(f"{CONFIG} has hash {found}, the folder is named {named[1]}")


def _corpus(path: Path) -> None:
    for name in (CORPUS, TOKENIZER):
        if not (path / name).is_file():
            raise ValueError(f"no {name}: the run is of an older version, or the file is lost")
    facts = json.loads((path / CORPUS).read_text(encoding="utf-8"))
    if file_sha256(path / TOKENIZER) != facts["tokenizer"]["sha256"]:
        raise ValueError(f"{TOKENIZER} is not the one that {CORPUS} names")
    try:
        corpus = open_corpus(RunFolder(path).config().data.corpus)
    except FileNotFoundError:
        return  # a run is whole without it
    if corpus.fingerprint != facts["fingerprint"]:
        raise ValueError(f"the corpus at {corpus.path} is another one by now")


def _checkpoint(path: Path, place: Place, name: str) -> None:
    with place.opened(name) as folder:
        manifest.verify(folder, called=f"{place}/{name}")
        progress = manifest.read_progress(folder)
    if (path / CORPUS).is_file():
        facts = json.loads((path / CORPUS).read_text(encoding="utf-8"))
        if progress["loader"]["fingerprint"] != facts["fingerprint"]:
            raise ValueError(f"{name} was trained on another corpus than {CORPUS} names")


def _result(run: RunFolder) -> None:
    result = Result.load_from(run.path)
    assert result is not None
    Result.check_unchanged(run.path)
    if result.config_hash != config_hash(run.config()):
        raise ValueError(f"it is of configuration {result.config_hash}")
    of_study = run.path.parent / CORPUS
    manifest = of_study if of_study.is_file() else run.path / CORPUS
    if manifest.is_file():
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if facts["fingerprint"] != result.corpus_fingerprint:
            raise ValueError(f"it is of corpus {result.corpus_fingerprint}")
    place = place_of(run.path)
    scored = [name for name in place.names() if step_of(name) == result.steps]
    if scored and result.checkpoint not in (None, place.digest(scored[-1])):
        raise ValueError(f"step-{result.steps} is not the checkpoint that was scored")


def _model(path: Path) -> Iterator[Check]:
    yield _check(f"{CONFIG}: reads", lambda: read_config(path))
    yield _check("weights: those of the configuration", lambda: read_state(path))
    if (path / TOKENIZER).is_file():
        yield _check(f"{TOKENIZER}: reads", lambda: Tokenizer.load(path))


def _export(path: Path) -> Iterator[Check]:
    yield _check("config.json: reads", lambda: json.loads((path / "config.json").read_text()))
    yield _check("weights: every tensor is there, and a number", lambda: _tensors(path))


def _tensors(path: Path) -> None:
    with TensorFiles(path) as files:
        for name in sorted(files.names):
            if not files.read(name).isfinite().all():
                raise ValueError(f"{name} holds numbers that are not finite")


def _check(what: str, check: Callable[[], object]) -> Check:
    try:
        check()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Check(what, " ".join(str(error).split()) or type(error).__name__)
    return Check(what)
