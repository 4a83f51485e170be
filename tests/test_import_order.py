"""Folders build on those below them, files never in a circle: read from the imports themselves."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import plait

ROOT = Path(plait.__file__).parent
ORDER = (
    "reading",
    "calling",
    "plan_text",
    "notebook",
    "sharing",
    "atomic",
    "statistics",
    "config",
    "kernels",
    "parallel",
    "model",
    "data",
    "storage",
    "optim",
    "evaluation",
    "training",
    "routing",
    "surgery",
    "interop",
    "opening",
    "studies",
    "verification",
    "report",
    "explore",
    "recipes",
    "bench",
    "cli",
)
"""from the bottom up; docs/architecture.md draws it"""


def module_name(path: Path) -> str:
    return ".".join(["plait", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
        ".__init__"
    )


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def test_every_folder_has_its_place():
    names = {name.split(".")[1] for name in MODULES if "." in name}
    assert names - {"__main__"} == set(ORDER)


@pytest.mark.parametrize("place", ORDER)
def test_imports_point_downwards(place):
    upwards = [
        f"{name} imports {imported}"
        for name, path in MODULES.items()
        if name.split(".")[1:2] == [place]
        for imported in imports(path)
        if imported != "plait" and ORDER.index(imported.split(".")[1]) > ORDER.index(place)
    ]
    assert not upwards, "\n".join(upwards)


def test_no_file_stands_in_a_circle():
    graph = {name: set(imports(path)) - {name} for name, path in MODULES.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_no_file_is_longer_than_one_idea():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
