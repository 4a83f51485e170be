"""The wheel holds all that the package needs, and trains where no compiler is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from plait import __version__
from tiny_corpus import tiny

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--model.depth=2", "--model.width=32", "--data.batch=2", "--data.sequence-length=32"),
    *("--tokens=256", "--evaluation.every=0", "--evaluation.final-tokens=128"),
]
INSTALLED = """
import sys
import plait
assert plait.__file__.startswith(sys.argv.pop(1)), plait.__file__
from plait.cli import main
main()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    ours = shutil.ignore_patterns("__pycache__", "*.egg-info", "compiled")
    shutil.copytree(ROOT / "src", folder / "source" / "src", ignore=ours)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, *build, "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("plait-*-none-any.whl")
    ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_it_holds_every_file_of_the_package(site: Path) -> None:
    def files(root: Path) -> set[Path]:
        return {path.relative_to(root) for path in (root / "plait").rglob("*") if path.is_file()}

    assert files(site) == files(site.parent / "source" / "src")
    assert (site / f"plait-{__version__}.dist-info").is_dir(), "pyproject.toml says another version"


def test_it_trains_where_no_compiler_is_and_says_so_in_one_line(site: Path, tmp_path: Path) -> None:
    tiny(tmp_path / "corpus")
    words = ["train", "nano", "--data.corpus=corpus", *SMALL, "--device=cpu"]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(site), "PLAIT_CACHE": str(tmp_path)}
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(site), *words],
        cwd=tmp_path,
        env=kept | environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "torch's operations compute, slower than kernels in C++ would: there is no C++ compiler "
        "(g++, or what CXX names)\n"
    )
    (result,) = tmp_path.glob("runs/single/*/result.json")
    assert json.loads(result.read_text())["environment"]["kernel"] == "cpu"
