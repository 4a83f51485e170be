"""Traces and perturbations of two and three real processes against those of one."""

from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tracing_processes import Found, be_rank, small_batches, trace_and_perturb

from gloo import start
from made_up_models import ours, text

PASSAGES = text(80)  # two parts of several batches


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, bytes]:
    """What one process finds, and the file that it writes."""
    path = tmp_path_factory.mktemp("alone") / "trace.parquet"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        small_batches(patch.setattr)
        found = trace_and_perturb(ours(), PASSAGES, path)
    torch.set_num_threads(threads)
    assert pq.ParquetFile(path).num_row_groups == 2
    return found, path.read_bytes()


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_find_what_one_does(
    size: int, alone: tuple[Found, bytes], processes: ForkServerContext, tmp_path: Path
) -> None:
    start(processes, size, be_rank, ours(), PASSAGES, tmp_path)
    one, file = alone
    each = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for found in each:
        assert found.trace.info == one.trace.info
        for name, column in vars(one.trace).items():
            if isinstance(column, np.ndarray):
                assert getattr(found.trace, name).tobytes() == column.tobytes(), name
        assert found.perturbed == one.perturbed
    assert [path.name for path in tmp_path.glob("*.parquet*")] == ["0.parquet"]
    assert (tmp_path / "0.parquet").read_bytes() == file
    for forwards in ("tracing", "perturbing"):  # each its share, and no batch twice
        run = [getattr(found, forwards) for found in each]
        assert sum(run) == getattr(one, forwards)
        assert 0 < max(run) < 1.5 * sum(run) / size
