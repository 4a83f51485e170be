"""The file of metrics, as it is written, cut and followed."""

from plait.storage.metrics_file import JsonLines, NewRows, read_rows


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


def test_new_rows_are_taken_once_and_again_after_a_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    new = NewRows(path)
    assert new.take() == []
    rows = JsonLines(path)
    for step in (1, 2, 3):
        rows.write({"step": step})
    with path.open("a") as file:
        file.write('{"st')
    assert [row["step"] for row in new.take()] == [1, 2, 3]
    assert new.take() == []
    rows.close()
    resumed = JsonLines(path, after=1)
    resumed.write({"step": 2})
    resumed.close()
    assert [row["step"] for row in new.take()] == [1, 2]
