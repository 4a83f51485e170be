"""Interleaved timing, the matrix ceiling, and the memory of a process."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from plait.kernels.precision import compute_type


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each one's median seconds over `rounds`, all of them in turn in every round.

    Each runs twice in its turn and the second run is timed: what the one before it left in memory
    must not count. The order alternates, so that none always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            contestants[name]()
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def types(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the types that are worth measuring: bf16 only where there are units for it."""
    fast = compute_type(device.type, "bf16")
    return (torch.float32,) if fast == torch.float32 else (torch.float32, fast)


def product(
    dtype: torch.dtype, device: torch.device, size: int | None = None
) -> Callable[[], float]:
    """Return a function that times one product and returns its FLOP/s: the matrix ceiling.

    The product is 2048³, on a GPU 8192³: a smaller one is done before the next can be begun.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = a @ b

    def measure() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 2 * size**3 / (time.perf_counter() - start)

    return measure


def resident_bytes(device: torch.device, peak: bool = False) -> int:
    """Return the memory of this process on `device` now, or its peak since `forget_peak`."""
    if device.type == "cuda":
        of = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return of(device)
    field = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError("memory is measured through /proc, which only Linux has")


def forget_peak(device: torch.device) -> None:
    """Give freed memory back to the system and let the peak begin anew from what is left."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def machine(device: torch.device) -> dict[str, str | int]:
    """Return what a reader must know of this machine."""
    model = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    versions = {"torch": str(torch.__version__)}
    try:
        import transformers

        versions["transformers"] = transformers.__version__
    except ImportError:
        pass
    if device.type == "cuda":
        model = torch.cuda.get_device_name(device)
    return {"processor": model, "threads": torch.get_num_threads(), **versions}
