"""A study that an earlier layout of the code began is read, resumed and reported by this one.

The folder beside this file was written before the code was parted into its present folders: `tied`
had finished, `plain` was interrupted after 10 of its 20 steps.
"""

import json
import random
import shutil
from pathlib import Path

import pytest

from plait.config import (
    AttentionConfig,
    CheckpointConfig,
    CollaborationConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from plait.data.build import build
from plait.data.sources import Files
from plait.data.specification import Specification
from plait.report.study.study_report import write_report
from plait.sharing import Sharing
from plait.storage.metrics_file import read_rows
from plait.studies.results import read_study
from plait.studies.runner import run
from plait.studies.study import Study

STUDY = Path(__file__).parent / "before_the_move"
UNINTERRUPTED = 5.093690931797028
"""held-out loss of `plain` in nats per token, trained in one go by the earlier code"""


def write_text(folder: Path) -> None:
    """Documents of made-up words, the same on every machine."""
    generator = random.Random(7)
    lengths = (generator.randint(2, 7) for _ in range(300))
    words = ["".join(generator.choice("aeioulnrst") for _ in range(n)) for n in lengths]
    folder.mkdir()
    for number in range(240):
        chosen = [words[min(299, int(generator.expovariate(1 / 40)))] for _ in range(180)]
        (folder / f"{number}.txt").write_text(" ".join(chosen) + "\n")


def variant(**parts: object) -> TrainConfig:
    model = ModelConfig(
        vocab_size=300,
        depth=2,
        width=16,
        context=32,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=16, top_k=3),
        **parts,  # type: ignore[arg-type]
    )
    return TrainConfig(
        model=model,
        data=DataConfig(corpus="corpus", sequence_length=32, batch=4),
        tokens=20 * 4 * 32,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        evaluation=EvaluationConfig(every=10, tokens=512, final_tokens=1024, batch=4),
        checkpoint=CheckpointConfig(every=10, keep=1),
    )


def test_it_is_read_resumed_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(Path("text"))
    words = Files("text/*.txt", domain="words")
    corpus = build(
        Specification(name="made-up", sources=(words,), vocab_size=300, validation=0.15, test=0.15),
        "corpus",
    )
    folder = Path("runs") / "before-the-move"
    shutil.copytree(STUDY, folder)

    before = read_study(folder)
    [tied] = before.runs
    assert tied.variant == "tied"
    assert tied.result.corpus_fingerprint == corpus.fingerprint
    assert [name.split("-")[0] for name in before.missing] == ["plain"]
    plain = folder / before.missing[0]
    rows = read_rows(plain / "metrics.jsonl")

    study = Study(
        name="before-the-move",
        baseline="plain",
        variants={
            "plain": variant(),
            "tied": variant(sharing=Sharing(experts="all"), collaboration=CollaborationConfig()),
        },
    )
    outcome = run(study, Path("runs"))
    assert (outcome.finished, outcome.skipped) == ([plain.name], [tied.folder.name])
    assert read_rows(plain / "metrics.jsonl")[: len(rows)] == rows
    after = read_study(folder)
    assert after.missing == ()
    assert after.of("plain")[0].held_out() == pytest.approx(UNINTERRUPTED, abs=1e-4)

    write_report(folder)
    report = json.loads((folder / "report.json").read_text())
    assert [row["variant"] for row in report["rows"]] == ["plain", "tied"]
