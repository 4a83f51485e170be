"""What a study left on disk, read back by type: a damaged file is one line that names it."""

import json

import pytest

from made_up_study import write_study
from plait.report.study.study_report import write_report
from plait.storage.metrics_file import read_rows
from plait.storage.run_listing import found_runs
from plait.studies.results import read_study

MISSING = object()


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path, {"plain": [0.0], "tied": [0.3]})


def refusal(folder):
    with pytest.raises(ValueError, match=r"\.json: damaged.*: ") as caught:
        read_study(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def change(file, place, value):
    whole = json.loads(file.read_text())
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize("text", ["3", "[]", "null", "{}", "[" * 10_000, "{half", ""])
@pytest.mark.parametrize("name", ["study.json", "run0-s0/result.json"])
def test_what_is_no_such_object_is_named(study, name, text):
    (study / name).write_text(text)
    assert name in refusal(study)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), MISSING),
        (("description",), 3),
        (("baseline",), "nobody"),
        (("baseline",), []),
        (("margin",), "small"),
        (("margin",), -1),
        (("margin",), float("nan")),
        (("runs",), MISSING),
        (("runs",), {}),
        (("runs",), []),
        (("runs", 0), 3),
        (("runs", 0, "seed"), "0"),
        (("runs", 0, "variant"), None),
        (("runs", 0, "folder"), MISSING),
        (("runs", 0, "folder"), "../elsewhere"),
        (("runs", 0, "folder"), "/etc"),
        (("runs", 0, "folder"), ".."),
        (("runs", 0, "folder"), "a\0b"),
    ],
)
def test_a_plan_of_another_shape_is_refused(study, place, value):
    change(study / "study.json", place, value)
    assert "study.json" in refusal(study)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("evaluation",), MISSING),
        (("evaluation",), []),
        (("evaluation", "domains"), MISSING),
        (("evaluation", "domains", "all"), MISSING),
        (("evaluation", "domains", "all"), 3),
        (("evaluation", "domains", "code", "loss"), MISSING),
        (("evaluation", "domains", "all", "loss"), "low"),
        (("evaluation", "domains", "all", "loss"), True),
        (("parameters", "stored"), "many"),
        (("load",), 3),
        (("load", 0), [None]),
        (("seconds",), None),
        (("seconds",), 10**400),
        (("seed",), 0.5),
    ],
)
def test_a_result_of_another_shape_is_refused(study, place, value):
    change(study / "run0-s0" / "result.json", place, value)
    assert "run0-s0/result.json" in refusal(study)
    states = {run.folder.name: run.state for run in found_runs(study.parent)}
    assert states == {"run0-s0": "damaged", "run1-s0": "finished"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("sources",), MISSING),
        (("sources", 0, "bytes"), "many"),
        (("splits",), []),
        (("splits", "train", "code"), 3),
    ],
)
def test_corpus_facts_of_another_shape_are_refused(study, place, value):
    change(study / "corpus.json", place, value)
    with pytest.raises(ValueError, match=r"corpus\.json: damaged"):
        write_report(study)


@pytest.mark.parametrize("line", ["3", "[" * 10_000, '{"step": "1"}', '{"step": 1, "tokens": []}'])
def test_rows_end_at_one_that_nobody_wrote(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "tokens": 2}}\n{line}\n{{"step": 3}}\n')
    assert read_rows(path) == [{"step": 1, "tokens": 2}]
