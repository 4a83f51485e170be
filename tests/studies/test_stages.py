"""What a study does next follows from the disk: rates first, then seeds, look by look."""

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from made_up_study import made_up_config, measures
from plait.report.palette import series
from plait.report.study.tuning_section import tuning_section
from plait.storage.result import Result
from plait.storage.run_folder import DIVERGED, RunFolder
from plait.studies.answers import answers
from plait.studies.plan import PlannedRun
from plait.studies.results import read_study
from plait.studies.stages import next_stage
from plait.studies.study import Study
from plait.studies.tuning import Tuning
from tiny_corpus import tiny

Loss = Callable[[PlannedRun], float]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny").path


def _study(corpus: Path, **options: object) -> Study:
    config = made_up_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=str(corpus)))
    tied = dataclasses.replace(config, model=made_up_config(tied=True).model)
    return Study(name="s", baseline="plain", variants={"plain": config, "tied": tied}, **options)


def _finish(run: PlannedRun, loss: float) -> None:
    """Leave what a trained run leaves."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "metrics.jsonl").touch()
    if math.isinf(loss):
        (run.folder / DIVERGED).write_text(json.dumps({"step": 1, "message": "diverged"}))
        return
    from plait.config.files import save_yaml

    save_yaml(run.config, run.folder / "config.yaml")
    Result(
        study="s", variant=run.variant, seed=run.seed, config_hash="0" * 12, steps=1, tokens=4096,
        skipped_steps=0, evaluation={"split": "test", "domains": {"all": measures(loss)}},
        parameters={}, flops_per_token={}, gate_mass=None, load=[], seconds=1.0,
        tokens_per_second=1000.0, corpus_fingerprint="0" * 16, environment={},
    ).save(run.folder)  # fmt: skip


def _run(study: Study, root: Path, loss: Loss) -> list[tuple[str, int]]:
    """Train all stages; return the name of each and how many runs it had to train."""
    done = []
    while True:
        stage = next_stage(study, root)
        if not stage.waiting:
            return done
        assert next_stage(study, root) == stage, "asking changes nothing"
        done.append((stage.name, len(stage.waiting)))
        for run in stage.waiting:
            _finish(run, loss(run))


# ------------------------------------------------------------------ tuning


def _bowl(best: dict[str, float]) -> Loss:
    """Lowest at a variant's own best rate; worse on the seeds of results, to tell them apart."""

    def loss(run: PlannedRun) -> float:
        rate = run.config.optimizer.learning_rate
        name = run.variant.removesuffix(".tuning")
        noise = random.Random(f"{name} {run.seed} {rate}").gauss(0, 0.001)
        return 4 + math.log2(rate / best[name]) ** 2 * 0.1 + noise

    return loss


def test_each_variant_gets_the_planted_optimum(corpus: Path, tmp_path: Path) -> None:
    tuning = Tuning(learning_rate=(0.01, 0.02, 0.04), seeds=(100, 101))
    study = _study(corpus, seeds=(0, 1, 2), tuning=tuning)
    done = _run(study, tmp_path, _bowl({"plain": 0.02, "tied": 0.08}))
    # 2 × 3 rates × 2 seeds; tied's optimum is beyond the edge, and so is the first try there
    assert done == [("tuning", 12), ("tuning", 2), ("tuning", 2), ("all seeds", 6)]
    found = read_study(tmp_path / "s")
    plain, tied = found.tuning
    assert (plain.state, plain.learning_rate) == ("tuned", 0.02)
    assert (tied.state, tied.learning_rate) == ("tuned", 0.08)
    assert sorted(tied.losses) == [0.01, 0.02, 0.04, 0.08, 0.16]
    rates = {run.variant: run.config.optimizer.learning_rate for run in found.runs}
    assert rates == {"plain": 0.02, "tied": 0.08}
    assert {run.config.evaluation.final_split for run in found.runs} == {"test"}
    assert found.deviations == ()

    section = tuning_section(found, series(found.finished_variants, found.baseline))
    assert section is not None
    [figure] = section.figures
    drawn = figure.chart.to_dict()["data"]["values"]
    assert {(r["variant"], r["rate"]) for r in drawn if r["chosen"]} == {
        ("plain", 0.02),
        ("tied", 0.08),
    }
    assert "lowest inside the grid" in section.html


