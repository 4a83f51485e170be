"""Facts of this processor, found by trying: how float32 products run fastest at full accuracy."""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

LARGEST_ERROR = 1e-6
"""of a float32 product against float64, relative, by Frobenius norm"""
WORTHWHILE = 1.5
"""a setting must be this much faster than torch's own choice to be preferred"""
ROUNDS = 40
"""of timing: half a second, spent once for a processor"""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MADV_HUGEPAGE, LARGE_PAGE = 14, 2**21

# Linux gives a process the tiles of matrix units (AMX) on request: arch_prctl and its arguments
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18

_products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Processor:
    """What was found and chosen."""

    fp32_setting: str
    """value of torch.backends.mkldnn.matmul.fp32_precision; "none" is torch's own choice"""
    error: float
    """of a float32 product under that setting, relative to float64"""
    keeps_memory: bool
    """whether freed memory stays with the process instead of being mapped afresh"""


@cache
def configure() -> Processor:
    """Choose this process's settings for products and memory on a CPU, once, and log them.

    torch's own float32 product leaves half of some processors unused (AMD with AVX-512), where the
    "bf16" setting of oneDNN runs at full speed *and* accuracy; on processors with AMX the same
    setting rounds to bfloat16. So each setting's accuracy is measured here before it may be chosen.
    Which one is fastest is measured once for a processor, and kept in the cache folder.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    keeps_memory = keep_freed_memory(True)
    candidates: list[str] = []
    for name in _settings():
        if name == "none" or _error(name) <= LARGEST_ERROR:
            candidates.append(name)
    chosen = _first_choice()
    best = chosen if chosen in candidates else _kept_choice(_fastest(candidates))
    if best not in candidates:
        best = "none"
    if best != "none":
        _products.fp32_precision = best
    found = Processor(best, _error(best), keeps_memory)
    log.info(
        "float32 products: setting %r, relative error %.0e; freed memory %s",
        *(best, found.error, "is kept" if keeps_memory else "goes back to the system"),
    )
    return found


def _fastest(candidates: list[str]) -> str:
    """Time each setting; where another program is in the way, this may come out either way."""
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name in candidates:
            seconds.setdefault(name, []).append(_seconds(name))
    # The least is the time that other processes did not disturb.
    fastest = {name: min(times) for name, times in seconds.items()}
    best = min(fastest, key=fastest.__getitem__)
    return best if fastest["none"] >= WORTHWHILE * fastest[best] else "none"


def _choice_file() -> Path:
    """Where the choice for this processor and this torch is kept."""
    cache = Path(os.environ.get("PLAIT_CACHE") or Path.home() / ".cache" / "plait")
    told_apart = hashlib.sha256(f"{torch.__version__} {flags()}".encode()).hexdigest()[:12]
    return cache / f"float32-products-{told_apart}"


def _first_choice() -> str | None:
    """The choice that a process made here before, or None.

    Timing decides it, so it is made once: a run that is resumed, and the runs of a study, repeat
    bit for bit only where all make the same.
    """
    try:
        return _choice_file().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _kept_choice(own: str) -> str:
    """Keep the choice, unless another process was first: then its choice counts."""
    path = _choice_file()
    mine = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(own, encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()
    except OSError:
        return own  # nothing can be kept here
    return _first_choice() or own


@contextmanager
def products_under(fp32_setting: str) -> Iterator[None]:
    """Run float32 products under another setting than the one in force."""
    before = _products.fp32_precision
    _products.fp32_precision = fp32_setting
    try:
        yield
    finally:
        _products.fp32_precision = before


@cache
def flags() -> str:
    """Return what tells processors apart: what is compiled for one may not run on another."""
    try:
        with open("/proc/cpuinfo") as lines:
            found = (line for line in lines if line.startswith(("flags", "Features")))
            return next(found, "").rstrip()
    except OSError:
        return ""


def has_long_vectors() -> bool:
    """Whether torch has products of blocks (brgemm) here: with AVX-512."""
    names = set(flags().split())
    return {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= names and _may_use("AVX512", "AVX10")


def multiplies_bf16() -> bool:
    """Whether the processor has units for products in bfloat16, and so gains by them."""
    if platform.machine() == "x86_64":
        long = "avx512_bf16" in flags() and _may_use("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AMX")
        return long or ("amx_bf16" in flags() and _may_use("AMX"))
    return " bf16" in flags()


def _may_use(*names: str) -> bool:
    """Whether oneDNN's own limit on what it uses, ONEDNN_MAX_CPU_ISA, allows one of these."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return limit in ("ALL", "DEFAULT") or any(name in limit for name in names)


def use_tiles() -> bool:
    """Whether this process may use matrix units for float32 as well, having asked for them."""
    if platform.machine() != "x86_64" or "amx_bf16" not in flags() or not _may_use("AMX"):
        return False
    asked = ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    return bool(asked == 0)


def _settings() -> list[str]:
    settings = ["none"]
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        settings.append("ieee")
        if " amx_" not in flags():
            settings.append("bf16")
    return settings


def _product(setting: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    with products_under(setting):
        return a, b, a @ b


def _error(setting: str) -> float:
    a, b, c = _product(setting)
    exact = a.double() @ b.double()
    return float((c.double() - exact).norm() / exact.norm())


def _seconds(setting: str) -> float:
    a, b, _ = _product(setting)
    with products_under(setting):
        start = time.perf_counter()
        a @ b
        return time.perf_counter() - start


def keep_freed_memory(keep: bool) -> bool:
    """Tell glibc whether to keep large tensors' memory when they are freed; whether it obeyed.

    By itself it maps each of them afresh, and their page faults cost more than their use. False
    sets what its own adaptation ends at, and gives back what was kept. Nothing is done where the C
    library is not glibc.
    """
    thresholds = (2**30, 2**30) if keep else (2**25, 2**26)
    try:
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "gnu_get_libc_version"):
            return False
        options = zip((M_MMAP_THRESHOLD, M_TRIM_THRESHOLD), thresholds, strict=True)
        obeyed = all([libc.mallopt(option, threshold) == 1 for option, threshold in options])
        if not keep:
            libc.malloc_trim(0)
        return obeyed
    except (OSError, AttributeError):
        return False


def use_large_pages(tensors: Iterable[torch.Tensor]) -> None:
    """Ask Linux to hold tensors that nothing was written to yet in pages of 2 MiB, not 4 KiB.

    Decoding reads them from memory as fast as that goes, and with small pages a sixth of the time
    is spent on finding out where they lie. Other systems are asked for nothing.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for tensor in tensors:
        begin = tensor.data_ptr()
        end = (begin + tensor.nbytes) // LARGE_PAGE * LARGE_PAGE
        begin = -(-begin // LARGE_PAGE) * LARGE_PAGE
        if tensor.is_cpu and begin < end:
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_HUGEPAGE)
