"""Where metrics go: ``metrics.jsonl`` always; TensorBoard, Weights & Biases, Trackio on request.

A row is a flat or nested mapping with a ``step``; lists run over depths, None stands at dense ones.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

Row = Mapping[str, Any]
Tracker = Literal["tensorboard", "wandb", "trackio"]


class Sink(Protocol):
    """Takes rows until it is closed."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """Send what is left."""


class JsonLines:
    """One JSON object per line, on the disk's doorstep after each row.

    Args:
        path: the file; created, or continued.
        after: the step that the run resumes from. Later rows, written by a process that was killed
            after its last checkpoint, are cut, so that the file has each step once; so is the half
            line that it may have left.

    """

    def __init__(self, path: Path, *, after: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line, row in _whole_rows(path) if row["step"] <= after]
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append and flush.

        Raises:
            ValueError: the disk is full, or cannot be written.

        """
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise ValueError(
                f"could not write {self._file.name}: {error.strerror}; make room and run the same "
                "command again to go on from the last checkpoint"
            ) from error

    def sync(self) -> None:
        """Force the rows so far onto the disk, before a checkpoint says that they happened."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the whole rows of a ``metrics.jsonl``."""
    return [row for _, row in _whole_rows(path)]


def _whole_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                return  # what follows a broken line was written by nobody
            if not line.endswith("\n") or not isinstance(row, dict) or "step" not in row:
                return
            yield line, row


class TensorBoard:
    """Scalars into event files under the run's folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, row: Row) -> None:
        """Write each number under its path of names."""
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Hosted:
    """Weights & Biases or Trackio, whose interfaces are one; the run's folder names the run."""

    def __init__(self, module: Literal["wandb", "trackio"], folder: Path, config: Row) -> None:
        import importlib

        api = importlib.import_module(module)
        self._api = api
        resume = {"id": folder.name, "dir": str(folder)} if module == "wandb" else {}
        api.init(
            project=f"plait-{folder.parent.name}",
            name=folder.name,
            config=dict(config),
            resume="allow",
            **resume,
        )

    def write(self, row: Row) -> None:
        """Log each number under its path of names."""
        self._api.log(dict(scalars(row)), step=row["step"])

    def close(self) -> None:
        """Finish the run there."""
        self._api.finish()


def open_trackers(names: Sequence[Tracker], folder: Path, config: Row) -> list[Sink]:
    """Open the sinks asked for.

    Raises:
        ValueError: the library of one is not installed.

    """
    sinks: list[Sink] = []
    for name in names:
        try:
            sinks.append(
                TensorBoard(folder) if name == "tensorboard" else Hosted(name, folder, config)
            )
        except ImportError:
            raise ValueError(
                f"tracking with {name} needs it installed: pip install 'plait[track]'"
            ) from None
    return sinks


def scalars(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Flatten a row to (path, number): ``load_max_over_mean/3``, ``evaluation/code/loss``."""
    for name, value in row.items():
        if name == "step" and not prefix:
            continue
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            yield from scalars({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
