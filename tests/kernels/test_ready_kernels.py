"""Libraries that come with a wheel: chosen by the processor, tried, and better than no compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plait.kernels import processor
from plait.kernels.native import build, ready

LANES, LONG, TILES = (" ".join(sorted(kind.needs)) for kind in reversed(ready.KINDS))


def as_if(monkeypatch: pytest.MonkeyPatch, flags: str, tiles: bool = False) -> None:
    monkeypatch.setattr(processor, "flags", lambda: flags)
    monkeypatch.setattr(processor, "use_tiles", lambda: tiles)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ready, "FOLDER", tmp_path)
    made = tmp_path.with_name("made.so")
    for kind in ready.KINDS:
        made.write_text(kind.name)
        ready.store(made, kind, "these sources", "this torch")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "tiles", "kind"),
    [
        (LANES, False, "avx2"),
        (LONG, False, "avx512"),
        (TILES, True, "amx"),
        (TILES, False, "avx512"),  # the system does not let the process use them
        ("sse4_2 avx", False, None),
    ],
)
def test_the_best_kind_that_fits_is_taken(
    monkeypatch: pytest.MonkeyPatch, folder: Path, flags: str, tiles: bool, kind: str | None
) -> None:
    as_if(monkeypatch, flags, tiles)
    found = ready.library("these sources", "this torch")
    assert found == (None if kind is None else folder / kind / ready.LIBRARY)


@pytest.mark.parametrize("flaw", ["sources", "torch", "changed", "record", "none"])
def test_what_does_not_belong_to_this_version_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, folder: Path, flaw: str
) -> None:
    as_if(monkeypatch, LANES)
    if flaw == "changed":
        (folder / "avx2" / ready.LIBRARY).write_text("something else")
    if flaw == "record":
        (folder / "avx2" / ready.RECORD).write_text("{}")
    if flaw == "none":
        (folder / "avx2" / ready.RECORD).unlink()
    sources = "others" if flaw == "sources" else "these sources"
    assert ready.library(sources, "other" if flaw == "torch" else "this torch") is None


@pytest.mark.slow
@pytest.mark.skipif(build.load() is not None, reason="there is no compiler for the C++ kernels")
@pytest.mark.parametrize("works", [True, False])
def test_without_a_compiler_they_are_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    kind = next(kind for kind in ready.KINDS if kind.fits)
    monkeypatch.setattr(ready, "FOLDER", tmp_path / "compiled")
    if works:
        build.make_ready([kind.name])
    else:
        broken = tmp_path / "broken.so"
        broken.write_bytes(b"no library")
        ready.store(broken, kind, build._sources(), build._torch())
    code = (
        "import sys, pathlib; from plait.kernels.native import build, ready; "
        "ready.FOLDER = pathlib.Path(sys.argv[1]); print(build.load())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ready.FOLDER)],
        env=os.environ | {"PLAIT_CACHE": str(tmp_path / "cache"), "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    if works:
        assert done.stdout.strip() == "None", done.stderr
        (record,) = (tmp_path / "cache" / "kernels").glob("*/record.json")
        assert json.loads(record.read_text())["compiler"] == f"came with Plait, for {kind.name}"
    else:
        assert "no C++ compiler" in done.stdout
        assert "the kernels that came with Plait are not used" in done.stderr


def test_without_a_compiler_a_wheel_gets_none_and_one_line_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "plait.kernels.native"],
        env=os.environ | {"CXX": str(tmp_path / "nonesuch")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "no kernels for a wheel: there is no C++ compiler (g++, or what CXX names)\n"
    )