def test_tuning_is_scored_on_validation_text_with_seeds_of_its_own(
    corpus: Path, tmp_path: Path
) -> None:
    study = _study(corpus, seeds=(0,), tuning=Tuning(learning_rate=(0.01, 0.02, 0.04)))
    runs = next_stage(study, tmp_path).runs
    assert {run.config.evaluation.final_split for run in runs} == {"validation"}
    assert {run.seed for run in runs} == {1000}
    with pytest.raises(ValueError, match="flatters"):
        dataclasses.replace(study, seeds=(1000,))


def test_an_optimum_that_stays_at_the_edge_is_told(corpus: Path, tmp_path: Path) -> None:
    tuning = Tuning(learning_rate=(0.01, 0.02, 0.04), widen=1)
    _run(_study(corpus, tuning=tuning), tmp_path, _bowl({"plain": 0.001, "tied": 0.02}))
    plain, tied = read_study(tmp_path / "s").tuning
    assert (plain.state, plain.learning_rate) == ("not tuned", 0.005)
    assert tied.state == "tuned"


def test_a_rate_that_diverges_is_never_chosen(corpus: Path, tmp_path: Path) -> None:
    bowl = _bowl({"plain": 0.03, "tied": 0.02})

    def loss(run: PlannedRun) -> float:
        return math.inf if run.config.optimizer.learning_rate > 0.03 else bowl(run)

    tuning = Tuning(learning_rate=(0.01, 0.02, 0.04))
    _run(_study(corpus, tuning=tuning), tmp_path, loss)
    plain, _ = read_study(tmp_path / "s").tuning
    assert plain.learning_rate == 0.02
    assert math.isinf(plain.means[0.04])
    everywhere = tmp_path / "everywhere"
    with pytest.raises(ValueError, match="plain, tied diverged at every rate"):
        _run(_study(corpus, tuning=tuning), everywhere, lambda run: math.inf)


@pytest.mark.parametrize("rates", [(0.1, 0.2), (0.2, 0.1, 0.3), (0.0, 0.1, 0.2)])
def test_grids_that_make_no_sense(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="tuning: the rates"):
        Tuning(learning_rate=rates)


# ------------------------------------------------------------------ looks


def _apart(gap: float, noise: float) -> Loss:
    def loss(run: PlannedRun) -> float:
        own = random.Random(f"{run.variant} {run.seed}").gauss(0, noise)
        return 4 + (gap if run.variant == "tied" else 0) + own

    return loss


def test_what_is_decided_early_stops_and_what_is_not_goes_on(corpus: Path, tmp_path: Path) -> None:
    study = _study(corpus, seeds=tuple(range(12)), looks=(4, 8, 12))
    done = _run(study, tmp_path / "far", _apart(0.5, 0.002))
    assert done == [("the first 4 seeds", 8)]
    found = read_study(tmp_path / "far" / "s")
    [answer] = answers(found)
    assert answer.verdict == "worse"
    assert (len(found.runs), found.deviations) == (8, ())

    done = _run(study, tmp_path / "near", _apart(0.012, 0.03))
    assert done == [(f"the first {seeds} seeds", 8) for seeds in (4, 8, 12)]
    [answer] = answers(read_study(tmp_path / "near" / "s"))
    assert answer.verdict == "undecided"


def test_half_a_look_is_no_look(corpus: Path, tmp_path: Path) -> None:
    study = _study(corpus, seeds=tuple(range(8)), looks=(4, 8))
    loss = _apart(0.012, 0.03)
    for run in next_stage(study, tmp_path).waiting:
        _finish(run, loss(run))
    [at_look] = answers(read_study(tmp_path / "s"))
    second = next_stage(study, tmp_path)
    for run in second.waiting[:6]:  # killed here, three more pairs done
        _finish(run, loss(run))
    [between] = answers(read_study(tmp_path / "s"))
    assert between == at_look
    assert len(next_stage(study, tmp_path).waiting) == 2


def test_looks_must_end_with_the_last_seed(corpus: Path) -> None:
    with pytest.raises(ValueError, match="the last look is at 4 seeds, but there are 6"):
        _study(corpus, seeds=tuple(range(6)), looks=(3, 4))
    with pytest.raises(ValueError, match="three seeds or more"):
        _study(corpus, seeds=(0, 1), looks=(2,))


def test_a_run_that_diverged_says_so_until_it_finishes(tmp_path: Path) -> None:
    (tmp_path / DIVERGED).write_text("{}")
    assert RunFolder(tmp_path).diverged
