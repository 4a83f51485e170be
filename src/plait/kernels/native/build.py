"""Compiles the C++ kernels with the machine's compiler: once per processor, torch and source."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCES = (
    *("vectors.h", "tiles.h", "products.h"),
    *("experts.cpp", "attention.cpp", "cross_entropy.cpp", "decoding.cpp", "rows.cpp"),
)
# -fno-math-errno and -fno-trapping-math let loops with divisions and comparisons become vectors;
# they change no result.
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++20", "-fPIC", "-w"),
    *("-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
)

# Linux gives a process the tiles of matrix units (AMX) on request: arch_prctl and its arguments
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18

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
    except (OSError, RuntimeError, ImportError) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


def _built(compiler: str) -> Path:
    """Return the library, compiled now if it is not there; a failure is remembered beside it."""
    import fcntl  # not on every system

    flags = (*FLAGS, "-DPLAIT_TILES") if _tiles() else FLAGS
    folder = Path(os.environ.get("PLAIT_CACHE", Path.home() / ".cache" / "plait")) / "kernels"
    here = Path(__file__).parent
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256("\n".join((version, torch.__version__, *flags, _flags())).encode())
    for name in SOURCES:
        key.update((here / name).read_bytes())
    library = folder / f"plait-{key.hexdigest()[:16]}.so"
    failure = library.with_suffix(".failed")
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failure.exists():
            raise RuntimeError(f"{failure.read_text()} (delete {failure} to try again)")
        if not library.exists():
            log.warning("compiling the kernels for this processor, once (under a minute)")
            try:
                _compile([compiler, *flags], here, library)
            except RuntimeError as error:
                failure.write_text(str(error))
                raise
    return library


def _compile(compiler: list[str], here: Path, library: Path) -> None:
    root = Path(torch.__file__).parent
    include = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        sources = [here / name for name in SOURCES if name.endswith(".cpp")]
        objects = [str(Path(scratch) / source.with_suffix(".o").name) for source in sources]
        compiling = [
            _start([*compiler, abi, *include, "-c", str(source), "-o", made])
            for source, made in zip(sources, objects, strict=True)
        ]
        for process in compiling:
            _finish(process)
        made = str(Path(scratch) / "plait.so")
        link = [*compiler, "-shared", *objects, f"-L{root / 'lib'}"]
        _finish(_start([*link, "-ltorch_cpu", "-lc10", "-o", made]))
        os.replace(made, library)


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode < 0:
        raise OSError("the compiler was killed")  # which says nothing about the next try
    if process.returncode:
        lines = [line for line in said.splitlines() if "error" in line] or said.splitlines()
        raise RuntimeError(lines[0] if lines else f"the compiler ended with {process.returncode}")


def _flags() -> str:
    """Return what tells processors apart: -march=native on one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _tiles() -> bool:
    """Whether this process may use matrix units for float32 as well, having asked for them.

    oneDNN's own limit on what it uses, ONEDNN_MAX_CPU_ISA, holds for us too.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = limit in ("ALL", "DEFAULT") or "AMX" in limit
    if platform.machine() != "x86_64" or " amx_bf16 " not in _flags() or not allowed:
        return False
    asked = ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    return bool(asked == 0)


def _probe() -> None:
    """Run one expert in both types: raises RuntimeError where the processor has no such product."""
    generator = torch.Generator().manual_seed(0)
    x, up, down = (torch.randn(64, 64, generator=generator) for _ in range(3))
    want = torch.nn.functional.gelu(x.double() @ up.double().T) @ down.double().T
    ids, gates = torch.zeros(64, 1, dtype=torch.int64), torch.ones(64, 1)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        y, _ = torch.ops.plait.experts_forward(
            x.to(dtype), ids, gates, up[None], down[None], False, torch.float32, True
        )
        error = float((y.double() - want).norm() / want.norm())
        if not error <= bound:
            raise RuntimeError(f"the compiled kernel is off by {error:.1e} in {dtype}")
