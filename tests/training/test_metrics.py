import pytest

from plait.training.metrics import JsonLines, open_trackers, read_rows, scalars


def test_rows_after_the_resumed_step_and_half_lines_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    for step in range(1, 6):
        first.write({"step": step, "loss": 1 / step})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    second = JsonLines(path, after=3)
    second.write({"step": 4, "loss": 9.0})
    second.close()
    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [
        (1, 1.0),
        (2, 1 / 2),
        (3, 1 / 3),
        (4, 9.0),
    ]


def test_nested_rows_become_paths_and_what_is_absent_is_left_out():
    row = {"step": 3, "load": [1.5, None], "evaluation": {"code": {"loss": 2.0}}, "loss": None}
    assert dict(scalars(row)) == {"load/0": 1.5, "evaluation/code/loss": 2.0}


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'plait\[track\]'"):
        open_trackers(["wandb"], tmp_path, {})
