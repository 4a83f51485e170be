"""Compiles the C++ kernels with the machine's compiler: once per processor, torch and source."""

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

SOURCES = (
    *("products.h", "vectors.h"),
    *("experts.cpp", "attention.cpp", "cross_entropy.cpp", "rows.cpp"),
)
# -fno-math-errno and -fno-trapping-math let loops with divisions and comparisons become vectors;
# they change no result.
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++20", "-fPIC", "-shared", "-w"),
    *("-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
)

log = logging.getLogger(__name__)


@cache
def load() -> str | None:
    """Make `torch.ops.plait` available; return None, or in one line why that cannot be.

    The library lies in the cache folder (`PLAIT_CACHE`, else `~/.cache/plait`). Processes that
    come at the same time wait for the first to have built it.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch has no oneDNN"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return "there is no C++ compiler (g++, or what CXX names)"
    try:
        torch.ops.load_library(str(_built(compiler)))  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            _probe()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        lines = [line for line in detail.splitlines() if "error" in line] or detail.splitlines()
        return lines[0] if lines else type(error).__name__
    return None


def _built(compiler: str) -> Path:
    folder = Path(os.environ.get("PLAIT_CACHE", Path.home() / ".cache" / "plait")) / "kernels"
    here = Path(__file__).parent
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    key = hashlib.sha256("\n".join((version.stdout, torch.__version__, *FLAGS, _flags())).encode())
    for name in SOURCES:
        key.update((here / name).read_bytes())
    library = folder / f"plait-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            log.info("compiling the kernels for this processor, once (about 30 s)")
            _compile(compiler, here, library)
    return library


def _compile(compiler: str, here: Path, library: Path) -> None:
    root = Path(torch.__file__).parent
    unfinished = library.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [str(here / name) for name in SOURCES if name.endswith(".cpp")]
    command += [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    command += [f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10", "-o", str(unfinished)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    os.replace(unfinished, library)


def _flags() -> str:
    """Return what tells processors apart: -march=native on one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _probe() -> None:
    """Run one expert in both types: raises RuntimeError where the processor has no such product."""
    ids, gates = torch.zeros(1, 1, dtype=torch.int64), torch.ones(4, 1)
    for dtype in (torch.float32, torch.bfloat16):
        x, up, down = (torch.full(shape, 0.125) for shape in ((4, 32), (1, 32, 32), (1, 32, 32)))
        y, _ = torch.ops.plait.experts_forward(
            x.to(dtype), ids.expand(4, 1).contiguous(), gates, up, down, False, torch.float32, True
        )
        want = torch.nn.functional.gelu(x @ up[0].T) @ down[0].T
        error = ((y - want).abs().max() / want.abs().max()).item()
        if not error <= (1e-5 if dtype == torch.float32 else 1e-2):
            raise RuntimeError(f"the compiled kernel is off by {error:.1e} in {dtype}")
