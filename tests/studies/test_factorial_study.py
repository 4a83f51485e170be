"""Factorial studies: cells, their plan, effects and verdicts, and that a killed one is the same."""

import dataclasses
import io
import json
import math
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from made_up_study import made_up_config, write_factorial, write_study
from plait.bench.measuring import threads
from plait.config import (
    CheckpointConfig,
    CollaborationConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.report.study.design_words import study_headline
from plait.report.study.study_report import write_report
from plait.report.terminal.study_table import show
from plait.storage.run_folder import RunFolder
from plait.studies.contrasts import Contrast
from plait.studies.designs import factorial_study
from plait.studies.effects import effects
from plait.studies.factorial import Factorial
from plait.studies.plan import planned_runs, write_plan
from plait.studies.registration import PLAN, plan_of
from plait.studies.results import read_study
from plait.studies.runner import run
from plait.studies.study import Study
from plait.training import train
from plait.verification import verify
from tiny_corpus import tiny

ROUTER = {"own": {}, "b2": {"model.sharing.router": "blocks(2)"}}
EXPERTS = {"own": {}, "g2": {"model.sharing.experts": "groups(2)"}}
CLIP = {"one": {}, "two": lambda config: dataclasses.replace(config, clip=2.0)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny").path


def with_corpus(config: TrainConfig, corpus: Path) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=str(corpus)))


def test_cells_are_all_combinations_and_change_just_what_their_levels_say() -> None:
    base = made_up_config()
    factors = {"router": ROUTER, "experts": EXPERTS, "clip": CLIP}
    cells = Factorial(factors).variants(base)
    assert list(cells) == [
        "base",
        "clip-two",
        "experts-g2",
        "experts-g2+clip-two",
        "router-b2",
        "router-b2+clip-two",
        "router-b2+experts-g2",
        "router-b2+experts-g2+clip-two",
    ]
    assert cells["base"] == base
    sharing = dataclasses.replace(base.model.sharing, router="blocks(2)", experts="groups(2)")
    assert cells["router-b2+experts-g2"] == dataclasses.replace(
        base, model=dataclasses.replace(base.model, sharing=sharing)
    )
    half = Factorial(factors, "half").variants(base)
    assert list(half) == [name for name in cells if name.count("-") % 2 == 0]
    assert half.items() <= cells.items()


def test_a_part_that_is_none_gets_options_or_comes_whole() -> None:
    options = {"none": {}, "weak": {"model.collaboration.strength": 0.25}}
    whole = {"none": {}, "weak": {"model.collaboration": CollaborationConfig(strength=0.25)}}
    by_option, by_value = (
        Factorial({"c": levels}).variants(made_up_config())["c-weak"] for levels in (options, whole)
    )
    assert by_option == by_value
    assert by_option.model.collaboration == CollaborationConfig(strength=0.25)


