"""What a pilot says of a study before it is run."""

import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from made_up_study import made_up_config, write_study
from plait.config.counts import count
from plait.report.terminal.power_table import show
from plait.statistics import power
from plait.studies.contrasts import Contrast
from plait.studies.planning import resolutions
from plait.studies.results import read_study
from plait.studies.throughput import (
    BYTES_A_PARAMETER,
    BYTES_A_PROCESS,
    FILE,
    Throughput,
    measure,
    most_at_once,
)


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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Processes that were started to measure with."""
    import plait.studies.throughput as throughput

    started: list[int] = []

    def measured(configuration: Path, processes: int) -> float:
        started.append(processes)
        return 100.0 * processes

    monkeypatch.setattr(throughput, "_tokens_per_second", measured)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    return started


def test_what_was_measured_is_not_measured_again(tmp_path: Path, asked: list[int]) -> None:
    first = measure(made_up_config(), tmp_path, 20)
    assert measure(made_up_config(), tmp_path, 30) == first == Throughput(8, 100.0, 800.0)
    assert asked == [1, 8]
    assert (tmp_path / FILE).is_file()


def test_no_more_processes_measure_than_runs_wait_or_memory_holds(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measure(made_up_config(), tmp_path, 3) == Throughput(3, 100.0, 300.0)
    assert measure(made_up_config(), tmp_path, 1) == Throughput(1, 100.0, 100.0)
    assert asked == [1, 3, 1]
    own = BYTES_A_PROCESS + BYTES_A_PARAMETER * count(made_up_config().model).stored
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 5 * 2 * own}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert most_at_once(made_up_config(), 20) == 5
