"""What a pilot says of a study before it is run."""

import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from made_up_study import made_up_config, write_study
from plait.report.terminal.power_table import show
from plait.statistics import power
from plait.studies.contrasts import Contrast
from plait.studies.planning import resolutions
from plait.studies.results import read_study
from plait.studies.throughput import FILE, Throughput, measure


def _pilot(root: Path, noise: float, seeds: int = 6) -> Path:
    draw = random.Random(0)
    shared = [draw.gauss(0, 0.1) for _ in range(seeds)]
    offsets = {
        name: [base + draw.gauss(0, noise) for base in shared] for name in ("plain", "tied", "path")
    }
    return write_study(root, offsets)


def test_quiet_pilots_need_few_seeds_and_loud_ones_many(tmp_path: Path) -> None:
    asked = (Contrast("t", "tied", "plain", 0.02), Contrast("p", "path", "plain", 0.02))
    [quiet, _] = resolutions(read_study(_pilot(tmp_path / "quiet", 0.004)), asked, 6)
    [loud, _] = resolutions(read_study(_pilot(tmp_path / "loud", 0.08)), asked, 6)
    assert quiet.can_answer is True
    assert loud.can_answer is False
    for one in (quiet, loud):
        assert one.deviation is not None
        assert one.smallest is not None
        assert one.deviation.n == 6
        # two questions: each is held to half the level
        detected = power(one.smallest, one.deviation.value, 6, 0.025)
        assert detected == pytest.approx(0.8, abs=1e-3)
    assert quiet.for_effect is not None
    assert quiet.for_effect.value is not None
    assert quiet.for_effect.low is not None
    assert quiet.for_effect.low <= quiet.for_effect.value
    assert quiet.seconds == 2 * 214.0


def test_a_study_that_cannot_answer_is_told_so(tmp_path: Path) -> None:
    pilot = read_study(_pilot(tmp_path, 0.08))
    said = io.StringIO()
    console = Console(file=said, width=150)
    show(resolutions(pilot, pilot.contrasts, 3), "study made-up", console)
    assert "tied − plain: 3 seeds cannot answer it" in said.getvalue()
    show(resolutions(pilot, (Contrast("q", "new", "plain"),), 3), "study made-up", console)
    assert "q: study made-up has no two pairs to judge by" in said.getvalue()


@pytest.mark.parametrize(("alone", "together", "jobs"), [(100, 180, 2), (100, 104, 1), (90, 60, 1)])
def test_runs_side_by_side_only_where_that_is_clearly_faster(
    alone: float, together: float, jobs: int
) -> None:
    assert Throughput(2, alone, together).jobs == jobs
    assert Throughput(2, alone, together).best == (together if jobs == 2 else alone)


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plait.studies.throughput as throughput

    asked = []

    def measured(configuration: Path, processes: int, each: int) -> float:
        asked.append((processes, each))
        return 100.0 * processes

    monkeypatch.setattr(throughput, "_tokens_per_second", measured)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    first = measure(made_up_config(), tmp_path)
    assert measure(made_up_config(), tmp_path) == first == Throughput(2, 100.0, 200.0)
    assert asked == [(1, 2), (2, 1)]
    assert (tmp_path / FILE).is_file()
