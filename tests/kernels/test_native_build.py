"""Where the C++ cannot be compiled the Python version takes over, and says why."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plait import kernels
from plait.kernels import table
from plait.kernels.native import build

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    for forget in (table._able.cache_clear, table._warn.cache_clear):
        forget()
    yield
    for forget in (table._able.cache_clear, table._warn.cache_clear):
        forget()


def test_a_failing_compiler_is_named_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)
    first, second = build.load.__wrapped__(), build.load.__wrapped__()
    assert first == "the compiler ended with 1"
    assert second is not None
    assert "to try again" in second
    monkeypatch.setattr(build, "load", lambda: first)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        names = [kernels.backend_name(name, CPU) for name in ("experts", "rms_norm")]
    assert names == ["cpu", "reference"]
    assert [record.getMessage() for record in caplog.records] == [
        "torch's operations compute, slower than kernels in C++ would: the compiler ended with 1"
    ]
    monkeypatch.setenv("PLAIT_KERNEL", "native")
    with pytest.raises(RuntimeError, match="the compiler ended with 1; choose the kernel 'cpu'"):
        kernels.rms_norm(torch.ones(3), torch.ones(3), 1e-5)


def test_nothing_is_compiled_for_another_device_or_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "load", lambda: pytest.fail("it would compile"))
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)
    assert kernels.backend_name("experts", torch.device("cuda")) == "grouped"
    monkeypatch.setenv("PLAIT_KERNEL", "cpu")
    assert kernels.backend_name("experts", CPU) == "cpu"


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "nonesuch"))
    assert "no C++ compiler" in str(build.load.__wrapped__())
    assert not list((tmp_path / "kernels").iterdir())  # one that is installed later is noticed


def test_where_torch_has_no_products_of_blocks_they_run_on_plain_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[bool] = []

    def run(lanes: bool) -> None:
        tried.append(lanes)
        if not lanes:
            raise RuntimeError("BFloat16 Brgemm is only supported on other processors")

    monkeypatch.setattr(build.processor, "has_long_vectors", lambda: True)
    monkeypatch.setattr(build, "_library", lambda lanes: lanes)
    monkeypatch.setattr(build.trial, "run", run)
    assert build.load.__wrapped__() is None
    assert tried == [False, True]
    monkeypatch.setattr(build.processor, "has_long_vectors", lambda: False)
    assert build.load.__wrapped__() is None
    assert tried == [False, True, True]
