"""What travels between processes, apart from any model."""

from ranks import check_dispatch, check_owners

from gloo import start


def test_experts_on_other_processes_are_the_experts_here(processes, tmp_path):
    start(processes, 2, check_dispatch, tmp_path)
    assert (tmp_path / "1.txt").read_text() == "spread all on one one token nobody here"


def test_each_matrix_is_computed_by_one_process_and_comes_back_in_rows(processes, tmp_path):
    start(processes, 3, check_owners, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
