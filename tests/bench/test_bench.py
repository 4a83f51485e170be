"""The bench runs whole on a toy shape, and both sides train the same model."""

import json
from pathlib import Path

import pytest
import torch

from plait.bench import comparison
from plait.bench.contestants import ours, theirs
from plait.bench.measuring import types
from plait.bench.pieces import PIECES, experts, growth, optimizers, step_parts
from plait.bench.shapes import SHAPES
from plait.kernels import processor


@pytest.mark.slow
def test_the_whole_bench_on_a_toy_shape(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = comparison.run(shapes=("tiny",), json_path=path, rounds=1)
    assert json.loads(path.read_text()) == result
    assert result["machine"]["torch"] == torch.__version__
    precisions = [p for p in comparison.PRECISIONS if p in result["shapes"]["tiny"]]
    assert precisions == (["fp32", "bf16"] if processor.multiplies_bf16() else ["fp32"])
    for precision in precisions:
        row = result["shapes"]["tiny"][precision]
        assert row["muon"]["ratio"] > 0
        assert row["ratio"] > 0
        assert row["ceiling_share"] > 0
        assert row["memory_ratio"] > 0
    assert result["shapes"]["tiny"]["shared"].keys() == SHAPES["tiny"].variants().keys()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_both_sides_begin_and_train_alike(optimizer: str) -> None:
    shape = SHAPES["tiny"]
    cpu = torch.device("cpu")
    mine = ours(shape.config(), "fp32", cpu, optimizer)
    other = theirs(shape, "fp32", cpu, optimizer)
    batches = shape.batches()
    for _ in range(3):
        batch = next(batches)
        assert mine.step(*batch) == pytest.approx(other.step(*batch), abs=2e-4)


def test_each_piece_is_measured_at_toy_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "SHAPES", {"toy": (64, 32, 4, 2, 32)})
    monkeypatch.setattr(growth, "SHAPES", {"A": SHAPES["tiny"]})
    printed = {
        "experts": list(experts.lines()),
        "step-parts": list(step_parts.lines(((2, 32, 2, 32),), tokens=64, vocabulary=64)),
        "optimizers": list(optimizers.lines(("tiny",))),
        "growth": list(growth.lines()),
    }
    assert printed.keys() == PIECES.keys()
    precisions = len(types(torch.device("cpu")))
    assert [len(lines) for lines in printed.values()] == [precisions, 3 * precisions, 6, 5]


@pytest.mark.parametrize("asked", [{"shapes": ("Z",)}, {"precisions": ("fp8",)}])
def test_what_is_unknown_is_refused_by_name(asked: dict[str, tuple[str]]) -> None:
    with pytest.raises(ValueError, match=r"choose from"):
        comparison.run(**asked)
