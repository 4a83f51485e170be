"""Checkpoints: written beside the old one, synced, renamed; verified before they are believed.

::

    checkpoints/step-120/
      model.safetensors   the weights, one name per stored parameter
      state/              everything else that is a tensor (optimizer state, random generators),
                          by torch.distributed.checkpoint: each rank writes what it holds
      progress.json       step, tokens, loader state, seconds, …
      manifest.json       size and SHA-256 of each file above, written last

A folder has its final name only when all of it is on the disk, so a crash leaves either a whole
checkpoint or a hidden folder that is swept away; and a file that the disk damaged later is found by
its hash.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from plait import atomic
from plait.config.files import load_json
from plait.data.corpus import file_sha256
from plait.parallel import World
from plait.reading import inside, named, read_json
from plait.storage.sharded_state import CheckpointError, reason, save_shards

logger = logging.getLogger(__name__)

WEIGHTS, STATE, PROGRESS, MANIFEST = "model.safetensors", "state", "progress.json", "manifest.json"
TRY_ANOTHER = "delete it and run the same command again, to go on from the one before it"


@dataclass(frozen=True)
class _File:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, _File]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; `keep` is how many of the newest stay on the disk."""

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
        """Write `step-<step>` and remove the oldest ones beyond `keep`.

        Args:
            step: optimizer steps done.
            weights: called on every rank; returns the whole weights on the main rank.
            state: tensors or shards of them; saved as what they are.
            progress: plain JSON.

        Raises:
            CheckpointError: the disk is full, or cannot be written; older checkpoints are intact.
        """
        final, partial = self.folder / f"step-{step}", self.folder / f".step-{step}.partial"
        try:
            if self.world.is_main:
                atomic.remove(partial)
                partial.mkdir(parents=True)
                atomic.require_room(partial, _bytes(state))
            self.world.barrier()
            save_shards(state, partial / STATE, self.world)
            whole = weights()
            if self.world.is_main:
                with atomic.new_file(partial / WEIGHTS, _bytes(whole)) as file:
                    save_file(dict(whole), file, metadata={"format": "pt"})
                atomic.write_json(partial / PROGRESS, progress)
                atomic.write_json(partial / MANIFEST, {"files": _fingerprints(partial)})
                atomic.publish(partial, final)
                self.prune(self.keep)
        except (OSError, SafetensorError, CheckpointException) as error:
            atomic.remove(partial)
            kept = steps_in(self.folder)
            last = f"step-{kept[-1]} is intact" if kept else "there is no earlier one"
            raise CheckpointError(
                f"could not write checkpoint {final}: {reason(error)}; {last}. Make room and run "
                "the same command again to go on from there"
            ) from error
        self.world.barrier()
        return final

    def newest(self) -> Path | None:
        """Find the newest checkpoint that is whole, for the run that owns the folder.

        What an interrupted save left is swept away; a damaged checkpoint is reported and set aside
        as `step-N.damaged`, and the one before it is tried.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        found: Path | None = None
        if self.world.is_main:
            atomic.sweep(self.folder)
            found, damaged = _newest_whole(self.folder)
            for path in damaged:
                aside = path.with_name(f"{path.name}.damaged")
                atomic.remove(aside)
                os.rename(path, aside)
        return self.world.broadcast(found)

    def hash_of(self, step: int) -> str:
        """Return the SHA-256 of a checkpoint's manifest, which names every file of it."""
        return file_sha256(self.folder / f"step-{step}" / MANIFEST)

    def prune(self, keep: int) -> None:
        """Remove all but the `keep` newest."""
        if self.world.is_main:
            for step in steps_in(self.folder)[:-keep]:
                atomic.remove(self.folder / f"step-{step}")


def newest_whole(folder: Path) -> Path | None:
    """Find the newest whole checkpoint of any run, touching nothing; None where there is none.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    return _newest_whole(folder)[0]


def _newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    damaged: list[Path] = []
    for step in reversed(steps_in(folder)):
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


def steps_in(folder: Path) -> list[int]:
    """List the steps of the checkpoints in a folder, whole or not, in order."""
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
        expected = load_json(_Manifest, path / MANIFEST, TRY_ANOTHER).files
        for name in (WEIGHTS, PROGRESS):
            if name not in expected:
                raise ValueError(f"{MANIFEST} does not name {name}")
        for name, file in expected.items():
            if _fingerprint(inside(path, name)) != file:
                raise ValueError(f"{named(name)} has changed")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {reason(error)}") from None


def read_progress(path: Path) -> dict[str, Any]:
    """Read what `save` got as `progress`."""
    return read_json(path / PROGRESS, TRY_ANOTHER)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _fingerprint(path: Path) -> _File:
    return _File(path.stat().st_size, file_sha256(path))


def _fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): asdict(_fingerprint(path)) for path in files}
