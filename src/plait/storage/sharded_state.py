"""Tensors and shards of a run's state on disk, by torch.distributed.checkpoint, read safely.

Each rank writes what it holds, and any number of ranks reads it. Of torch's format, which uses
pickle, only tensors and an allow-list of plain metadata classes are read: no code from a file runs.
"""

import pathlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from plait.parallel import World
from plait.reading import named, one_line

Shapes = Mapping[str, tuple[torch.Size, torch.dtype]]


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message is one line and says what to do."""


def save_shards(state: Mapping[str, Tensor], path: Path, world: World) -> list[Path]:
    """Write what this rank holds of `state` into the folder `path`, synced.

    Returns:
        the files that this rank wrote.
    """
    writer = _Writer(path, sync_files=True)
    with _quiet():
        save(
            dict(state),
            storage_writer=writer,
            process_group=world.host,
            no_dist=world.size == 1,
        )
    return [path / name for name in sorted(writer.written)]


def load_shards(path: Path, into: dict[str, Tensor], world: World) -> None:
    """Fill the tensors (or shards) of `into` from the folder `path`, at any world size.

    Raises:
        CheckpointError: what is in there is no such state.
    """
    reader = _SafeReader(path)
    try:
        with _quiet():
            load(
                into,
                storage_reader=reader,
                process_group=world.host,
                no_dist=world.size == 1,
            )
    except (Exception, CheckpointException) as error:  # what torch meets in bytes of any kind
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from None


def shard_shapes(path: Path) -> Shapes:
    """List the tensors in the folder `path`."""
    metadata = _SafeReader(path).read_metadata()
    try:
        return {
            name: (torch.Size(map(int, entry.size)), entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if not isinstance(entry, BytesStorageMetadata)
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """Say in one line what went wrong; of torch's collected failures, the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return one_line(error)


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
        raise CheckpointError(f"checkpoint metadata names {named(f'{module}.{name}')}: refused")


class _Writer(FileSystemWriter):
    """torch's writer, which remembers what it wrote on this rank."""

    def __init__(self, path: Path, sync_files: bool) -> None:
        super().__init__(path, sync_files=sync_files)
        self.written: set[str] = set()

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        done = super().write_data(plan, planner)
        self.written |= {result.storage_data.relative_path for result in done.wait()}
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        self.written.add(".metadata")


class _SafeReader(FileSystemReader):
    """torch's reader without its two unrestricted unpicklings: of metadata, and of byte entries."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        try:
            with open(Path(self.path) / ".metadata", "rb") as file:
                metadata = _MetadataUnpickler(file).load()
        except CheckpointError:
            raise
        except Exception as error:  # what pickle meets in bytes of any kind
            raise CheckpointError(f"cannot read {self.path}: {reason(error)}") from None
        entries = getattr(metadata, "state_dict_metadata", None)
        if not isinstance(metadata, Metadata) or not isinstance(entries, dict):
            raise CheckpointError(f"{self.path} holds no checkpoint metadata")
        if any(isinstance(entry, BytesStorageMetadata) for entry in entries.values()):
            raise CheckpointError(f"{self.path} holds pickled objects, which are refused")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _quiet(warnings.catch_warnings):
    """Without the remark that one process is one process."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
