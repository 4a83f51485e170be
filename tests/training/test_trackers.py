"""What trackers get of a row, and one that is not there."""

import pytest

from plait.training.trackers import open_trackers, scalars


def test_nested_rows_become_paths_and_what_is_absent_is_left_out():
    row = {"step": 3, "load": [1.5, None], "evaluation": {"code": {"loss": 2.0}}, "loss": None}
    assert dict(scalars(row)) == {"load/0": 1.5, "evaluation/code/loss": 2.0}


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[track\]'"):
        open_trackers(["wandb"], tmp_path, {})
