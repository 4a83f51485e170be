"""The notebooks of `examples/` run from top to bottom, and what they show is of the same code.

They run at toy size on a toy corpus, and each cell must then show the kinds of output that are
kept: a cell that was changed and not run again, or code that shows something else by now, fails.
"""

import os
import re
from pathlib import Path
from typing import Any

import notebooks
import pytest

from plait.data.build import build, cache_folder
from plait.data.sources import StandardLibrary, StandardLibraryTopics
from plait.data.specification import Specification

NANO = {"from plait.recipes import nano": "import small_nano as nano"}
SMALLER = {
    "first-steps": NANO,
    "from-one-process-to-many": NANO,
    "routing-of-a-hugging-face-moe": {"steps = 150": "steps = 2", "tokens=8_000": "tokens=2_000"},
    "study-of-your-own": NANO | {"seeds=(0, 1, 2)": "seeds=(0,)"},
    "tie-and-heal": NANO,
}
"""by notebook: a text of its cells, and what stands for it here"""
LARGEST = 300_000
"""bytes of a notebook with its outputs"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache in which a corpus of half a megabyte has the name of the real one."""
    kernels = cache_folder() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    cache = tmp_path_factory.mktemp("cache")
    (cache / "kernels").symlink_to(kernels)  # compiled once, not for every test
    specification = Specification(
        name="starter-2k",
        sources=(
            StandardLibrary(parts=("json", "email", "logging", "http")),
            StandardLibraryTopics(domain="encyclopaedia"),
        ),
        vocab_size=512,
        validation=0.15,
        test=0.15,
    )
    build(specification, cache / "corpora" / "starter-2k")
    found = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).parent)
    return {
        "PLAIT_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{here}:{found}" if found else here,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLER))
def test_it_runs_and_shows_what_is_kept(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    kept, notebook = notebooks.read(name), notebooks.read(name)
    for text, instead in SMALLER[name].items():
        assert sum(cell.source.count(text) for cell in notebook.cells) == 1, text
        for cell in notebook.cells:
            cell.source = cell.source.replace(text, instead)
    done = notebooks.run(notebook, tmp_path, environment)
    for was, now in zip(kept.cells, done.cells, strict=True):
        if was.cell_type == "code":
            assert shown(now) == shown(was), was.source


def shown(cell: Any) -> list[set[str]]:
    """The kinds of what a cell shows, output by output; warnings are not what it shows."""
    return [
        {"stream"} if output.output_type == "stream" else set(output.data)
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]


@pytest.mark.parametrize("name", notebooks.names())
def test_what_is_kept_is_whole_small_and_of_no_machine(name: str) -> None:
    notebook = notebooks.read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert name in SMALLER
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/svg+xml" in output.get("data", ()) for output in outputs)
    text = (notebooks.EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text) < LARGEST
    for path in (str(Path.home()), str(notebooks.EXAMPLES.parent), "/tmp/", "site-packages"):
        assert path not in text


@pytest.mark.parametrize("name", notebooks.names())
def test_what_its_text_links_to_exists(name: str) -> None:
    for cell in notebooks.read(name).cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^)#]+)", cell.source):
                assert (notebooks.EXAMPLES / link).exists(), link
