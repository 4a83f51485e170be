"""`plait reproduce`, whole: runs what a claim needs, goes on where it stopped, writes the page."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from plait import recipes
from plait.cli import INTERRUPTED, main
from plait.config import (
    AttentionConfig,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    TrainConfig,
)
from plait.kernels import table
from plait.kernels.native import build
from plait.sharing import Sharing
from plait.studies.claims import Claim, Paper, PaperFigure, PaperTable, PathContrast
from plait.studies.contrasts import Contrast
from plait.studies.rounds import Outcome
from plait.studies.study import Study
from tiny_corpus import tiny


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *map(str, words)])
    return ended.value.code


def test_kernels_are_compiled_where_it_is_seen(paper, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)
    monkeypatch.setattr(build, "load", lambda: "no compiler")
    table._able.cache_clear()
    table._warn.cache_clear()
    words = ["pathmoe", "--runs", tmp_path / "runs", "--device", "cpu", "--dry-run"]
    assert command(*words, "--tokens", "512", "--seeds", "0") == 0
    table._able.cache_clear()
    assert "torch's operations compute" in caplog.text
    assert caplog.text.count("no compiler") == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 0, "plait study report demo"),
        (["--runs", "r"], 0, "plait study report demo --runs r"),
        (["--dry-run"], 0, None),
        ([], 1, None),
    ],
)
def test_a_study_that_is_done_says_how_to_read_it(words, code, told, monkeypatch, capsys):
    monkeypatch.setattr("plait.cli.studies.begin", lambda *study, **how: code)
    with pytest.raises(SystemExit) as ended:
        main(["study", "run", "demo", *words])
    assert ended.value.code == code
    printed = capsys.readouterr().out
    assert printed.endswith(f"{told}\n") if told else not printed


@pytest.mark.parametrize(
    "words",
    [["reproduce", "pathmoe"], ["study", "run", "s"], ["study", "run", "s", "--launcher", "local"]],
)
def test_how_runs_train_reaches_all_of_them(words, paper, tmp_path, monkeypatch):
    asked = {}

    def stopped(*given, **how):
        asked.update(how)
        return Outcome(interrupted=True)

    monkeypatch.setattr(recipes, "study", lambda name: recipes.paper("pathmoe", "nano").studies[0])
    monkeypatch.setattr("plait.studies.runner.run", stopped)
    monkeypatch.setattr("plait.studies.launchers.launch", stopped)
    for options, expected in (
        (["--compile", "--checkpoints", "s3://bucket"], (True, "s3://bucket")),
        ([], (False, None)),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--runs", str(tmp_path / "runs"), *options])
        assert ended.value.code == INTERRUPTED
        assert (asked["compile"], asked["checkpoints"]) == expected


def test_ctrl_c_ends_it_with_130_and_no_page(paper, tmp_path):
    def interrupt_once_it_trains():
        while not any(tmp_path.glob("runs/s/*/metrics.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_once_it_trains, daemon=True).start()
    runs = ["--runs", tmp_path / "runs", "--jobs", "1", "--seeds", "0..9"]
    assert command("pathmoe", *runs) == INTERRUPTED
    assert not list(tmp_path.glob("runs/*.html"))


@pytest.fixture
def paper(tmp_path, monkeypatch):
    corpus = tiny(tmp_path / "corpus")
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=32,
        context=32,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=32),
    )
    config = TrainConfig(
        model=model,
        data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=4),
        tokens=6 * 4 * 32,
        evaluation=EvaluationConfig(every=3, tokens=512, final_tokens=512),
        checkpoint=CheckpointConfig(every=6),
    )
    shared = replace(config, model=replace(model, sharing=Sharing(router="all")))
    other = replace(config, model=replace(model, sharing=Sharing(experts="all")))
    study = Study(
        name="s",
        baseline="plain",
        variants={"plain": config, "shared": shared, "other": other},
        contrasts=(
            Contrast("shared − plain", "shared", "plain", expected="lower"),
            Contrast("other − plain", "other", "plain", expected="equal"),
        ),
    )
    told = {"statement": "It is better", "published": "1 → 2", "study": "s"}
    made = Paper(
        name="pathmoe",
        title="A paper",
        scale="nano",
        studies=(study,),
        claims=(
            Claim(name="one", contrasts=("shared − plain",), **told),
            Claim(name="two", contrasts=("other − plain",), **told),
            Claim(
                name="three",
                paths=(
                    PathContrast(
                        measure="consistency", variant="shared", against="plain", expected="higher"
                    ),
                ),
                **told,
            ),
        ),
        tables=(
            PaperTable(title="Table", study="s", columns=("loss",), published={"plain": ("1",)}),
        ),
        figures=(
            PaperFigure(number="1", title="Loss", study="s", shows="perplexity"),
            PaperFigure(number="2", title="Domains", study="s", shows="specialisation"),
            PaperFigure(number="3", title="Changed", study="s", shows="robustness"),
        ),
        notes=("Smaller than there.",),
    )
    monkeypatch.setattr(recipes, "paper", lambda name, scale: replace(made, scale=scale))


def test_a_claim_is_run_and_shown_and_the_rest_goes_on_from_there(paper, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert command("pathmoe", "--dry-run", "--runs", runs) == 0
    assert not list(runs.glob("s/*/result.json"))
    assert "3 runs" in capsys.readouterr().out

    assert command("pathmoe", "--only", "one", "--runs", runs, "--device", "cpu") == 0
    assert len(list(runs.glob("s/*/result.json"))) == 2
    said = capsys.readouterr().out
    assert "Smaller than there." in said
    assert "undecided" in said
    first = {path: path.stat().st_mtime_ns for path in runs.glob("s/*/result.json")}

    assert command("pathmoe", "--runs", runs, "--device", "cpu", "--trace-tokens", 300) == 0
    assert len(list(runs.glob("s/*/result.json"))) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    page = (runs / "pathmoe-nano.html").read_text()
    assert "Of 3 claims, 3 undecided" in page
    assert "above chance (Jaccard): shared − plain: " in page
    assert "under 3 seeds" in page
    assert "Figure 1: Loss" in page
    assert "Figure 2: Domains" in page
    assert "Figure 3: Changed" in page


def test_what_was_published_is_priced_and_not_run(paper, tmp_path, capsys):
    assert command("pathmoe", "--scale", "paper", "--runs", tmp_path / "runs") == 0
    assert "GPU-hours" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_an_unknown_claim_is_named(paper, tmp_path, capsys):
    assert command("pathmoe", "--only", "four", "--runs", tmp_path) == 1
    assert "choose one, two, three" in capsys.readouterr().err
