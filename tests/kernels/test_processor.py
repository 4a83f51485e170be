"""The processor's settings keep full float32 accuracy, whatever the processor is."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plait.kernels import processor
from plait.kernels.precision import compute_type


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
        assert processor._products.fp32_precision == found.fp32_setting


def test_a_fast_setting_that_rounds_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "rounds"))
    errors, seconds = {"none": 3e-7, "bf16": 2e-3}, {"none": 3.0, "bf16": 1.0}
    monkeypatch.setattr(processor, "_settings", lambda: ["none", "bf16"])
    monkeypatch.setattr(processor, "_error", errors.__getitem__)
    monkeypatch.setattr(processor, "_seconds", seconds.__getitem__)
    processor.configure.cache_clear()
    assert processor.configure().fp32_setting == "none"
    errors["bf16"] = 4e-7
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "exact"))
    processor.configure.cache_clear()
    assert processor.configure().fp32_setting == "bf16"
    processor.configure.cache_clear()


@pytest.mark.parametrize("kept", ["bf16", "none", "nonsense"])
def test_what_was_chosen_first_is_chosen_again_however_the_clock_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: str
) -> None:
    seconds = {"none": 3.0, "bf16": 1.0 if kept == "bf16" else 2.9}
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path))
    monkeypatch.setattr(processor, "_settings", lambda: ["none", "bf16"])
    monkeypatch.setattr(processor, "_error", {"none": 3e-7, "bf16": 4e-7}.__getitem__)
    monkeypatch.setattr(processor, "_seconds", seconds.__getitem__)
    if kept == "nonsense":
        processor._choice_file().write_text(kept)
    expected = "none" if kept == "nonsense" else kept
    for _ in range(2):
        processor.configure.cache_clear()
        assert processor.configure().fp32_setting == expected
        seconds["bf16"] = 3.9 - seconds["bf16"]  # another program is in the way
    assert [path.name for path in tmp_path.iterdir()] == [processor._choice_file().name]
    processor.configure.cache_clear()


def test_where_nothing_can_be_kept_it_is_chosen_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "file"))
    processor.configure.cache_clear()
    assert processor.configure().fp32_setting in ("none", "ieee", "bf16")
    processor.configure.cache_clear()


def with_flags(monkeypatch: pytest.MonkeyPatch, flags: str, limit: str = "ALL") -> None:
    monkeypatch.setattr(processor, "flags", lambda: f"flags : {flags}")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)


AVX512 = "avx2 avx512f avx512dq avx512bw avx512vl"


@pytest.mark.parametrize(
    ("flags", "limit", "long_vectors", "bf16"),
    [
        ("sse4_2 avx2", "ALL", False, False),
        (AVX512, "ALL", True, False),
        (f"{AVX512} avx512_bf16", "ALL", True, True),
        (f"{AVX512} avx512_bf16", "AVX512_CORE", True, False),
        (f"{AVX512} avx512_bf16 amx_bf16", "DEFAULT", True, True),
        (f"{AVX512} avx512_bf16 amx_bf16", "AVX2", False, False),
    ],
)
def test_what_a_processor_has_is_read_off_its_flags(
    monkeypatch: pytest.MonkeyPatch, flags: str, limit: str, long_vectors: bool, bf16: bool
) -> None:
    with_flags(monkeypatch, flags, limit)
    assert processor.has_long_vectors() is long_vectors
    assert processor.multiplies_bf16() is bf16
    assert compute_type("cpu", "bf16") == (torch.bfloat16 if bf16 else torch.float32)
    assert compute_type("cpu", "fp32") == torch.float32
    assert compute_type("cuda", "bf16") == torch.bfloat16


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="there are no large pages here"
)
def test_large_pages_are_asked_for_within_a_tensor_alone() -> None:
    page = processor.LARGE_PAGE
    mapped = mmap.mmap(-1, 3 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    small, large = torch.empty(1000), torch.frombuffer(mapped, dtype=torch.uint8)[1:]
    processor.use_large_pages([small, large])
    first = -(-large.data_ptr() // page) * page
    assert _asked(first)
    assert _asked(first + page - 1)
    assert not _asked(large.data_ptr())
    assert large.fill_(1).sum() == len(large)


def _asked(address: int) -> bool:
    """Whether large pages were asked for where an address lies."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            begin, end = (int(place, 16) for place in name.split("-"))
            inside = begin <= address < end
        elif inside and name == "VmFlags:":
            return "hg" in rest
    raise AssertionError("the address is nowhere")
