"""The runs in a folder of runs: how far each is, what it holds, what of it is no longer needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plait.storage.places import Folder
from plait.storage.run_folder import AWAY, CHECKPOINTS, CONFIG, RunFolder

State = Literal["finished", "running", "interrupted", "begun", "damaged"]
"""begun: it has no checkpoint yet; damaged: its configuration or result cannot be read"""


@dataclass(frozen=True)
class FoundRun:
    """One run on the disk. Losses are held-out nats per token, None until it is finished."""

    folder: Path
    study: str
    state: State
    tokens: int
    tokens_planned: int
    loss: float | None
    bytes: int


def found_runs(root: Path, studies: Sequence[str] = ()) -> list[FoundRun]:
    """Find the runs under `root`, by study and name.

    Args:
        root: folder of all runs.
        studies: only these; empty: all.

    Raises:
        FileNotFoundError: there is no such folder, or no such study in it.
    """
    for folder in (root, *(root / study for study in studies)):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder: say where with --runs")
    configs = sorted(root.glob(f"*/*/{CONFIG}"))
    folders = [config.parent for config in configs]
    return [_found(folder) for folder in folders if not studies or folder.parent.name in studies]


def removable(run: FoundRun) -> list[Path]:
    """Return what a run holds without need; nothing of one that is running.

    That is all but the last checkpoint of a finished one, what a killed process left, and
    checkpoints that were set aside as damaged.
    """
    checkpoints = run.folder / CHECKPOINTS
    if run.state in ("running", "damaged") or not checkpoints.is_dir():
        return []
    left = [*checkpoints.glob(".*"), *checkpoints.glob("*.damaged")]
    old = Folder(checkpoints).names()[:-1] if run.state == "finished" else []
    return [*left, *(checkpoints / name for name in old)]


def bytes_in(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    return sum(file.stat().st_size for file in files)


def _found(folder: Path) -> FoundRun:
    run, study, size = RunFolder(folder), folder.parent.name, bytes_in(folder)
    try:
        planned = run.config()
        result = run.result()
    except (ValueError, OSError):
        return FoundRun(folder, study, "damaged", 0, 0, None, size)
    total = planned.steps * planned.tokens_per_step
    if result is not None:
        return FoundRun(folder, study, "finished", result.tokens, total, result.held_out(), size)
    rows = run.metrics()
    tokens = rows[-1].get("tokens", 0) if rows else 0
    state: State = "begun"
    if Folder(folder / CHECKPOINTS).names() or (folder / AWAY).is_file():
        state = "interrupted"
    if run.held:
        state = "running"
    return FoundRun(folder, study, state, tokens, total, None, size)
