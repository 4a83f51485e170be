"""What trackers get of a row."""

from plait.training.trackers import scalars


def test_nested_rows_become_paths_and_what_is_absent_is_left_out():
    row = {"step": 3, "load": [1.5, None], "evaluation": {"code": {"loss": 2.0}}, "loss": None}
    assert dict(scalars(row)) == {"load/0": 1.5, "evaluation/code/loss": 2.0}
