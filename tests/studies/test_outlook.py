"""What would decide an open question: seeds that really would, and the time of their runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from made_up_study import write_study
from plait.report.numbers import duration
from plait.report.study.wording import headline
from plait.statistics import deviation, equivalence_power, power
from plait.studies.answers import answers
from plait.studies.outlook import Outlook, outlook
from plait.studies.results import StudyResults, read_study

SECONDS = 2 * 214.0
"""of a made-up run, times the two variants"""


def study_of(root: Path, differences: list[float], **further: object) -> StudyResults:
    plain = [0.0] * len(differences)
    return read_study(write_study(root, {"plain": plain, "tied": differences}, **further))  # type: ignore[arg-type]


def ahead(study: StudyResults) -> Outlook | None:
    return outlook(study, answers(study)[0])


def test_as_many_seeds_as_the_power_asks_for(tmp_path: Path) -> None:
    differences = [0.05, 0.01, 0.09]
    found = ahead(study_of(tmp_path, differences))
    assert found is not None
    assert found.seeds is not None
    sigma, total = deviation(differences).value, 3 + found.seeds
    assert power(0.05, sigma, total) >= 0.8 > power(0.05, sigma, total - 1)
    assert found.seconds == pytest.approx(found.seeds * SECONDS)


def test_inside_the_margin_equivalence_is_the_nearer_end(tmp_path: Path) -> None:
    differences = [0.005, -0.007, 0.002]
    found = ahead(study_of(tmp_path, differences))
    assert found is not None
    assert found.seeds is not None
    sigma, total = deviation(differences).value, 3 + found.seeds
    mean = sum(differences) / 3
    assert equivalence_power(0.01, sigma, total, effect=mean) >= 0.8
    assert equivalence_power(0.01, sigma, total - 1, effect=mean) < 0.8
    assert power(mean, sigma, 200) < 0.8


def test_one_seed_knows_no_scatter(tmp_path: Path) -> None:
    assert ahead(study_of(tmp_path, [0.05])) == Outlook(seeds=2, seconds=2 * SECONDS, known=False)


def test_out_of_reach_and_decided(tmp_path: Path) -> None:
    study = study_of(tmp_path, [0.5, -0.5, 0.03])
    assert ahead(study) == Outlook(seeds=None, seconds=None, known=True)
    [sentence] = headline(study, answers(study)).sentences
    assert sentence.endswith("; not decided within 200 seeds if the difference stays.")
    assert ahead(study_of(tmp_path / "decided", [0.3, 0.31, 0.32])) is None
    assert ahead(study_of(tmp_path / "unlearned", [0.1, 0.0, 0.1], bigram=3.9)) is None


def test_the_sentence_names_seeds_and_time(tmp_path: Path) -> None:
    study = study_of(tmp_path, [0.05, 0.01, 0.09])
    [sentence] = headline(study, answers(study)).sentences
    assert ": undecided (p = " in sentence
    assert "; about 5 more seeds, 36 minutes, would decide it if the difference stays." in sentence


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 second"),
        (41, "41 seconds"),
        (360, "6 minutes"),
        (3600 * 2.5, "2.5 hours"),
        (3600 * 20, "20 hours"),
        (86400 * 3, "3 days"),
    ],
)
def test_durations_are_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_study_with_looks_says_when_itself(tmp_path: Path) -> None:
    study = replace(study_of(tmp_path, [0.05, 0.01, 0.09]), seeds=(0, 1, 2, 3, 4, 5), looks=(4, 6))
    assert ahead(study) is None
    [said] = headline(study, answers(study)).sentences
    assert "3 seeds, and the first look is at more." in said


def test_after_its_last_look_more_seeds_are_named(tmp_path: Path) -> None:
    study = study_of(tmp_path, [0.05, 0.01, 0.09])
    found = ahead(study)
    assert found is not None
    assert ahead(replace(study, seeds=(0, 1, 2), looks=(3,))) == found
