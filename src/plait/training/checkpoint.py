"""Checkpoints: written beside the old one, synced, renamed; verified before they are believed.

    checkpoints/step-120/
      model.safetensors   the weights, one name per stored parameter
      state/              everything else that is a tensor (optimizer state, random generators),
                          by torch.distributed.checkpoint: each rank writes what it holds
      progress.json       step, tokens, loader state, seconds, …
      manifest.json       size and SHA-256 of each file above, written last

A folder has its final name only when all of it is on the disk, so a crash leaves either a whole
checkpoint or a ``.partial-…`` folder that is swept away; and a file that the disk damaged later is
found by its hash. Nothing here runs code from a file: weights are safetensors, and of torch's
formats, which use pickle, only tensors and an allow-list of plain metadata classes are read.
"""

import hashlib
import json
import logging
import os
import pathlib
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from plait.training.distributed import World

logger = logging.getLogger(__name__)

WEIGHTS, STATE, PROGRESS, MANIFEST = "model.safetensors", "state", "progress.json", "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message is one line and says what to do."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; ``keep`` is how many of the newest stay on the disk."""

    folder: Path
    keep: int
    world: World

    def save(
        self,
        step: int,
        weights: Callable[[], Mapping[str, Tensor]],
        state: Mapping[str, Tensor],
        progress: Mapping[str, Any],
    ) -> Path:
        """Write ``step-<step>`` and remove the oldest ones beyond ``keep``.

        Args:
            step: optimizer steps done.
            weights: called on every rank; returns the whole weights on the main rank.
            state: tensors or shards of them; saved as what they are.
            progress: plain JSON.

        Raises:
            CheckpointError: the disk is full, or cannot be written; older checkpoints are intact.

        """
        final, partial = self.folder / f"step-{step}", self.folder / f".partial-step-{step}"
        try:
            if self.world.is_main:
                _remove(partial)
                partial.mkdir(parents=True)
            self.world.barrier()
            _save_state(state, partial / STATE, self.world)
            whole = weights()
            if self.world.is_main:
                save_file(dict(whole), partial / WEIGHTS, metadata={"format": "pt"})
                # safetensors makes the file private; it is as public as its neighbours.
                write_json(partial / PROGRESS, progress)
                (partial / WEIGHTS).chmod((partial / PROGRESS).stat().st_mode)
                write_json(partial / MANIFEST, {"files": _fingerprints(partial)})
                for path in (partial / WEIGHTS, partial / STATE, partial):
                    _sync(path)
                if final.exists():
                    _remove(final)
                os.rename(partial, final)
                _sync(self.folder)
                self._prune()
        except (OSError, SafetensorError, CheckpointException) as error:
            _remove(partial)
            kept = _steps(self.folder)
            last = f"step-{kept[-1]} is intact" if kept else "there is no earlier one"
            raise CheckpointError(
                f"could not write checkpoint {final}: {_reason(error)}; {last}. Make room and run "
                "the same command again to go on from there"
            ) from error
        self.world.barrier()
        return final

    def newest(self) -> Path | None:
        """Find the newest checkpoint that is whole, for the run that owns the folder.

        What an interrupted save left is swept away; a damaged checkpoint is reported and set aside
        as ``step-N.damaged``, and the one before it is tried.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.

        """
        found: Path | None = None
        if self.world.is_main:
            for left_over in (*self.folder.glob(".partial-*"), *self.folder.glob(".removed-*")):
                shutil.rmtree(left_over)
            found, damaged = _newest_whole(self.folder)
            for path in damaged:
                aside = path.with_name(f"{path.name}.damaged")
                _remove(aside)
                os.rename(path, aside)
        return self.world.broadcast(found)

    def _prune(self) -> None:
        for step in _steps(self.folder)[: -self.keep]:
            _remove(self.folder / f"step-{step}")


def newest_whole(folder: Path) -> Path | None:
    """Find the newest whole checkpoint of any run, touching nothing; None where there is none.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.

    """
    return _newest_whole(folder)[0]


def _newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    damaged: list[Path] = []
    for step in reversed(_steps(folder)):
        path = folder / f"step-{step}"
        try:
            verify(path)
            return path, damaged
        except CheckpointError as error:
            logger.warning("%s; trying the one before it", error)
            damaged.append(path)
    if damaged:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged: delete this folder to start again"
        )
    return None, damaged


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in names if match)


def verify(path: Path) -> None:
    """Compare every file of a checkpoint with the size and hash in its manifest.

    Raises:
        CheckpointError: a file is missing, short or changed.

    """
    try:
        expected = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        changed = [name for name in expected if _fingerprint(path / name) != expected[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {_reason(error)}") from None
    if changed or not expected:
        raise CheckpointError(f"checkpoint {path} is damaged: {changed[0]} has changed")


def read_progress(path: Path) -> dict[str, Any]:
    """Read what ``save`` got as ``progress``."""
    progress: dict[str, Any] = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
    return progress


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, mapped from the disk.

    Raises:
        CheckpointError: the file is missing or damaged.

    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {_reason(error)}") from None


def state_shapes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """List the tensors in a checkpoint's ``state``."""
    metadata = _SafeReader(path / STATE).read_metadata()
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if not isinstance(entry, BytesStorageMetadata)
    }


def load_state(path: Path, into: dict[str, Tensor], world: World) -> None:
    """Fill the tensors (or shards) of ``into`` from a checkpoint's ``state``, at any world size."""
    with _quiet():
        load(into, storage_reader=_SafeReader(path / STATE), no_dist=world.size == 1)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file that is on the disk, whole, or not there at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _save_state(state: Mapping[str, Tensor], path: Path, world: World) -> None:
    with _quiet():
        save(
            dict(state),
            storage_writer=FileSystemWriter(path, sync_files=True),
            no_dist=world.size == 1,
        )


class _MetadataUnpickler(pickle.Unpickler):
    """Builds the plain metadata classes of torch.distributed.checkpoint and refuses the rest."""

    allowed = frozenset(
        {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.startswith("pathlib"):
            return pathlib.PurePath  # where it was saved; never read
        raise CheckpointError(f"checkpoint metadata names {module}.{name}: refused")


class _SafeReader(FileSystemReader):
    """torch's reader without its two unrestricted unpicklings: of metadata, and of byte entries."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        try:
            with open(Path(self.path) / ".metadata", "rb") as file:
                metadata = _MetadataUnpickler(file).load()
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise CheckpointError(f"cannot read {self.path}: {_reason(error)}") from None
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{self.path} holds no checkpoint metadata")
        if any(isinstance(e, BytesStorageMetadata) for e in metadata.state_dict_metadata.values()):
            raise CheckpointError(f"{self.path} holds pickled objects, which are refused")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    files: Iterable[Path] = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in files}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Delete a folder that nobody may see half deleted: first its name, then its files."""
    if path.exists():
        hidden = path.with_name(f".removed-{path.name.lstrip('.')}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _reason(error: BaseException) -> str:
    """One line; of torch's collected failures, the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return " ".join(str(error).split()) or type(error).__name__


class _quiet(warnings.catch_warnings):
    """Without the remark that one process is one process."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
