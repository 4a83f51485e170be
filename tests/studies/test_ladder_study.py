"""Studies on a ladder of sizes: their runs, what is predicted, compute saved, rankings."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from made_up_study import made_up_config, write_ladder
from plait.config import EvaluationConfig, ScheduleConfig
from plait.report.study.study_report import write_report
from plait.report.terminal.study_table import show
from plait.studies.answers import answers
from plait.studies.designs import ladder_study
from plait.studies.ladder import Ladder
from plait.studies.plan import write_plan
from plait.studies.registration import PLAN
from plait.studies.results import read_study
from plait.studies.scaling import scaling
from plait.studies.study import Study
from plait.studies.tables import comparison_table
from plait.verification import verify
from tiny_corpus import tiny

SIZES = {"s": {"model.width": 64}, "m": {}, "l": {"model.width": 256}}
TOKENS = {"s": 1_000_000, "m": 2_000_000, "l": 4_000_000}


def structures() -> dict:
    found = {"plain": made_up_config(), "tied": made_up_config(tied=True)}
    return {
        name: dataclasses.replace(
            config,
            schedule=ScheduleConfig(name="wsd", warmup=100_000, decay=400_000),
            evaluation=EvaluationConfig(every=100),
        )
        for name, config in found.items()
    }


def test_every_structure_at_every_size_and_its_schedule_keeps_its_share() -> None:
    study = ladder_study("l", structures(), Ladder(SIZES, TOKENS), baseline="plain")
    assert list(study.variants) == ["plain.s", "tied.s", "plain.m", "tied.m", "plain.l", "tied.l"]
    assert study.variants["plain.m"] == structures()["plain"]
    large = study.variants["tied.l"]
    assert (large.model.width, large.tokens) == (256, 4_000_000)
    assert (large.schedule.warmup, large.schedule.decay) == (200_000, 800_000)
    assert (large.evaluation.every, study.variants["tied.s"].evaluation.every) == (200, 50)
    assert large.model.sharing.experts == "groups(2)"
    assert [c.name for c in study.questions] == ["tied.l − plain.l"]


def test_what_a_size_sets_stays() -> None:
    sizes = {"s": {"schedule.warmup": 7}, "l": {"model.width": 256}}
    study = ladder_study(
        "l", structures(), Ladder(sizes, {"s": 1_000_000, "l": 4_000_000}), baseline="plain"
    )
    assert study.variants["plain.s"].schedule.warmup == 7


@pytest.mark.parametrize(
    ("sizes", "tokens", "says"),
    [
        ({"s": {}}, {"s": 1}, "needs two sizes"),
        ({"s.1": {}, "l": {}}, {"s.1": 1, "l": 1}, "'s.1' cannot be part of a folder's name"),
        (SIZES, {"s": 1}, "give each size its tokens"),
        (SIZES, TOKENS | {"m": 100_000}, "size m costs plain no more compute"),
        (
            {"s": {"tokens": 2_000_000}, "l": {"model.width": 256}},
            {"s": 1_000_000, "l": 4_000_000},
            "size s sets tokens to 2,000,000",
        ),
        (
            {"s": {"model.wide": 3}, "l": {}},
            {"s": 1_000_000, "l": 4_000_000},
            "size s: unknown option 'model.wide': did you mean 'width'",
        ),
    ],
)
def test_ladders_that_make_no_study(sizes: dict, tokens: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        ladder_study("l", structures(), Ladder(sizes, tokens), baseline="plain")
    assert "\n" not in str(caught.value)


def test_variants_that_are_no_rungs_are_refused() -> None:
    ladder = Ladder(SIZES, TOKENS)
    variants = ladder.variants(structures())
    with pytest.raises(ValueError, match=r"baseline 'plain\.s' is not at the largest size, l"):
        Study(name="l", baseline="plain.s", variants=variants, ladder=ladder)
    with pytest.raises(ValueError, match=r"not named STRUCTURE\.SIZE"):
        Study(name="l", baseline="plain", variants=structures(), ladder=ladder)
    del variants["tied.m"]
    with pytest.raises(ValueError, match="tied has no variant of size m"):
        Study(name="l", baseline="plain.l", variants=variants, ladder=ladder)


def test_the_ladder_is_planned_and_read_back(tmp_path: Path) -> None:
    corpus = tiny(tmp_path / "tiny").path
    here = {
        name: dataclasses.replace(c, data=dataclasses.replace(c.data, corpus=str(corpus)))
        for name, c in structures().items()
    }
    study = ladder_study("l", here, Ladder(SIZES, TOKENS), baseline="plain")
    write_plan(study, tmp_path)
    found = read_study(tmp_path / "l")
    assert found.ladder == study.ladder_design
    assert found.ladder is not None
    assert found.ladder.structures == ("plain", "tied")
    assert [c.name for c in found.contrasts] == ["tied.l − plain.l"]
    assert found.deviations == ()
    assert json.loads((tmp_path / "l" / PLAN).read_text())["plan"]["ladder"]["sizes"] == list("sml")


def test_the_largest_size_is_predicted_and_compute_saved_is_that_of_the_curves(
    tmp_path: Path,
) -> None:
    study = read_study(write_ladder(tmp_path, {"plain": 0.0, "good": -0.05, "bad": 0.2}))
    found = scaling(study)
    assert found is not None
    plain, good, bad = found.climbs
    for climb in found.climbs:
        assert climb.held_out is not None
        assert climb.held_out.size == "s160"
        assert climb.held_out.predicted == pytest.approx(climb.held_out.observed, abs=0.1)
        assert climb.held_out.inside
    assert plain.speed_up is None
    assert good.speed_up is not None
    assert bad.speed_up is not None
    # loss 2 + 5·C^−0.3: at plain's last, (0.05 less) takes this much less compute
    last = 5 * 64**-0.3
    assert good.speed_up.value == pytest.approx((last / (last + 0.05)) ** (-1 / 0.3), rel=0.03)
    assert bad.speed_up.value < 1
    assert bad.at_loss == pytest.approx(2 + last + 0.2, abs=0.03)
    assert {size: share.value for size, share in found.accuracy.items()} == {
        "s64": 1.0,
        "s96": 1.0,
        "s128": 1.0,
    }
    assert [a.verdict for a in answers(study)] == ["better", "worse"]
    rows = {row.variant: row for row in comparison_table(study)}
    assert rows["plain.s64"].baseline
    assert rows["bad.s64"].difference is not None
    assert rows["bad.s64"].difference.estimate.value == pytest.approx(0.2, abs=0.01)
    assert (rows["bad.s64"].answer, rows["bad.s160"].answer) == (None, answers(study)[1])
    assert {(r["structure"], r["size"]) for r in study.records()} >= {("bad", "s64")}


def test_few_sizes_one_seed_and_missing_rungs_say_less_and_do_not_fail(tmp_path: Path) -> None:
    short = write_ladder(tmp_path / "short", {"a": 0.0, "b": 0.1}, sizes=("s", "l"))
    one = write_ladder(tmp_path / "one", {"a": 0.0, "b": 0.1}, seeds=1)
    gone = [f"b.{size}-s{seed}" for size in ("s64", "s96") for seed in range(3)]
    holes = write_ladder(tmp_path / "holes", {"a": 0.0, "b": 0.1}, missing=gone)
    for folder in (short, one, holes):
        show(folder, Console(file=io.StringIO(), width=140))
        assert "Over sizes" in write_report(folder).read_text(encoding="utf-8")
    of_short, of_one, of_holes = (scaling(read_study(f)) for f in (short, one, holes))
    assert of_short is not None
    assert of_one is not None
    assert of_holes is not None
    assert [climb.held_out for climb in of_short.climbs] == [None, None]
    assert list(of_short.accuracy) == ["s"]
    assert of_one.climbs[1].held_out is not None
    assert of_one.climbs[1].held_out.low is None
    assert of_one.climbs[1].speed_up is not None
    assert of_one.climbs[1].speed_up.low is None
    assert of_holes.climbs[1].speed_up is None


def test_terminal_report_and_verification_agree(tmp_path: Path) -> None:
    folder = write_ladder(tmp_path, {"plain": 0.0, "good": -0.05})
    said = io.StringIO()
    show(folder, Console(file=said, width=140))
    assert "s160 predicted [90 %]" in said.getvalue()
    page = write_report(folder, figure_formats=["svg"]).read_text(encoding="utf-8")
    assert "Compute saved is plain’s compute" in page
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert {"ladder", "ladder-difference", "predicted"} <= names
    report = json.loads((folder / "report.json").read_text())
    assert [row["structure"] for row in report["ladder"]] == ["plain", "good"]
    assert report["ladder"][1]["speed_up_low95"] > 1
    assert [row["size"] for row in report["ranking"]] == ["s64", "s96", "s128"]

    def problem() -> str | None:
        [check] = [c for c in verify(folder) if c.what.startswith("report")]
        return check.problem

    assert problem() is None
    report["ranking"][0]["pairs"] = 9
    (folder / "report.json").write_text(json.dumps(report))
    assert "its table is not that of the results" in str(problem())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("sizes", []),
        ("baseline", "nobody"),
        ("rungs", {}),
        ("rungs", {"a.s64": ["b", "s64"]}),
        ("rungs", {"a.s64": ["a"]}),
    ],
)
def test_a_damaged_ladder_is_one_line(tmp_path: Path, place: str, value: object) -> None:
    folder = write_ladder(tmp_path, {"a": 0.0, "b": 0.1})
    data = json.loads((folder / "study.json").read_text())
    data["ladder"][place] = value
    (folder / "study.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"study\.json: damaged") as caught:
        read_study(folder)
    assert "\n" not in str(caught.value)
