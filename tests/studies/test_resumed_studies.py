"""A study with tuning and looks that is killed twice ends as the one that was not."""

import dataclasses
import io
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from made_up_study import made_up_config
from plait.studies.answers import answers
from plait.studies.results import StudyResults, read_study
from plait.studies.runner import run
from plait.studies.study import Study
from plait.studies.tuning import Tuning
from tiny_corpus import tiny

TRAINER = """
import hashlib, math, sys, time
from pathlib import Path
from plait.storage.result import Result
from plait.storage.run_folder import RunFolder
folder = Path(sys.argv[1])
config = RunFolder(folder).config()
time.sleep(0.1)
noise = int(hashlib.sha256(folder.name.encode()).hexdigest()[:6], 16) / 2**24
tied = config.model.sharing.experts != "own"
best = 0.02 if tied else 0.04
loss = 4 + 0.02 * tied + 0.02 * noise
loss += 0.1 * math.log2(config.optimizer.learning_rate / best) ** 2
(folder / "metrics.jsonl").touch()
measures = {"loss": loss, "perplexity": 1.0, "bits_per_byte": 2.0, "tokens": 9, "bytes": 30}
Result(
    study="s", variant=folder.name, seed=config.seed, config_hash="0" * 12, steps=1, tokens=4096,
    skipped_steps=0, parameters={}, flops_per_token={}, gate_mass=None, load=[], seconds=1.0,
    evaluation={"split": config.evaluation.final_split, "domains": {"all": measures}},
    tokens_per_second=1000.0, corpus_fingerprint="0" * 16, environment={},
).save(folder)
"""
DRIVER = """
import pickle, sys
from pathlib import Path
from plait.studies.runner import run
study, trainer = pickle.loads(Path(sys.argv[1]).read_bytes())
run(study, Path(sys.argv[2]), jobs=2, command=lambda f: [sys.executable, "-c", trainer, str(f)])
"""


def _killed_when(there: Callable[[], bool], arguments: list[str]) -> None:
    command = [sys.executable, "-c", DRIVER, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, "over before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()


def _seen(found: StudyResults) -> object:
    runs = [(r.variant, r.seed, r.held_out(), r.config) for r in found.runs]
    return runs, found.tuning, answers(found), found.plan, found.deviations, found.missing


@pytest.mark.slow
def test_tuning_and_looks_survive_kills(tmp_path: Path) -> None:
    corpus = tiny(tmp_path / "tiny").path
    plain = made_up_config()
    plain = dataclasses.replace(plain, data=dataclasses.replace(plain.data, corpus=str(corpus)))
    study = Study(
        name="s",
        baseline="plain",
        variants={
            "plain": plain,
            "tied": dataclasses.replace(plain, model=made_up_config(tied=True).model),
        },
        seeds=tuple(range(6)),
        looks=(3, 6),
        tuning=Tuning(learning_rate=(0.01, 0.02, 0.04), seeds=(100,)),
    )
    (tmp_path / "study.pickle").write_bytes(pickle.dumps((study, TRAINER)))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [str(tmp_path / "study.pickle"), str(killed)]

    def finished(runs: str) -> int:
        return len(list(killed.glob(f"s/{runs}/result.json")))

    _killed_when(lambda: finished("*.tuning-*") >= 2, arguments)
    assert finished("*.tuning-*") < 7, "of the six and one beyond the edge"
    _killed_when(lambda: finished("*-s1-*") >= 1, arguments)

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-c", TRAINER, str(folder)]

    for root in (killed, whole):
        quiet = Console(file=io.StringIO())
        assert run(study, root, jobs=2, command=command, console=quiet).exit_code == 0
    first, second = (read_study(root / "s") for root in (killed, whole))
    assert _seen(first) == _seen(second)
    assert [curve.learning_rate for curve in first.tuning] == [0.04, 0.02]
    for name in ("study.json", "plan.json"):
        assert (killed / "s" / name).read_text() == (whole / "s" / name).read_text()
