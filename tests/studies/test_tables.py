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
from plait.studies.answers import answers
from plait.studies.results import read_study
from plait.studies.tables import comparison_table, records


def test_one_seed_makes_no_headline(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, {"plain": [0.0], "tied": [-0.25]}))
    rows, found = comparison_table(study), answers(study)
    said = headline(study, found)
    assert said.title == "Nothing is decided: a verdict needs 3 seeds"
    assert said.sentences == (
        "tied − plain: −0.250 nats per token; no verdict: one seed says what happened once, and "
        "3 are needed; 2 more seeds, 14 minutes, would make it 3.",
    )
    assert [answer.verdict for answer in found] == ["too few seeds"]
    assert all(value is None for key, value in records(rows)[1].items() if key.endswith("95"))


def test_seeds_that_agree_decide_and_seeds_that_do_not_leave_it_open(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path,
        {
            "plain": [0.0, 0.1, -0.05, 0.02],
            "better": [-0.2, -0.105, -0.245, -0.18],
            "worse": [0.21, 0.3, 0.155, 0.22],
            "same": [0.0005, 0.0995, -0.0502, 0.0201],
            "open": [0.1, -0.2, 0.15, 0.0],
        },
    )
    study = read_study(folder)
    found = answers(study)
    assert [a.verdict for a in found] == ["better", "worse", "equivalent", "undecided"]
    said = headline(study, found)
    assert said.title == (
        "better is better than plain by 0.200 nats per token; 2 more of 4 questions decided"
    )
    assert said.sentences[0].startswith("better − plain: −0.200 nats per token, 95 % interval")
    assert "over 4 seeds: better (p" in said.sentences[0]
    assert "equivalent (within ±0.01: TOST, p" in said.sentences[2]
    rows = comparison_table(study)
    assert [row.answer for row in rows] == [None, *found]


def test_only_what_was_asked_is_tested(tmp_path: Path) -> None:
    asked = {"name": "which?", "variant": "c", "against": "b", "margin": 0.5, "expected": "equal"}
    offsets = {"a": [0.0, 0.1, 0.2], "b": [1.0, 1.1, 1.2], "c": [1.001, 1.1, 1.2]}
    study = read_study(write_study(tmp_path, offsets, contrasts=[asked]))
    [answer] = answers(study)
    assert (answer.verdict, answer.margin, answer.as_expected) == ("equivalent", 0.5, True)
    rows = comparison_table(study)
    assert rows[1].difference is not None
    assert rows[1].answer is None, "shown for orientation, with no verdict"


def test_a_question_that_is_not_answered_yet_counts_in_the_correction(tmp_path: Path) -> None:
    offsets = {"a": [0.0, 0.1, 0.2], "b": [1.0, 1.13, 1.2], "c": [0.0, 0.0, 0.0]}
    unfinished = [f"c-s{seed}" for seed in range(3)]
    [alone] = answers(read_study(write_study(tmp_path / "1", {k: offsets[k] for k in "ab"})))
    found = answers(read_study(write_study(tmp_path / "2", offsets, missing=unfinished)))
    assert found[1].verdict == "unpaired"
    assert found[0].p == pytest.approx(2 * (alone.p or 0))


def test_what_counting_scores_as_well_gets_no_verdict(tmp_path: Path) -> None:
    offsets = {"plain": [0.0, 0.1, -0.05], "better": [-0.2, -0.105, -0.245]}
    study = read_study(write_study(tmp_path, offsets, bigram=3.9))
    [answer] = answers(study)
    assert study.floor("bigram") == 3.9
    assert (answer.verdict, answer.decided) == ("not learned", False)
    assert "not learned more than a bigram" in headline(study, [answer]).title
    below = read_study(write_study(tmp_path / "below", offsets, bigram=4.5))
    assert answers(below)[0].verdict == "better"


def test_two_seeds_decide_nothing(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, {"plain": [0.0, 0.2], "lucky": [-0.3, -0.1]}))
    said = headline(study, answers(study))
    assert said.title == "Nothing is decided: a verdict needs 3 seeds"
    assert "no verdict: 2 seeds, and 3 are needed" in said.sentences[0]


def test_unfinished_runs_are_named_and_their_pairs_left_out(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, {"plain": [0.0, 0.1], "tied": [0.3, 0.3]}, missing=["tied-s1", "plain-s0"]
    )
    study = read_study(folder)
    assert study.missing == ("run0-s0", "run1-s1")
    assert comparison_table(study)[1].difference is None
    [answer] = answers(study)
    assert answer.verdict == "unpaired"
    assert "share no finished seed" in headline(study, [answer]).sentences[0]


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
