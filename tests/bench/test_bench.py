"""The bench runs whole on a toy shape, and both sides train the same model."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from plait.bench import comparison, expected, together
from plait.bench.contestants import Trained, ours, theirs
from plait.bench.measuring import threads, types
from plait.bench.pieces import PIECES, experts, growth, optimizers, roofline, step_parts
from plait.bench.shapes import SHAPES
from plait.cli.bench import bench
from plait.config.counts import count
from plait.kernels import processor


@pytest.mark.slow
def test_the_whole_bench_on_a_toy_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said, steps, step = tmp_path / "bench.json", io.StringIO(), [], Trained.step
    monkeypatch.setattr(Trained, "step", lambda *given: steps.append(1) or step(*given))
    console = Console(file=said)
    result = comparison.run(shapes=("tiny",), json_path=path, rounds=1, console=console)
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
    assert len(steps) == expected.steps_here(SHAPES["tiny"], precisions, rounds=1, extras=True)
    lines = said.getvalue()
    ratio = f"{result['shapes']['tiny']['fp32']['ratio']:.2f}"
    assert re.search(r"about \d+ \w+ on this machine, with a line for each shape", lines)
    assert re.search(rf"shape tiny: {ratio} × transformers in fp32.* \(\d+ \w+\)\n", lines)
    assert "…" not in lines, "a column is cut"


def test_what_is_left_is_told_at_the_pace_of_what_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter((0.0, 30.0, 90.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = expected.Clock({"A": 10, "B": 20, "C": 70})
    assert clock.begin() == "about 2 minutes on this machine"
    assert clock.done("A") == "30 seconds, about 4 minutes to go"  # three times what was expected
    assert clock.done("B") == "60 seconds, about 4 minutes to go"


def test_more_and_larger_steps_are_expected_to_take_longer() -> None:
    cpu, both = torch.device("cpu"), ("fp32", "bf16")

    def seconds(shape: str, precisions: tuple[str, ...], rounds: int) -> float:
        how = SHAPES[shape], precisions, rounds, False, False, cpu
        return expected.expected_seconds(*how)

    with threads(1):
        assert seconds("A", ("fp32",), 1) < seconds("A", both, 5) < seconds("D", both, 5)


def test_compiled_or_not_it_is_the_same_step_and_the_best_of_each_side_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape, cpu = SHAPES["tiny"], torch.device("cpu")
    batch = next(shape.batches())
    whole = ours(shape.config(), "fp32", cpu).compiled(backend="eager")
    assert whole.step(*batch) == pytest.approx(ours(shape.config(), "fp32", cpu).step(*batch))
    fixed = {"eager": 6.0, "grouped_mm": 4.0, "plait": 3.0, "plait, compiled": 2.0}
    monkeypatch.setattr(comparison.measuring, "interleaved", lambda contestants, rounds: fixed)
    found = comparison._compiled(whole, whole, shape.batches(), rounds=1)
    assert found == {"ratio_compiled": 2.0, "seconds_compiled": fixed}


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


def test_each_piece_is_measured_at_toy_sizes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(experts, "SHAPES", {"toy": (64, 32, 4, 2, 32)})
    monkeypatch.setattr(together, "SECONDS", 0.05)
    monkeypatch.setattr(growth, "ROUNDS", 1)
    figure = tmp_path / "growth.svg"
    with threads(2):
        growths = list(growth.lines(("tiny",), figure))
    printed = {
        "experts": list(experts.lines()),
        "step-parts": list(step_parts.lines(((2, 32, 2, 32),), tokens=64, vocabulary=64)),
        "optimizers": list(optimizers.lines(("tiny",))),
        "growth": growths,
        "roofline": list(roofline.lines(("tiny",))),
    }
    assert printed.keys() == PIECES.keys()
    precisions = len(types(torch.device("cpu")))
    counts = [precisions, 3 * precisions, 6, 6, 10 * precisions]
    assert [len(lines) for lines in printed.values()] == counts
    assert "2 runs, 1 thread each" in printed["growth"][-1]
    assert figure.read_text().count("experts per token") > 0


def test_a_piece_is_measured_at_the_shapes_that_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "lines", lambda names: [f"roofline {names}"])
    bench(shapes=("tiny", "A"), pieces=("roofline",))
    assert "roofline ('tiny', 'A')" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no shape is called 'E'"):
        bench(shapes=("E",), pieces=("roofline",))
    with pytest.raises(ValueError, match="--pieces experts has sizes of its own"):
        bench(shapes=("A",), pieces=("roofline", "experts"))


@pytest.mark.parametrize("name", ["N", "D"])
def test_the_roofline_counts_the_flops_of_a_step(name: str) -> None:
    shape = SHAPES[name]
    counted = sum(part.flops for part in roofline.parts(shape, bf16=False).values())
    whole = count(shape.config()).flops_training * shape.tokens
    assert counted == pytest.approx(whole, rel=1e-3)  # which counts the norms of queries and keys


def test_a_part_is_bound_by_what_takes_longer() -> None:
    part = roofline.Part(flops=6e9, bytes=1e9)
    assert part.limit(flops_per_second=1e9, bytes_per_second=1e9) == 6
    assert part.limit(flops_per_second=1e9, bytes_per_second=0.1e9) == 10


def test_every_part_of_a_step_is_seen_by_the_profiler() -> None:
    took = roofline.seconds(SHAPES["tiny"], bf16=False)
    assert all(value > 0 for value in took.values())


@pytest.mark.parametrize("asked", [{"shapes": ("Z",)}, {"precisions": ("fp8",)}])
def test_what_is_unknown_is_refused_by_name(asked: dict[str, tuple[str]]) -> None:
    with pytest.raises(ValueError, match="choose "):
        comparison.run(**asked)
