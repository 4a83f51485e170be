"""Training dynamics in a study's report: the values, their range, what is left out."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_up_study import DEPTH, EXPERTS, write_study
from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    TrainConfig,
)
from plait.report.figure import Figure, Section
from plait.report.palette import series
from plait.report.study.dynamics_figures import MEASURES, dynamics_section, smoothed
from plait.report.study.study_report import write_report
from plait.storage.metrics_file import read_rows
from plait.studies.results import read_study
from plait.training import train
from tiny_corpus import tiny

NAMES = {f"dynamics-{measure.name.replace('_', '-')}" for measure in MEASURES}


def section(folder: Path) -> Section | None:
    study = read_study(folder)
    return dynamics_section(study, series(study.finished_variants, study.baseline))


def figures(folder: Path) -> dict[str, Figure]:
    found = section(folder)
    assert found is not None
    return {figure.name: figure for figure in found.figures}


def change(folder: Path, routing: Callable[[Any], Any]) -> None:
    """Write what evaluations recorded of routing anew; None takes it away."""
    for path in folder.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if "routing" in row:
                row["routing"] = routing(row["routing"])
                if row["routing"] is None:
                    del row["routing"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def drawn(figure: Figure) -> tuple[list[dict[str, Any]], list[float]]:
    """The points of the curves, and the values that stand beside them."""
    spec: Any = figure.chart.to_dict()
    parts = [part for part in (spec, *spec["layer"]) if "data" in part]
    rows = {json.dumps(row): row for part in parts for row in part["data"]["values"]}.values()
    beside = [row["value"] for row in rows if "variant" not in row]
    return [row for row in rows if "variant" in row], beside


def test_lines_are_means_of_smoothed_seeds_with_their_range(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"plain": [0.0, 0.1], "tied": [0.1, 0.2]})
    smooth: list[list[float]] = []
    for seed in (0, 1):
        rows = read_rows(folder / f"run0-s{seed}" / "metrics.jsonl")
        raw = [sum(r["routing"]["load_max_over_mean"]) / DEPTH for r in rows if "routing" in r]
        smooth.append([])
        for last in range(len(raw)):  # the average by its definition
            weights = [0.5 ** (last - i) for i in range(last + 1)]
            total = sum(weight * raw[i] for i, weight in enumerate(weights))
            smooth[seed].append(total / sum(weights))
    points, beside = drawn(figures(folder)["dynamics-load-max-over-mean"])
    assert not beside
    plain = [point for point in points if point["variant"] == "plain"]
    assert [point["tokens"] for point in plain] == [0.4, 0.8, 1.2, 1.6, 2.0]
    for index, point in enumerate(plain):
        pair = smooth[0][index], smooth[1][index]
        assert point["value"] == pytest.approx(sum(pair) / 2)
        assert (point["low"], point["high"]) == pytest.approx((min(pair), max(pair)))


def test_each_measure_has_its_figure_where_a_run_recorded_it(tmp_path: Path) -> None:
    offsets = {"plain": [0.0, 0.1], "tied": [0.1, 0.2], "ct": [0.2, 0.1]}
    folder = write_study(tmp_path, offsets, collaborating=["ct"])
    found = figures(folder)
    assert set(found) == NAMES
    for figure in found.values():
        assert "Smoothed with weight 0.5" in figure.caption
    beside = {name: drawn(figure)[1] for name, figure in found.items()}
    assert beside["dynamics-router-entropy"] == pytest.approx([math.log(EXPERTS)])
    assert beside["dynamics-topology-max"] == pytest.approx([1 / (EXPERTS - 1)], abs=1e-6)
    [path] = beside["dynamics-path-entropy"]
    assert 0 < path < math.log(4096)
    points, _ = drawn(found["dynamics-consistency-in-blocks"])
    assert {point["variant"] for point in points} == {"tied"}
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<h2>Training dynamics</h2>" in page
    plain = write_study(tmp_path, {"plain": [0.0]}, name="one-seed")
    assert NAMES - set(figures(plain)) == {
        "dynamics-topology-entropy",
        "dynamics-topology-max",
        "dynamics-consistency-in-blocks",
        "dynamics-agreement",
    }
    points, _ = drawn(figures(plain)["dynamics-path-entropy"])
    assert all("low" not in point for point in points)


def test_real_runs_are_drawn_and_a_dense_one_beside_them_is_not(tmp_path: Path) -> None:
    corpus = tiny(tmp_path / "corpus")
    routed = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=16,
        context=32,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=8, top_k=3),
        collaboration=CollaborationConfig(),
    )
    dense = replace(routed, experts=ExpertConfig(count=1, width=8, top_k=1), collaboration=None)
    study, planned = tmp_path / "study", []
    for variant, model in {"routed": routed, "dense": dense}.items():
        config = TrainConfig(
            model=model,
            data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=4),
            tokens=4 * 128,
            evaluation=EvaluationConfig(every=2, tokens=64, final_tokens=64),
        )
        train(config, study / variant, device="cpu")
        planned.append({"variant": variant, "seed": 0, "folder": variant})
    header = {"name": "s", "description": "", "baseline": "dense", "margin": 0.02, "runs": planned}
    (study / "study.json").write_text(json.dumps(header))
    found = figures(study)
    assert set(found) == NAMES - {"dynamics-consistency-in-blocks", "dynamics-agreement"}
    for figure in found.values():
        points, _ = drawn(figure)
        assert [(point["variant"], point["tokens"]) for point in points] == [
            ("routed", 256e-6),
            ("routed", 512e-6),
        ]


@pytest.mark.parametrize(
    "routing",
    [
        lambda _: None,
        lambda _: [1, 2],
        lambda of: {name: "x" for name in of},
        lambda of: {name: [None, True, {}, math.nan] for name in of},
    ],
)
def test_runs_that_recorded_none_or_nonsense_are_left_out(
    tmp_path: Path, routing: Callable[[Any], Any]
) -> None:
    folder = write_study(tmp_path, {"plain": [0.0, 0.1], "tied": [0.1, 0.2]})
    change(folder, routing)
    assert section(folder) is None
    assert "Training dynamics" not in write_report(folder).read_text(encoding="utf-8")


def test_an_average_begins_with_the_first_value() -> None:
    assert smoothed([]) == []
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3, 3, 3])
    assert smoothed([1.0, 4.0], weight=0.5) == pytest.approx([1, 3])
