"""What trackers get of a row."""

from plait.training.trackers import scalars


def test_nested_rows_become_paths_and_what_is_absent_is_left_out():
    row = {"step": 3, "evaluation": {"code": {"loss": 2.0}}, "loss": None, "tokens": 7}
    assert dict(scalars(row)) == {"evaluation/code/loss": 2.0, "tokens": 7}


def test_a_list_over_depths_has_three_names_however_deep_the_model():
    row = {"step": 3, "routing": {"dead_experts": [None, 1, 0, 5], "consistency": 0.25}}
    assert dict(scalars(row)) == {
        "routing/dead_experts/mean": 2.0,
        "routing/dead_experts/min": 0,
        "routing/dead_experts/max": 5,
        "routing/consistency": 0.25,
    }
    assert not dict(scalars({"step": 3, "load": [None, None]}))
