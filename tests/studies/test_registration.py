"""A study's plan is written before its first run, stays, and what departs from it is named."""

import dataclasses
import json
from pathlib import Path

import pytest

from made_up_study import made_up_config
from plait.studies.contrasts import Contrast
from plait.studies.plan import planned_runs, write_plan
from plait.studies.registration import PLAN
from plait.studies.results import read_study
from plait.studies.study import Study
from tiny_corpus import tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny").path


def _study(corpus: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> Study:
    config = made_up_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=str(corpus)))
    tied = made_up_config(tied=True)
    tied = dataclasses.replace(config, model=tied.model)
    return Study(name="s", baseline="plain", variants={"plain": config, "tied": tied}, seeds=seeds)


def test_a_study_as_planned_departs_in_nothing(corpus: Path, tmp_path: Path) -> None:
    write_plan(_study(corpus), tmp_path)
    found = read_study(tmp_path / "s")
    assert found.plan is not None
    assert found.deviations == ()
    assert [c.name for c in found.contrasts] == ["tied − plain"]
    assert found.contrasts[0].margin == 0.01
    wider = dataclasses.replace(_study(corpus), margin=0.1)
    assert [question.margin for question in wider.questions] == [0.1], "and not a pilot's"


def test_before_the_first_run_a_plan_may_change_and_afterwards_it_is_told(
    corpus: Path, tmp_path: Path
) -> None:
    write_plan(_study(corpus, seeds=(0,)), tmp_path)
    first = _study(corpus)
    write_plan(first, tmp_path)
    assert read_study(tmp_path / "s").deviations == ()
    run = planned_runs(first, tmp_path)[0].folder
    run.mkdir(parents=True)
    (run / "metrics.jsonl").touch()

    plain = first.variants["plain"]
    later = dataclasses.replace(
        first,
        variants={"plain": dataclasses.replace(plain, clip=None), "other": plain},
        seeds=(0, 1, 2, 3),
        contrasts=(Contrast("asked later", "other", "plain"),),
    )
    write_plan(later, tmp_path)
    assert read_study(tmp_path / "s").deviations == (
        "variants added: other",
        "variants dropped: tied",
        "variants changed: plain",
        "seeds added: 3",
        "contrasts added: asked later",
        "contrasts dropped: tied − plain",
    )
    write_plan(dataclasses.replace(first, margin=0.5), tmp_path)
    assert read_study(tmp_path / "s").deviations == ("contrast tied − plain: margin changed",)


def test_a_plan_that_was_changed_by_hand_is_refused(corpus: Path, tmp_path: Path) -> None:
    write_plan(_study(corpus), tmp_path)
    path = tmp_path / "s" / PLAN
    data = json.loads(path.read_text())
    data["plan"]["seeds"] = [0]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"plan.json: its hash does not fit"):
        read_study(tmp_path / "s")


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (("q", "tied", "none"), "'none', which is not among the variants"),
        (("q", "tied", "tied"), "compares tied to itself"),
        (("q", "tied", "plain", float("nan")), "must be above 0"),
    ],
)
def test_questions_that_cannot_be_asked(
    corpus: Path, contrast: tuple[str, str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(_study(corpus), contrasts=(Contrast(*contrast),))
