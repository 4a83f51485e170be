"""The chain from corpus to report: what holds is said, and what was changed is found."""

import json
import shutil
from dataclasses import replace

import pytest

from plait.cli.studies import study_publish
from plait.config import (
    AttentionConfig,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    TrainConfig,
)
from plait.config.files import save_yaml
from plait.interop.exporting import export_model
from plait.report.study.study_report import write_report
from plait.storage.run_folder import RunFolder
from plait.studies.plan import planned_runs, write_plan
from plait.studies.publishing import publish_study
from plait.studies.study import Study
from plait.surgery.tying import tie
from plait.training import train
from plait.verification import verify
from tiny_corpus import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A corpus and a reported study of two runs."""
    root = tmp_path_factory.mktemp("chain")
    corpus = tiny(root / "corpus")
    config = TrainConfig(
        model=ModelConfig(
            vocab_size=corpus.vocab_size,
            depth=2,
            width=32,
            context=32,
            attention=AttentionConfig(heads=2),
            experts=ExpertConfig(count=4, width=16, top_k=3),
        ),
        data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=4),
        tokens=4 * 4 * 32,
        evaluation=EvaluationConfig(every=2, tokens=256, final_tokens=256),
        checkpoint=CheckpointConfig(every=2),
    )
    wider = replace(config, model=replace(config.model, experts=ExpertConfig(count=6, width=16)))
    study = Study(name="chain", baseline="plain", variants={"plain": config, "wider": wider})
    write_plan(study, root)
    for planned in planned_runs(study, root):
        train(planned.config, planned.folder, device="cpu")
    write_report(root / "chain")
    return root


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole / "chain", tmp_path / "chain")


def problems(path):
    return [f"{check.what}: {check.problem}" for check in verify(path) if check.problem]


def test_a_whole_chain_holds_link_by_link(whole, copy):
    assert problems(whole / "corpus") == []
    checks = list(verify(copy))
    assert [check for check in checks if check.problem] == []
    said = "\n".join(check.what for check in checks)
    for link in ("config.yaml", "tokenizer.json", "step-4", "weights", "result.json", "report"):
        assert link in said
    run = next(copy.glob("plain-*"))
    assert problems(run) == []


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data, indent=2))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lower(data):
    data["evaluation"]["domains"]["all"]["loss"] -= 0.1


def other_experiment(folder):
    save_yaml(replace(RunFolder(folder).config(), seed=7), folder / "config.yaml")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda run: edit_json(run / "result.json", lower), "it was changed by hand"),
        (lambda run: edit_json(run / "result.json", lower), "has changed since the report"),
        (lambda run: (run / "result.json").unlink(), "is gone since the report was made"),
        (other_experiment, "config.yaml has hash"),
        (other_experiment, "it is of configuration"),
        (lambda run: flip(run / "checkpoints" / "step-4" / "model.safetensors"), "has changed"),
        (lambda run: flip(run / "tokenizer.json"), "tokenizer.json is not the one"),
        (lambda run: (run / "corpus.json").unlink(), "no corpus.json"),
        (
            lambda run: edit_json(run / "corpus.json", lambda d: d.update(fingerprint="0" * 16)),
            "another corpus",
        ),
        (
            lambda run: edit_json(
                run.parent / "report.json", lambda d: d["rows"][1].update(verdict="better")
            ),
            "its table is not that of the results",
        ),
        (lambda run: edit_json(run.parent / "study.json", lambda d: d.pop("runs")), "study.json"),
    ],
)
def test_what_was_changed_is_found(copy, change, found):
    change(next(copy.glob("plain-*")))
    assert found in "\n".join(problems(copy))


def test_a_scored_checkpoint_that_was_replaced_is_found(copy):
    plain, wider = (next(copy.glob(f"{name}-*")) for name in ("plain", "wider"))
    shutil.rmtree(plain / "checkpoints" / "step-4")
    shutil.copytree(wider / "checkpoints" / "step-4", plain / "checkpoints" / "step-4")
    said = "\n".join(problems(plain))
    assert "step-4 is not the checkpoint that was scored" in said
    assert "the two are of different models" in said


def test_models_and_exports_are_checked_too(copy, tmp_path):
    run = next(copy.glob("plain-*"))
    tie(run, tmp_path / "tied", "all")
    export_model(run, tmp_path / "exported")
    assert problems(tmp_path / "tied") == problems(tmp_path / "exported") == []
    config = tmp_path / "tied" / "config.yaml"
    config.write_text(config.read_text().replace("width: 32", "width: 64"))
    assert "different models" in "\n".join(problems(tmp_path / "tied"))
    with (tmp_path / "exported" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert "damaged or cut short" in "\n".join(problems(tmp_path / "exported"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither a corpus, run, study, model nor export"):
        problems(tmp_path / "empty")


def test_a_published_study_holds_without_weights(copy, tmp_path):
    published = publish_study(copy, tmp_path / "results" / "starter")
    assert published == publish_study(copy, tmp_path / "results" / "starter")
    assert not list(published.rglob("*.safetensors"))
    checks = list(verify(tmp_path / "results"))
    assert [check for check in checks if check.problem] == []
    said = "\n".join(check.what for check in checks)
    assert "starter/chain: plain-s0" in said
    assert "report: made of the results" in said
    run = next(published.glob("plain-*"))
    assert [row["step"] for row in RunFolder(run).metrics()] == [2, 4]  # of evaluations alone
    edit_json(run / "result.json", lower)
    assert "it was changed by hand" in "\n".join(problems(tmp_path / "results"))


def test_publishing_says_where_the_report_is_older_than_the_results(copy, tmp_path, capsys):
    assert study_publish("chain", tmp_path / "results", copy.parent) == 0
    assert "BROKEN" not in capsys.readouterr().out
    edit_json(copy / "report.json", lambda d: d["rows"].pop())
    assert study_publish("chain", tmp_path / "results", copy.parent) == 1
    said = capsys.readouterr().out
    assert "its table is not that of the results" in said
    assert "plait study report" in said


def test_a_published_corpus_is_that_of_the_results(copy, tmp_path):
    published = publish_study(copy, tmp_path / "results")
    edit_json(published / "corpus.json", lambda d: d.update(fingerprint="0" * 16))
    assert "it is of corpus" in "\n".join(problems(published))


def test_what_is_not_published_is_left_alone(copy, tmp_path):
    with pytest.raises(ValueError, match="is no published study"):
        publish_study(copy, copy.parent)
    assert problems(copy) == []
