"""The processor's settings keep full float32 accuracy, whatever the processor is."""

from collections.abc import Iterator

import pytest
import torch

from plait.kernels import processor


@pytest.fixture(autouse=True)
def setting() -> Iterator[None]:
    before = processor._products.fp32_precision
    yield
    processor._products.fp32_precision = before


def test_the_chosen_setting_is_accurate_and_in_force() -> None:
    processor.configure.cache_clear()
    found = processor.configure()
    a, b = torch.randn(300, 700), torch.randn(700, 200)
    exact = a.double() @ b.double()
    assert ((a @ b).double() - exact).norm() / exact.norm() <= 1e-6
    if found.fp32_setting != "none":
        assert found.speedup >= 1 / processor.WORTHWHILE
        assert processor._products.fp32_precision == found.fp32_setting


def test_a_fast_setting_that_rounds_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, seconds = {"none": 3e-7, "bf16": 2e-3}, {"none": 3.0, "bf16": 1.0}
    monkeypatch.setattr(processor, "_settings", lambda: ["none", "bf16"])
    monkeypatch.setattr(processor, "_error", errors.__getitem__)
    monkeypatch.setattr(processor, "_seconds", seconds.__getitem__)
    processor.configure.cache_clear()
    assert processor.configure().fp32_setting == "none"
    errors["bf16"] = 4e-7
    processor.configure.cache_clear()
    found = processor.configure()
    assert (found.fp32_setting, found.speedup) == ("bf16", 3.0)
    processor.configure.cache_clear()
