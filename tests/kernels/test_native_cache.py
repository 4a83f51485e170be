"""Whatever happens to compiled kernels, no command runs what was not built whole and by us."""

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from plait import kernels
from plait.kernels import table
from plait.kernels.native import build, cache, trial

SOURCES = sum(name.endswith(".cpp") for name in build.SOURCES)
"""that are compiled side by side"""
LIBRARY = bytes(range(256)) * 40
STRANGER = 1
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for kernels in a cache of its own, with a home of its own."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "shared"))
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)
    return tmp_path / "shared" / "kernels"


@dataclass
class Fakes:
    """In place of a minute's compiling and seconds of trying."""

    compiled: int = 0
    tried: int = 0
    problems: list[str | None] = field(default_factory=list)


@pytest.fixture
def fakes(place: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    fakes = Fakes()

    def compile_(compiler: str, flags: tuple[str, ...], library: Path) -> None:
        fakes.compiled += 1
        library.write_bytes(LIBRARY)

    def try_(library: Path) -> str | None:
        fakes.tried += 1
        return fakes.problems.pop(0) if fakes.problems else None

    monkeypatch.setattr(build, "_compile", compile_)
    monkeypatch.setattr(build, "_compiler", lambda: ("g++", "g++ 12"))
    monkeypatch.setattr(trial, "problem_in_a_child", try_)
    return fakes


def cut(size: int) -> Callable[[Path], None]:
    return lambda entry: (entry / cache.LIBRARY).write_bytes(LIBRARY[:size])


def flip(name: str, bit: int) -> Callable[[Path], None]:
    def flipped(entry: Path) -> None:
        content = bytearray((entry / name).read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        (entry / name).write_bytes(content)

    return flipped


def mode(name: str, added: int) -> Callable[[Path], None]:
    return lambda entry: (entry / name).chmod((entry / name).stat().st_mode | added)


def give_away(name: str) -> Callable[[Path], None]:
    return lambda entry: os.chown(entry / name, STRANGER, STRANGER)


def link(name: str) -> Callable[[Path], None]:
    def linked(entry: Path) -> None:
        kept = entry.parent / "elsewhere"
        (entry / name).rename(kept)
        (entry.parent / entry.name / name).symlink_to(kept)

    return linked


def other_sources(entry: Path) -> None:
    record = json.loads((entry / cache.RECORD).read_text())
    record["built_from"]["sources"] = "0" * 64
    (entry / cache.RECORD).write_text(json.dumps(record))


def replace(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def replaced(entry: Path) -> None:
        path = entry / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return replaced


DIFFERS, LINK, STRANGERS, OTHERS = "SHA-256 differs", "is a link", "another user", "other users"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{f"cut to {size}": (cut(size), DIFFERS) for size in (0, 1, 4096, len(LIBRARY) - 1)},
    **{
        f"bit {bit} flipped": (flip(cache.LIBRARY, bit), DIFFERS)
        for bit in (0, 40_003, 8 * len(LIBRARY) - 1)
    },
    "longer": (lambda entry: (entry / cache.LIBRARY).write_bytes(LIBRARY + b"\0"), DIFFERS),
    "no library": (lambda entry: (entry / cache.LIBRARY).unlink(), "is missing"),
    "no record": (lambda entry: (entry / cache.RECORD).unlink(), "is missing"),
    "empty record": (lambda entry: (entry / cache.RECORD).write_text(""), "understood"),
    "half a record": (lambda entry: (entry / cache.RECORD).write_text('{"sha256": '), "understood"),
    "another record": (lambda entry: (entry / cache.RECORD).write_text("[1]"), "understood"),
    "record with a flipped bit": (flip(cache.RECORD, 8 * 20), DIFFERS),
    "record of other sources": (other_sources, "built from something else"),
    "library for the group": (mode(cache.LIBRARY, 0o020), OTHERS),
    "library for all": (mode(cache.LIBRARY, 0o002), OTHERS),
    "record for all": (mode(cache.RECORD, 0o002), OTHERS),
    "folder for the group": (mode(".", 0o020), OTHERS),
    "folder for all": (mode(".", 0o1002), OTHERS),
    "library a link": (link(cache.LIBRARY), LINK),
    "record a link": (link(cache.RECORD), LINK),
    "folder a link": (link("."), LINK),
    "library a folder": (replace(cache.LIBRARY, Path.mkdir), LINK),
    "library a pipe": (replace(cache.LIBRARY, os.mkfifo), LINK),
    "folder a file": (replace(".", Path.touch), LINK),
}
GIVEN_AWAY = (cache.LIBRARY, cache.RECORD, ".")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        *(pytest.param(*given, id=name) for name, given in DAMAGES.items()),
        *(
            pytest.param(give_away(name), STRANGERS, id=f"{name} given away", marks=root)
            for name in GIVEN_AWAY
        ),
    ],
)
def test_what_is_damaged_is_named_and_built_anew(
    damage: Callable[[Path], None],
    reason: str,
    fakes: Fakes,
    place: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = build._library().parent
    damage(entry)
    caplog.clear()
    library = build._library()
    assert library.read_bytes() == LIBRARY
    assert (fakes.compiled, fakes.tried) == (2, 2)
    why, compiling = (record.getMessage() for record in caplog.records)
    assert reason in why
    assert "compiling" in compiling
    assert build._library() == library
    assert (fakes.compiled, fakes.tried) == (2, 2)
    assert {path.name for path in place.iterdir()} <= {entry.name, "elsewhere"}


def test_later_starts_need_no_compiler_and_no_child(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = build._library()
    caplog.clear()
    monkeypatch.setattr(build, "_compiler", lambda: pytest.fail("it asks for a compiler"))
    assert build._library() == library
    assert (fakes.compiled, fakes.tried) == (1, 1)
    assert not caplog.records


def test_a_library_is_tried_once_under_each_system(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = build._library()
    for name in ("glibc 1", "glibc 1", "glibc 2"):
        monkeypatch.setattr(cache, "system", lambda name=name: name)
        assert build._library() == library
    assert (fakes.compiled, fakes.tried) == (1, 3)
    fakes.problems = ["it crashes"]
    monkeypatch.setattr(cache, "system", lambda: "glibc 0")
    assert build._library() == library
    assert (fakes.compiled, fakes.tried) == (2, 5)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_the_umask_opens_nothing(
    mask: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "problem_in_a_child", lambda library: None)
    (tmp_path / "real.so").write_bytes(LIBRARY)
    (tmp_path / "real.so").chmod(0o777)
    monkeypatch.setenv("CXX", str(copying_compiler(tmp_path, tmp_path / "real.so")))
    before = os.umask(mask)
    try:
        library = build._library()
    finally:
        os.umask(before)
    monkeypatch.setenv("CXX", "nonesuch")
    assert build._library() == library
    made = (place.parent, place, *place.rglob("*"))
    assert not [path for path in made if path.stat().st_mode & 0o022]


def end_at_step(last: int) -> None:
    """Let this process end, as if killed, before its `last`th change of a name or sync."""
    steps = itertools.count()

    def ending(done: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: os._exit(9) if next(steps) == last else done(*given)

    for name in ("rename", "replace", "fsync"):
        setattr(os, name, ending(getattr(os, name)))


@pytest.mark.parametrize("damage", [None, flip(cache.LIBRARY, 9)])
def test_killed_at_every_step_nothing_half_is_believed(
    damage: Callable[[Path], None] | None, fakes: Fakes, place: Path
) -> None:
    for step in itertools.count():
        shutil.rmtree(place, ignore_errors=True)
        if damage is not None:
            damage(build._library().parent)
        child = os.fork()
        if child == 0:
            end_at_step(step)
            build._library()
            os._exit(0)
        ended_early = os.waitpid(child, 0)[1] != 0
        before = fakes.compiled
        assert build._library().read_bytes() == LIBRARY
        assert len(list(place.iterdir())) == 1
        if not ended_early:
            assert fakes.compiled == before
            assert step > 6
            break


def refuse_foreign(place: Path) -> None:
    place.mkdir(parents=True)
    os.chown(place, STRANGER, STRANGER)


def refuse_foreign_above(place: Path) -> None:
    place.parent.mkdir()
    os.chown(place.parent, STRANGER, STRANGER)


def refuse_open(place: Path) -> None:
    place.parent.mkdir()
    place.parent.chmod(0o777)


def refuse_open_itself(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o1777)


def refuse_file(place: Path) -> None:
    place.parent.write_text("not a folder")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        pytest.param(refuse_foreign, "belongs to another user", marks=root),
        pytest.param(refuse_foreign_above, "belongs to another user", marks=root),
        (refuse_open, "can be written by other users"),
        (refuse_open_itself, "can be written by other users"),
        (refuse_file, "cannot be made"),
    ],
)
def test_where_others_write_the_home_folder_is_taken(
    prepare: Callable[[Path], None],
    reason: str,
    fakes: Fakes,
    place: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(place)
    library = build._library()
    assert library.is_relative_to(tmp_path / "home" / ".cache" / "plait" / "kernels")
    caplog.clear()
    assert build._library() == library
    assert fakes.compiled == 1
    (refused,) = (record.getMessage() for record in caplog.records)
    assert refused.startswith(f"no compiled kernels are kept in {place}: ")
    assert reason in refused
    (tmp_path / "home" / ".cache").chmod(0o777)
    with pytest.raises(RuntimeError, match="no folder for compiled kernels that only you"):
        build._library()


def test_a_folder_like_tmp_and_a_linked_cache_are_good(
    fakes: Fakes, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "large" / "mine").mkdir(parents=True)
    (tmp_path / "large").chmod(0o1777)
    place.parent.symlink_to(tmp_path / "large" / "mine")
    assert build._library().is_relative_to(tmp_path / "large" / "mine" / "kernels")
    assert ["compiling" in record.getMessage() for record in caplog.records] == [True]


def test_a_failure_is_remembered_for_that_compiler(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.problems = ["the compiled kernels crash (SIGILL)"]
    for ending in ("$", ".*delete .*failed to try again"):
        with pytest.raises(RuntimeError, match=rf"crash \(SIGILL\){ending}"):
            build._library()
    assert fakes.compiled == 1
    monkeypatch.setattr(build, "_compiler", lambda: ("g++", "g++ 13"))
    library = build._library()
    assert fakes.compiled == 2
    assert [path.name for path in library.parent.parent.iterdir()] == [library.parent.name]


@pytest.mark.parametrize("said", ["fatal error: Killed signal", "error: No space left on device"])
def test_a_passing_failure_is_not_remembered(
    said: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    for _ in range(2):
        with pytest.raises(OSError, match=said):
            build._library()
    assert not list(place.iterdir())


def shared_object(path: Path, constructor: str) -> Path:
    """Compile a library that does something as soon as it is loaded."""
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    path.with_suffix(".c").write_text(
        "#include <signal.h>\n#include <stdio.h>\n"
        f"__attribute__((constructor)) static void first(void) {{ {constructor} }}\n"
    )
    made = [compiler, "-shared", "-fPIC", str(path.with_suffix(".c")), "-o", str(path)]
    subprocess.run(made, check=True)
    path.chmod(0o755)
    return path


def test_a_planted_library_never_runs(
    place: Path, tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "it-ran"
    planted = shared_object(tmp_path / "planted.so", f'fclose(fopen("{marker}", "w"));')
    subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL('{planted}')"], check=True)
    assert marker.exists()  # it would
    marker.unlink()
    entry = build._library().parent
    true_record = (entry / cache.RECORD).read_text()
    own_record = json.dumps(json.loads(true_record) | {"sha256": cache._sha256(planted)})

    def belongs_to_a_stranger(*paths: Path) -> None:
        for path in paths:
            os.chown(path, STRANGER, STRANGER)

    def plant(record: str | None, *, link: bool = False) -> Path:
        shutil.rmtree(place, ignore_errors=True)
        entry.mkdir(parents=True)
        library = entry / cache.LIBRARY
        library.symlink_to(planted) if link else shutil.copy(planted, library)
        if record is not None:
            (entry / cache.RECORD).write_text(record)
        return library

    def a_folder_for_all(path: Path) -> None:
        path.chmod(0o777)

    ways: list[tuple[str | None, bool, Callable[[], Any]]] = [
        (None, False, lambda: None),
        (true_record, False, lambda: None),
        (own_record, True, lambda: None),
        (own_record, False, lambda: a_folder_for_all(entry)),
        (own_record, False, lambda: a_folder_for_all(place.parent)),
        (own_record, False, lambda: a_folder_for_all(entry / cache.LIBRARY)),
    ]
    if os.geteuid() == 0:
        library, record = entry / cache.LIBRARY, entry / cache.RECORD
        ways += [
            (own_record, False, lambda: belongs_to_a_stranger(library)),
            (own_record, False, lambda: belongs_to_a_stranger(library, record)),
            (own_record, False, lambda: belongs_to_a_stranger(entry)),
            (own_record, False, lambda: belongs_to_a_stranger(place)),
            (own_record, False, lambda: belongs_to_a_stranger(place.parent)),
            (own_record, False, lambda: belongs_to_a_stranger(place, entry, library, record)),
        ]
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLAIT_CACHE", str(place.parent))
    monkeypatch.setenv("CXX", "nonesuch")
    for record_text, linked, finish in ways:
        place.parent.chmod(0o755)
        os.chown(place.parent, os.geteuid(), -1)
        plant(record_text, link=linked)
        finish()
        assert build.load.__wrapped__() == "there is no C++ compiler (g++, or what CXX names)"
        assert not marker.exists()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGILL"])
def test_kernels_that_crash_are_left_for_python(
    name: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crashing = shared_object(tmp_path / "crashing.so", f"signal({name}, SIG_DFL); raise({name});")
    monkeypatch.setenv("CXX", str(copying_compiler(tmp_path, crashing)))
    forget = (table._able.cache_clear, table._warn.cache_clear, build.load.cache_clear)
    for clear in forget:
        clear()
    try:
        operations = ("experts", "rms_norm", "experts")
        names = [kernels.backend_name(op, torch.device("cpu")) for op in operations]
    finally:
        for clear in forget:
            clear()
    assert names == ["cpu", "reference", "cpu"]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said[1:] == [
        "torch's operations compute, slower than kernels in C++ would: the compiled kernels crash "
        f"({name})"
    ]
    assert "compiling" in said[0]
    assert "to try again" in str(build.load.__wrapped__())
    assert [path.suffix for path in place.iterdir()] == [".failed"]


# From here on real processes load the real kernels, which a compiler that only copies "builds".


def copying_compiler(folder: Path, library: Path, *, slow: bool = False) -> Path:
    """Write a compiler that notes its process, and then copies a library or sleeps."""
    compiler = folder / "compiler"
    compiler.write_text(
        "#!/bin/sh\n"
        "[ $1 = --version ] && exit\n"
        f"echo $$ $@ >> {folder}/calls\n"
        + ("exec sleep 600\n" if slow else "sleep 0.3\n")
        + f"while [ $# -gt 0 ]; do [ $1 = -o ] && cp {library} $2; shift; done\n"
    )
    compiler.chmod(0o755)
    return compiler


@pytest.fixture(scope="module")
def real() -> Path:
    problem = build.load()
    return build._library() if problem is None else pytest.skip(problem)


def start(**environment: str) -> subprocess.Popen[str]:
    code = "from plait.kernels.native import build; print(build.load())"
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[Path]:
    """The file of what compilers were started; they end with the test."""
    calls = tmp_path / "calls"
    calls.touch()
    yield calls
    for line in calls.read_text().splitlines():
        try:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_of_two_processes_one_compiles(
    real: Path, place: Path, tmp_path: Path, calls: Path
) -> None:
    compiler = str(copying_compiler(tmp_path, real))
    both = [start(CXX=compiler), start(CXX=compiler)]
    results = [process.communicate(timeout=100) for process in both]
    assert [out for out, _ in results] == ["None\n", "None\n"]
    assert sum(err.count("compiling C++ kernels for") for _, err in results) == 1
    assert sum("-shared" in call for call in calls.read_text().splitlines()) == 1
    (record,) = place.glob(f"*/{cache.RECORD}")
    assert len(json.loads(record.read_text())["tried"]) == 1
    # a compiler that is gone takes nothing from what it built
    out, err = start(PATH="", CXX="nonesuch").communicate(timeout=100)
    assert (out, err) == ("None\n", "")


@pytest.mark.parametrize("moment", ["compiling", "trying"])
def test_a_process_killed_while_it_builds_leaves_nothing(
    moment: str, real: Path, place: Path, tmp_path: Path, calls: Path
) -> None:
    compiler = copying_compiler(tmp_path, real, slow=moment == "compiling")
    process = start(CXX=str(compiler))
    if moment == "compiling":
        wait_for(lambda: len(calls.read_text().splitlines()) == SOURCES)
    else:
        wait_for(lambda: list(place.glob(f".*/{cache.LIBRARY}")))
    process.kill()
    process.communicate()
    assert not list(place.glob("[!.]*"))
    assert list(place.glob(".*/*"))
    out, err = start(CXX=str(copying_compiler(tmp_path, real))).communicate(timeout=100)
    assert out == "None\n"
    assert err == "compiling C++ kernels for this processor, once: one or two minutes\n"
    (entry,) = place.iterdir()
    assert {path.name for path in entry.iterdir()} == {cache.LIBRARY, cache.RECORD}
