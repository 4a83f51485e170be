"""The file of a run's metrics, `metrics.jsonl`: one JSON object a line, each with its `step`."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plait.atomic import new_file

Row = Mapping[str, Any]


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
        self.path = path
        self._open(after)

    def cut(self, after: int) -> None:
        """Drop the rows after a step that the run has gone back to."""
        self._file.close()
        self._open(after)

    def _open(self, after: int) -> None:
        if self.path.exists():
            kept = [line for line, row in _whole_rows(self.path) if row["step"] <= after]
            with new_file(self.path) as partial:
                partial.write_bytes(b"".join(kept))
        self._file = self.path.open("a", encoding="utf-8")

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
    """Read the whole rows of a file, none where there is no file."""
    return [row for _, row in _whole_rows(path)] if path.exists() else []


class NewRows:
    """The rows that were written since the last look, while another process writes them."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0

    def take(self) -> list[dict[str, Any]]:
        """Return the new whole rows."""
        if not self.path.exists():
            return []
        if self.path.stat().st_size < self._read:
            self._read = 0  # resuming, the run cut the file back to its checkpoint
        rows = []
        for line, row in _whole_rows(self.path, self._read):
            self._read += len(line)
            rows.append(row)
        return rows


def _counts(row: Row) -> bool:
    return all(type(row.get(name, 0)) is int for name in ("step", "tokens")) and "step" in row


def _whole_rows(path: Path, start: int = 0) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Rows from a byte on, each with its line; half a line, left by a killed process, is none."""
    with path.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return  # what follows a broken line was written by nobody
            if not line.endswith(b"\n") or not isinstance(row, dict) or not _counts(row):
                return
            yield line, row
