"""A checkpoint's manifest: each of its files by size and SHA-256, and whether they are so still."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plait.config.files import load_json
from plait.data.corpus import file_sha256
from plait.reading import inside, named, read_json
from plait.storage.sharded_state import CheckpointError, reason
from plait.storage.tensor_files import weight_files, weights_in

STATE, PROGRESS, MANIFEST = "state", "progress.json", "manifest.json"
TRY_ANOTHER = "delete it and run the same command again, to go on from the one before it"


@dataclass(frozen=True)
class WrittenFile:
    """A file of a checkpoint, as its manifest says."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, WrittenFile]


def fingerprints(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Return what the manifest of the checkpoint in `folder` says of some of its files."""
    return {path.relative_to(folder).as_posix(): asdict(_fingerprint(path)) for path in files}


def files_of(path: Path, state: bool = True) -> dict[str, WrittenFile]:
    """Read what the checkpoint at `path` consists of, or what of it is not `state/`.

    Raises:
        OSError: there is no manifest.
        ValueError: it is damaged.
    """
    files = load_json(_Manifest, path / MANIFEST, TRY_ANOTHER).files
    return {name: file for name, file in files.items() if state or not name.startswith(f"{STATE}/")}


def verify(path: Path, state: bool = True, called: str | None = None) -> None:
    """Compare the files of a checkpoint, all or those not of `state/`, with its manifest.

    Args:
        path: of its folder.
        state: also compare those.
        called: its name in messages; None: the path.

    Raises:
        CheckpointError: a file is missing, short or changed.
    """
    try:
        expected = files_of(path, state)
        for name in (PROGRESS, *(file.name for file in weight_files(weights_in(path)))):
            if name not in expected:
                raise ValueError(f"{MANIFEST} does not name {name}")
        for name, file in expected.items():
            if _fingerprint(inside(path, name)) != file:
                raise ValueError(f"{named(name)} has changed")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {called or path} is damaged: {reason(error)}") from None


def read_progress(path: Path) -> dict[str, Any]:
    """Read what `Checkpoints.save` got as `progress`."""
    return read_json(path / PROGRESS, TRY_ANOTHER)


def _fingerprint(path: Path) -> WrittenFile:
    return WrittenFile(path.stat().st_size, file_sha256(path))
