"""The comparison table and the words that are said of it."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from made_up_study import write_study
from plait.report.numbers import number, quantity, signed
from plait.report.study.wording import headline
from plait.report.terminal.study_table import show
from plait.studies.results import read_study
from plait.studies.tables import comparison_table, records, verdict


def test_one_seed_is_said_to_be_one_seed(tmp_path: Path) -> None:
    rows = comparison_table(read_study(write_study(tmp_path, {"plain": [0.0], "tied": [-0.25]})))
    said = headline(rows)
    assert said.title == "tied came out 0.250 nats per token below plain"
    assert "3.750" in said.sentences[0]
    assert "38 % fewer stored parameters" in said.sentences[0]
    assert "no interval" in said.sentences[1]
    assert verdict(rows[1]) == "one seed"
    assert all(value is None for key, value in records(rows)[1].items() if key.endswith("95"))


def test_seeds_that_agree_decide_and_seeds_that_do_not_leave_it_open(tmp_path: Path) -> None:
    study = write_study(
        tmp_path,
        {
            "plain": [0.0, 0.1, -0.05],
            "better": [-0.2, -0.105, -0.245],
            "worse": [0.21, 0.3, 0.155],
            "same": [0.0005, 0.0995, -0.0502],
            "open": [0.1, -0.2, 0.15],
        },
    )
    rows = comparison_table(read_study(study))
    assert [verdict(row) for row in rows] == [
        "baseline",
        "better",
        "worse",
        "equivalent",
        "undecided",
    ]
    said = headline(rows)
    assert said.title == "better is better than plain by 0.200 nats per token"
    assert "Holm’s correction for 4 comparisons" in said.sentences[1]


def test_nothing_beat_the_baseline(tmp_path: Path) -> None:
    rows = comparison_table(
        read_study(write_study(tmp_path, {"plain": [0.0], "far": [0.5], "near": [0.01]}))
    )
    assert headline(rows).title == "No variant did better than plain"
    assert "near" in headline(rows).sentences[0]


def test_two_seeds_without_separation_do_not_crown_a_winner(tmp_path: Path) -> None:
    rows = comparison_table(
        read_study(write_study(tmp_path, {"plain": [0.0, 0.2], "lucky": [-0.3, 0.25]}))
    )
    assert headline(rows).title == "lucky has the lowest loss, but not surely below plain"
    assert "Fewer than 3 seeds" in headline(rows).sentences[1]


def test_unfinished_runs_are_named_and_their_pairs_left_out(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, {"plain": [0.0, 0.1], "tied": [0.3, 0.3]}, missing=["tied-s1", "plain-s0"]
    )
    study = read_study(folder)
    assert study.missing == ("run0-s0", "run1-s1")
    rows = comparison_table(study)
    assert rows[1].difference is None
    assert verdict(rows[1]) == "unpaired"


def test_no_baseline_no_differences(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"plain": [0.0], "tied": [0.3]}, missing=["plain-s0"])
    said = headline(comparison_table(read_study(folder)))
    assert "baseline has no finished run" in said.sentences[0]


def test_perplexity_is_the_exponential_of_the_mean_loss(tmp_path: Path) -> None:
    [row] = comparison_table(read_study(write_study(tmp_path, {"plain": [0.0, 0.2, 0.1]})))
    assert row.perplexity.value == pytest.approx(math.exp(4.1))
    assert row.perplexity.low == pytest.approx(math.exp(row.loss.low or 0))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"plain": [0.0]})
    (folder / "run0-s0" / "result.json").write_text("{half")
    with pytest.raises(ValueError, match=r"result.json: damaged"):
        read_study(folder)
    with pytest.raises(FileNotFoundError, match="plait study run"):
        read_study(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999"), (1234, "1.23 k"), (3_400_000, "3.40 M"), (12.54e9, "12.5 B"), (4e14, "400 T")],
)
def test_quantities_have_three_figures(value: float, text: str) -> None:
    assert quantity(value) == text


def test_numbers_that_round_to_zero_have_no_sign() -> None:
    assert (number(-0.0001), signed(-0.0001), signed(0.0004)) == ("0.000", "0.000", "0.000")
    assert (number(-1.5), signed(0.0126, 2)) == ("−1.500", "+0.01")


def test_the_terminal_shows_every_variant_and_reads_none_as_markup(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, {"plain": [0.0, 0.1], "[red]odd[/]": [0.3, 0.5]}, missing=["plain-s1"]
    )
    said = io.StringIO()
    show(folder, Console(file=said, width=200))
    assert "[red]odd[/]" in said.getvalue()
    assert "not finished: run0-s1" in said.getvalue()
    assert "+0.300" in said.getvalue()