@pytest.mark.parametrize(
    ("factors", "fraction", "says"),
    [
        ({}, "all", "needs factors"),
        ({"router": {"own": {}}}, "all", "factor router has one level"),
        ({"router": {"own": {}, "b+4": {}}}, "all", "'b.4' cannot be part of a folder's name"),
        ({"../r": {"own": {}, "b4": {}}}, "all", "cannot be part of a folder's name"),
        ({"a-b": {"x": {}, "c": {}}, "a": {"x": {}, "b-c": {}}}, "all", "two cells have the same"),
        ({"router": ROUTER, "experts": EXPERTS}, "half", "half of 2 factors separates nothing"),
        ({"r": ROUTER, "e": EXPERTS, "c": {"1": {}, "2": {}, "3": {}}}, "half", "two-level"),
        ({"router": ROUTER}, "third", "fraction is 'third'"),
        ({"r": ROUTER, "again": ROUTER}, "all", "both set model.sharing.router: one of them"),
        (
            {"r": ROUTER, "all": {"own": {}, "x": {"model.sharing": {}}}},
            "all",
            "both set model.sharing.router",
        ),
    ],
)
def test_factors_that_make_no_design(factors: dict, fraction: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Factorial(factors, fraction)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.sharing.rooter": "all"}, "factor f, level new: unknown option .* 'router'"),
        ({"model.width.inner": 3}, "width has no parts"),
        ({"model.width": "wide"}, "model.width: expected int"),
        ({"model.sharing.router": "blocks(0)"}, "level new: "),
        ({"model.width": 128}, "base and f-new are the same configuration"),
        ({"seed": 4}, "only the seed, which the study sets"),
        (lambda config: None, "returns None, and not a TrainConfig"),
    ],
)
def test_levels_that_do_not_fit_the_base(change: object, says: str) -> None:
    factorial = Factorial({"f": {"old": {}, "new": change}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=says) as caught:
        factorial.variants(made_up_config())
    assert "\n" not in str(caught.value)


def test_the_design_is_planned_hashed_and_read_back(corpus: Path, tmp_path: Path) -> None:
    factorial = Factorial({"router": ROUTER, "experts": EXPERTS})
    base = with_corpus(made_up_config(), corpus)
    study = factorial_study("s", base, factorial)
    assert study.questions == ()
    write_plan(study, tmp_path)
    found = read_study(tmp_path / "s")
    assert found.factorial == factorial.design
    assert found.contrasts == found.deviations == ()
    planned = json.loads((tmp_path / "s" / PLAN).read_text())["plan"]
    assert planned["factorial"]["factors"] == {"router": ["own", "b2"], "experts": ["own", "g2"]}
    assert planned["factorial"]["margin"] == 0.01

    (planned_runs(study, tmp_path)[0].folder).mkdir()
    (planned_runs(study, tmp_path)[0].folder / "metrics.jsonl").touch()
    write_plan(dataclasses.replace(study, margin=0.5), tmp_path)
    assert read_study(tmp_path / "s").deviations == ("factorial design changed",)
    asked = Contrast("one cell", "router-b2", "base")
    write_plan(dataclasses.replace(study, contrasts=(asked,)), tmp_path)
    assert [c.name for c in read_study(tmp_path / "s").contrasts] == ["one cell"]

    plain = Study(name="p", baseline="base", variants=study.variants)
    assert set(plan_of(plain)) == {"variants", "baseline", "seeds", "contrasts", "analysis"}
    with pytest.raises(ValueError, match="are not the cells of its factorial design"):
        dataclasses.replace(study, variants={"base": base})


def test_effects_are_found_and_judged_as_contrasts_are(tmp_path: Path) -> None:
    stated = {("router=b4",): -0.04, ("experts=g4",): 0.05, ("router=b4", "experts=g4"): 0.06}
    study = read_study(write_factorial(tmp_path, stated, seeds=5, noise=0.001))
    found = effects(study)
    assert found is not None
    assert found.aliases == ()
    by_name = {one.name: one for one in found.findings}
    assert {name: one.verdict for name, one in by_name.items()} == {
        "router=b4": "better",  # −0.04 + 0.06 ÷ 2
        "experts=g4": "worse",
        "collaboration=topology": "equivalent",
        "router=b4 × experts=g4": "worse",
        "router=b4 × collaboration=topology": "equivalent",
        "experts=g4 × collaboration=topology": "equivalent",
    }
    estimate = by_name["router=b4 × experts=g4"].difference
    assert estimate is not None
    assert estimate.estimate.value == pytest.approx(0.06, abs=0.004)
    said = study_headline(study)
    assert said.title.startswith("experts=g4 raises the loss by 0.08")
    assert "5 more of 6 effects decided" in said.title
    assert [sentence.split(":")[0] for sentence in said.sentences] == [
        "router=b4",
        "experts=g4",
        "collaboration=topology",
        "router=b4 × experts=g4",
    ]


def test_no_verdict_with_two_seeds_an_unfinished_cell_or_models_that_learned_nothing(
    tmp_path: Path,
) -> None:
    stated = {("router=b4",): -0.04}
    two = read_study(write_factorial(tmp_path / "two", stated, seeds=2))
    assert study_headline(two).title == "Nothing is decided: a verdict needs 3 seeds"
    high = read_study(write_factorial(tmp_path / "high", stated, bigram=3.9))
    found = effects(high)
    assert found is not None
    assert {one.verdict for one in found.findings} == {"not learned"}
    missing = [f"router-b4-s{seed}" for seed in range(3)]
    folder = write_factorial(tmp_path / "open", stated, missing=missing)
    none = effects(read_study(folder))
    assert none is not None
    assert none.findings == ()
    assert "no seed has finished every cell" in study_headline(read_study(folder)).title
    assert "no seed has finished every cell" in write_report(folder).read_text()
    one_less = read_study(write_factorial(tmp_path / "less", stated, seeds=4, missing=missing[:1]))
    assert effects(one_less).seeds == (1, 2, 3)  # type: ignore[union-attr]


def test_terminal_report_and_verification_agree(tmp_path: Path) -> None:
    folder = write_factorial(tmp_path, {("router=b4",): -0.04})
    said = io.StringIO()
    show(folder, Console(file=said, width=140))
    assert "router=b4 × experts=g4" in said.getvalue()
    page = write_report(folder, figure_formats=["svg"]).read_text(encoding="utf-8")
    assert "Each of 24 runs counts in every effect" in page
    assert len(list((folder / "figures").glob("interaction-*.svg"))) == 3
    report = json.loads((folder / "report.json").read_text())
    first = report["effects"][0]
    assert (first["effect"], first["verdict"], first["seeds"]) == ("router=b4", "better", 3)
    assert first["effect_nats_per_token"] == pytest.approx(-0.04, abs=0.005)

    def problem() -> str | None:
        [check] = [c for c in verify(folder) if c.what.startswith("report")]
        return check.problem

    assert problem() is None
    report["effects"][0]["effect_nats_per_token"] -= 1
    (folder / "report.json").write_text(json.dumps(report))
    assert "its table is not that of the results" in str(problem())


def test_what_a_half_does_not_tell_apart_is_said(tmp_path: Path) -> None:
    design = Factorial({name: {"0": {}, "1": {}} for name in "abc"}, "half").design
    offsets = {name: [0.0, 0.01, 0.02] for name in design.cells}
    stored = {
        "factorial": {
            "factors": {k: list(v) for k, v in design.factors.items()},
            "cells": {k: list(v) for k, v in design.cells.items()},
        }
    }
    folder = write_study(tmp_path, offsets, design=stored)
    said = io.StringIO()
    show(folder, Console(file=said, width=140))
    assert "not told apart by these cells: " in said.getvalue()
    assert "a=1" in said.getvalue()


def test_one_factor_has_effects_and_no_interactions(tmp_path: Path) -> None:
    cells = {"base": ["x"], "a-y": ["y"], "a-z": ["z"]}
    design = {"factors": {"a": ["x", "y", "z"]}, "cells": cells}
    offsets = {"base": [0.0, 0.1, 0.2], "a-y": [0.1, 0.2, 0.301], "a-z": [0.0, 0.1, 0.201]}
    folder = write_study(tmp_path, offsets, design={"factorial": design})
    found = effects(read_study(folder))
    assert found is not None
    assert [one.verdict for one in found.findings] == ["worse", "equivalent"]
    assert "Effects of the factors" in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "factorial",
    [
        3,
        {"factors": {"a": ["x"]}, "cells": {"base": ["x"], "other": ["x"]}},
        {"factors": {"a": ["x", "x"]}, "cells": {"base": ["x"], "other": ["x"]}},
        {"factors": {"a": ["x", "y"]}, "cells": {"base": ["x"], "other": ["z"]}},
        {"factors": {"a": ["x", "y"]}, "cells": {"base": ["x"], "other": ["x", "y"]}},
        {"factors": {"a": ["x", "y"]}, "cells": {"base": ["x"]}},
    ],
)
def test_a_damaged_design_is_one_line(tmp_path: Path, factorial: object) -> None:
    offsets = {"base": [0.0], "other": [0.1]}
    folder = write_study(tmp_path, offsets, design={"factorial": factorial})
    with pytest.raises(ValueError, match=r"study\.json: damaged") as caught:
        read_study(folder)
    assert "\n" not in str(caught.value)


