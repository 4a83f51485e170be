"""Runs the notebooks of `examples/`.

python notebooks.py [NAME …]   runs them at the size that they show and keeps their outputs
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


def names() -> list[str]:
    return sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def run(notebook: Any, folder: Path, environment: Mapping[str, str]) -> Any:
    """Run all cells in a folder, in a kernel of this interpreter; an error in one is raised.

    What shows itself as HTML is kept as that alone: its text tells of the machine, at length.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    given = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "ignore:IProgress",  # tqdm would rather have widgets
        "HF_HUB_OFFLINE": "1",
    }
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    done = client.execute(env=os.environ | given | environment)
    for cell in done.cells:
        for output in cell.get("outputs", ()):
            if "text/html" in output.get("data", ()):
                output.data.pop("text/plain", None)
    return done


def main(chosen: list[str]) -> None:
    for name in chosen or names():
        folder = Path(tempfile.mkdtemp())
        try:
            done = run(read(name), folder, {})
        finally:
            shutil.rmtree(folder)
        done.metadata = {key: done.metadata[key] for key in ("kernelspec", "language_info")}
        done.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
        (EXAMPLES / f"{name}.ipynb").write_text(nbformat.writes(done) + "\n", encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
