"""Where the C++ cannot be compiled the Python version takes over, and says why."""

import logging
from pathlib import Path

import pytest

from plait import kernels
from plait.kernels.native import build


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
    with caplog.at_level(logging.WARNING):
        names = {kernels._best_on_cpu.__wrapped__() for _ in range(2)}
    assert names == {"cpu"}
    assert "the compiler ended with 1" in caplog.text


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "nonesuch"))
    assert "no C++ compiler" in str(build.load.__wrapped__())
