"""Where metrics go beside `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio on request.

A row is a flat or nested mapping with a `step`; lists run over depths, None stands at dense ones.
Of a list they get mean, least and largest, so that a deep model has no more names than a flat one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from plait.storage.metrics_file import Row

Tracker = Literal["tensorboard", "wandb", "trackio"]


class Sink(Protocol):
    """Takes rows until it is closed."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """Send what is left."""


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
    """Open the sinks asked for; their libraries are in the extra `track`."""
    return [
        TensorBoard(folder) if name == "tensorboard" else Hosted(name, folder, config)
        for name in names
    ]


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