def test_runs_as_rows_and_as_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(write_factorial(tmp_path, {}, missing=["base-s1"], bigram=5.0))
    rows = study.records()
    assert [(row["variant"], row["seed"]) for row in rows[:3]] == [
        ("base", 0),
        ("base", 2),
        ("collaboration-topology", 0),
    ]
    assert rows[2]["factor_collaboration"] == "topology"
    assert rows[2]["model.sharing.experts"] == "groups(2)"
    assert rows[0]["bits_per_byte_code"] > rows[0]["bits_per_byte"] > 0
    assert rows[0]["bigram_loss_nats_per_token"] == 5.0
    assert rows[0]["parameters_stored"] == 3_400_000
    pandas = pytest.importorskip("pandas")
    frame = study.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == rows
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match='which the extra "report" brings') as caught:
        study.frame()
    assert caught.value.name == "pandas"


DRIVER = """
import pickle, sys
from pathlib import Path
from plait.studies.runner import run
sys.exit(run(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])).exit_code)
"""


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_uninterrupted_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    base = TrainConfig(
        model=ModelConfig(
            vocab_size=512, depth=2, width=32, context=64, experts=ExpertConfig(count=4, width=32)
        ),
        data=DataConfig(corpus=str(corpus), sequence_length=64, batch=4),
        tokens=40 * 256,
        schedule=ScheduleConfig(warmup=1000),
        evaluation=EvaluationConfig(tokens=512, final_tokens=512),
        checkpoint=CheckpointConfig(every=10),
    )
    factors = {"router": {"own": {}, "all": {"model.sharing.router": "all"}}}
    factors["experts"] = {"own": {}, "all": {"model.sharing.experts": "all"}}
    study = factorial_study("crossed", base, Factorial(factors), seeds=(0,))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    (tmp_path / "study.pickle").write_bytes(pickle.dumps(study))
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "study.pickle"), str(killed)]
    second = planned_runs(study, killed)[1].folder
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(second.glob("checkpoints/step-*")):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    while RunFolder(second).held:  # its worker notices, saves and stops
        time.sleep(0.02)
    assert not RunFolder(planned_runs(study, killed)[3].folder).finished
    quiet = Console(file=io.StringIO())
    assert run(study, killed, console=quiet).exit_code == 0
    write_plan(study, whole)
    with threads(1):  # as its workers have
        for planned in planned_runs(study, whole):
            train(planned.config, planned.folder)

    for name in ("study.json", PLAN):
        assert (killed / "crossed" / name).read_text() == (whole / "crossed" / name).read_text()
    for one, other in zip(planned_runs(study, killed), planned_runs(study, whole), strict=True):
        losses = [
            [row["loss"] for row in RunFolder(planned.folder).metrics() if "loss" in row]
            for planned in (one, other)
        ]
        assert len(losses[0]) == 40
        assert losses[0] == losses[1], one.name
    found = [effects(read_study(root / "crossed")) for root in (killed, whole)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert len(found[0].findings) == 3
    values = [one.difference.estimate.value for one in found[0].findings if one.difference]
    assert all(math.isfinite(value) and value for value in values)
