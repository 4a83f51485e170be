"""What travels between processes, apart from any model."""

from ranks import check_dispatch, check_owners, check_turns, in_turn

from gloo import start


def test_experts_on_other_processes_are_the_experts_here(processes, tmp_path):
    start(processes, 2, check_dispatch, tmp_path)
    assert (tmp_path / "1.txt").read_text() == "spread all on one one token nobody here"


def test_what_one_process_does_for_all_comes_back_to_each(processes, tmp_path):
    folders = tmp_path / "owners", tmp_path / "turns"
    for folder in folders:
        folder.mkdir()
    start(processes, 3, in_turn, (check_owners, folders[0]), (check_turns, folders[1]))
    assert [len(list(folder.iterdir())) for folder in folders] == [3, 3]
