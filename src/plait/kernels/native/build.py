"""Compiles the C++ kernels with the machine's compiler: once per processor, torch and source."""

import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from plait.atomic import own_folder, write_json
from plait.kernels import processor
from plait.kernels.native import cache, ready, trial

SOURCES = (
    *("sixteen.h", "vectors.h", "lanes.h", "tiles.h", "products.h"),
    *("experts.cpp", "attention.cpp", "cross_entropy.cpp", "decoding.cpp", "rows.cpp", "muon.cpp"),
)
# -fno-math-errno and -fno-trapping-math let loops with divisions and comparisons become vectors;
# they change no result.
FLAGS = (
    *("-O3", "-mprefer-vector-width=512", "-std=c++20", "-fPIC", "-w"),
    *("-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
)
LINKED = ("-ltorch_cpu", "-lc10")
PASSING = ("Killed", "No space left", "Cannot allocate", "out of memory")
"""what a compiler says when it fails for reasons that say nothing about the next try"""

NO_BLOCKS = "rgemm"
"""in what torch says where it has no products of blocks (brgemm) for a type"""

HERE = Path(__file__).parent

log = logging.getLogger(__name__)


@functools.cache
def load() -> str | None:
    """Make `torch.ops.plait` available; return None, or in one line why that cannot be.

    The library lies in the cache folder (`PLAIT_CACHE`, else `~/.cache/plait`); `cache.py` says
    when it is believed. Processes that come at the same time wait for the first to have built it.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch has no oneDNN"
    lanes = not processor.has_long_vectors()
    problem = _problem(lanes)
    # a torch or a processor whose long vectors do not reach to products of blocks
    return _problem(True) if not lanes and problem and NO_BLOCKS in problem else problem


def _problem(lanes: bool) -> str | None:
    try:
        trial.run(_library(lanes))
    except (OSError, RuntimeError, ImportError) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


def _library(lanes: bool | None = None) -> Path:
    """Return the library for this processor, torch and source, built now if there is none.

    The compiler is no part of what tells libraries apart: a newer one, or none any more, takes
    nothing from the library that is there.
    """
    if lanes is None:
        lanes = not processor.has_long_vectors()
    built_from = {
        "sources": _sources(),
        "flags": " ".join((*_flags(lanes), *LINKED)),
        "torch": _torch(),
        "processor": f"{platform.system()} {platform.machine()} {processor.flags()}",
    }
    key = _hash(json.dumps(built_from))[:16]
    for place in cache.places():
        entry = place / key
        if cache.ready(entry, built_from):
            return entry / cache.LIBRARY
        if os.access(place, os.W_OK):
            return _built(entry, built_from, _flags(lanes)) / cache.LIBRARY
    raise RuntimeError(
        "there is no folder for compiled kernels that only you can write; PLAIT_CACHE names one"
    )


def _sources() -> str:
    return _hash(*(part for name in SOURCES for part in (name, _text(HERE / name))))


def _torch() -> str:
    return f"{torch.__version__} {torch.version.git_version} {torch.version.cuda}"


def _built(entry: Path, built_from: dict[str, str], flags: Sequence[str]) -> Path:
    """Build an entry, unless another process has done so meanwhile; a failure is remembered."""
    failure = entry.with_suffix(".failed")
    with own_folder(entry.with_name("new"), _wait) as new:
        cache.keep_others_out(new)
        if cache.ready(entry, built_from):
            return entry
        flaw = cache.flaw(entry, built_from)
        if flaw is None and (flaw := trial.problem_in_a_child(entry / cache.LIBRARY)) is None:
            cache.store_tried(entry)
            return entry
        if os.path.lexists(entry):
            log.warning("the compiled kernels in %s are not used: %s", entry, flaw)
        if (found := ready.library(built_from["sources"], built_from["torch"])) is not None:
            shutil.copyfile(found, new / cache.LIBRARY)
            problem = trial.problem_in_a_child(new / cache.LIBRARY)
            if problem is None:
                cache.store(new, entry, built_from, f"came with Plait, for {found.parent.name}")
                return entry
            log.warning("the kernels that came with Plait are not used: %s", problem)
        compiler, version = _compiler()
        _raise_what_failed_before(failure, version)
        log.warning("compiling C++ kernels for this processor, once: one or two minutes")
        try:
            _compile(compiler, flags, new / cache.LIBRARY)
            if (problem := trial.problem_in_a_child(new / cache.LIBRARY)) is not None:
                raise RuntimeError(problem)
        except RuntimeError as error:
            write_json(failure, {"problem": str(error), "compiler": version})
            raise
        cache.store(new, entry, built_from, version)
        failure.unlink(missing_ok=True)
    return entry


def _wait() -> None:
    log.warning("waiting for another process that compiles the kernels")


def _compiler() -> tuple[str, str]:
    """Return the compiler's path and what it says of its version."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        raise RuntimeError("there is no C++ compiler (g++, or what CXX names)")
    asked = subprocess.run([compiler, "--version"], capture_output=True)
    said = asked.stdout.decode(errors="replace")
    return compiler, f"{compiler}: {said.partition(chr(10))[0]}"


def _raise_what_failed_before(failure: Path, version: str) -> None:
    try:
        found = json.loads(failure.read_bytes())
        problem = str(found["problem"]) if found["compiler"] == version else None
    except (OSError, ValueError, KeyError, TypeError):
        return
    if problem is not None:
        raise RuntimeError(f"{problem} (delete {failure} to try again)")


def _flags(lanes: bool) -> tuple[str, ...]:
    """What the compiler is told for this very processor; `lanes`: products on plain vectors."""
    units = ("-DPLAIT_TILES",) if processor.use_tiles() else ()
    if lanes:
        units = ("-DPLAIT_LANES", *(("-mno-avx512f",) if platform.machine() == "x86_64" else ()))
    return "-march=native", *FLAGS, *units, _abi()


def _abi() -> str:
    return f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"


def make_ready(names: Sequence[str] = ()) -> None:
    """Compile the libraries that a wheel carries, for these kinds of processors or for all.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    compiler, _ = _compiler()
    for kind in ready.KINDS:
        if names and kind.name not in names:
            continue
        log.warning("compiling C++ kernels for %s: one or two minutes", kind.name)
        flags = (f"-march={kind.architecture}", *FLAGS, *kind.units, _abi())
        with tempfile.TemporaryDirectory() as folder:
            compiled = Path(folder) / cache.LIBRARY
            _compile(compiler, flags, compiled)
            ready.store(compiled, kind, _sources(), _torch())


def _compile(compiler: str, flags: Sequence[str], library: Path) -> None:
    root = Path(torch.__file__).parent
    include = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    command = [compiler, *flags]
    # a name that a compiler which outlives its killed process does not write to
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        sources = [HERE / name for name in SOURCES if name.endswith(".cpp")]
        objects = [str(Path(scratch) / source.with_suffix(".o").name) for source in sources]
        compiling: list[subprocess.Popen[str]] = []
        try:
            for source, made in zip(sources, objects, strict=True):
                compiling.append(
                    _start([*command, *include, "-c", str(source), "-o", made], scratch)
                )
            for process in compiling:
                _finish(process)
        finally:
            for process in compiling:
                process.kill()
                process.wait()
        made = str(Path(scratch) / library.name)
        link = [*command, "-shared", *objects, f"-L{root / 'lib'}", *LINKED]
        _finish(_start([*link, "-o", made], scratch))
        cache.keep_others_out(Path(made))  # in here nobody else could write to it either
        os.replace(made, library)


def _start(command: list[str], scratch: str) -> subprocess.Popen[str]:
    # what a killed compiler leaves of its own is swept with the folder
    environment = os.environ | {"TMPDIR": scratch, "LC_ALL": "C"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,  # one that outlives its process holds nobody's output open
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode < 0:
        raise OSError("the compiler was killed")  # which says nothing about the next try
    if process.returncode:
        lines = [line for line in said.splitlines() if "error" in line] or said.splitlines()
        problem = lines[0] if lines else f"the compiler ended with {process.returncode}"
        passing = any(words in said for words in PASSING)
        raise OSError(problem) if passing else RuntimeError(problem)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
