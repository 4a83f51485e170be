"""Where metrics go beside `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio on request.

A row is a flat or nested mapping with a `step`; lists run over depths, None stands at dense ones.
Of a list they get mean, least and largest, so that a deep model has no more names than a flat one.
"""

import importlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from plait.atomic import write_json
from plait.reading import one_line, read_json
from plait.storage.metrics_file import Row

WANDB = "wandb.json"
"""in a run's folder: its id at Weights & Biases"""
Tracker = Literal["tensorboard", "wandb", "trackio"]


class Sink(Protocol):
    """Takes rows until it is closed."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Scalars into event files under the run's folder; steps that are done again count once."""

    def __init__(self, folder: Path, after: int) -> None:
        writer = _imported("torch.utils.tensorboard.writer", "tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=after + 1 if after else None)

    def write(self, row: Row) -> None:
        """Write each number under its path of names."""
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Hosted:
    """Weights & Biases or Trackio, whose interfaces are one; a resumed run stays one run there.

    Raises:
        ValueError: it refuses, in its own words.
    """

    def __init__(
        self, module: Literal["wandb", "trackio"], folder: Path, config: Row, after: int
    ) -> None:
        self._api = _imported(module)
        which: Row = {"resume": "allow" if after else "never"}  # by the run's name
        if module == "wandb":
            which = {"resume": "allow", "id": _kept_id(folder), "dir": str(folder)}
        project = f"plait-{folder.parent.name}"
        try:
            self._api.init(project=project, name=folder.name, config=dict(config), **which)
        except Exception as error:  # no account, no network, no such server: whatever it says
            raise ValueError(f"{module}: {one_line(error)}") from error

    def write(self, row: Row) -> None:
        """Log each number under its path of names."""
        self._api.log(dict(scalars(row)), step=row["step"])

    def close(self) -> None:
        """Finish the run there."""
        self._api.finish()


def open_trackers(
    names: Sequence[Tracker], folder: Path, config: Row, after: int = 0
) -> list[Sink]:
    """Open the sinks asked for; their libraries are in the extra `track`.

    Args:
        names: of the sinks.
        folder: of the run, which names it there too.
        config: of the run.
        after: the step that the run goes on after; 0: it begins.

    Raises:
        ModuleNotFoundError: one is not installed.
        ValueError: one is installed and cannot be imported, or it refuses.
    """
    return [
        TensorBoard(folder, after) if name == "tensorboard" else Hosted(name, folder, config, after)
        for name in names
    ]


def _imported(module: str, library: str | None = None) -> Any:
    library = library or module
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            raise
        message = f"{library} is installed, but cannot be imported: {one_line(error)}"
        raise ValueError(message) from error


def _kept_id(folder: Path) -> str:
    """Return the run's id at Weights & Biases, made once and then kept."""
    path, fix = folder / WANDB, "delete it, and a new run begins there"
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(4)})
    found = read_json(path, fix).get("id")
    if not isinstance(found, str):
        raise ValueError(f"{path}: damaged (it has no id): {fix}")
    return found


def scalars(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Flatten a row to (path, number): `evaluation/code/loss`, `load_max_over_mean/mean`."""
    for name, value in row.items():
        if name == "step" and not prefix:
            continue
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            numbers = [number for number in value if number is not None]
            if numbers:
                yield f"{prefix}{name}/mean", sum(numbers) / len(numbers)
                yield f"{prefix}{name}/min", min(numbers)
                yield f"{prefix}{name}/max", max(numbers)
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
