"""Checkpoints: written beside the old one, synced, renamed; verified before they are believed.

::

    checkpoints/step-120/
      model.safetensors   the weights, one name per stored parameter; of several processes, a file
                          of each and the index of Hugging Face's form
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
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from plait import atomic
from plait.config.files import load_json
from plait.data.corpus import file_sha256
from plait.parallel import World
from plait.reading import inside, named, read_json
from plait.storage.sharded_state import CheckpointError, reason, save_shards
from plait.storage.tensor_files import weight_files, weights_in, write_divided

logger = logging.getLogger(__name__)

STATE, PROGRESS, MANIFEST = "state", "progress.json", "manifest.json"
TRY_ANOTHER = "delete it and run the same command again, to go on from the one before it"


@dataclass(frozen=True)
class _File:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, _File]


class Checkpoints:
    """The checkpoints of one run, written beside its training.

    Args:
        folder: where they are.
        keep: how many of the newest stay on the disk.
        world: the processes, each of which writes and hashes a part.
    """

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        progress: Mapping[str, Any],
    ) -> Path:
        """Begin to write `step-<step>`, from a copy in host memory; remove the oldest afterwards.

        Args:
            step: optimizer steps done.
            weights: tensors or shards of them; each is written whole, by one rank.
            state: tensors or shards of them; saved as what they are.
            progress: plain JSON.

        Raises:
            CheckpointError: the save before this one failed; later, see `wait`, if this one does.
        """
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copies = stager.stage({"weights": dict(weights), "state": dict(state)})
        stager.close()
        assert isinstance(copies, dict)
        final = self.folder / f"step-{step}"
        self._saving = self._thread.submit(self._write, final, **copies, progress=progress)
        return final

    def wait(self) -> None:
        """Wait until what `save` began is on the disk.

        Raises:
            CheckpointError: the disk is full, or cannot be written; older checkpoints are intact.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def check(self) -> None:
        """Raise what `wait` would, on every rank at once, if the save has ended."""
        if self._saving is not None and not self.world.any(not self._saving.done()):
            self.wait()

    def close(self) -> None:
        """End the thread, after what it still has to write; for when something else went wrong."""
        self._thread.shutdown()
        if self._saving is not None and self._saving.exception():
            logger.warning("%s", self._saving.exception())

    def _write(
        self,
        final: Path,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        progress: Mapping[str, Any],
    ) -> None:
        partial = final.with_name(f".{final.name}.partial")
        here, main = self.world, self.world.is_main

        def begin() -> None:
            if main:
                atomic.remove(partial)
                partial.mkdir(parents=True)
                atomic.require_room(partial, _bytes(state) + _bytes(weights))

        def write() -> dict[str, Any]:
            written = [*of_state, *write_divided(partial, weights, here)]
            if main:
                atomic.write_json(partial / PROGRESS, progress)
                written.append(partial / PROGRESS)
            return _fingerprints(partial, written)

        def end() -> None:
            if main:
                files = dict(sorted(item for some in fingerprints for item in some.items()))
                atomic.write_json(partial / MANIFEST, {"files": files})
                atomic.publish(partial, final)
                self.prune(self.keep)

        try:
            here.together(begin)
            of_state = save_shards(state, partial / STATE, here)
            fingerprints = here.together(write)
            here.together(end)
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            if main:
                atomic.remove(partial)
            kept = steps_in(self.folder)
            last = f"step-{kept[-1]} is intact" if kept else "there is no earlier one"
            raise CheckpointError(
                f"could not write checkpoint {final}: {reason(error)}; {last}. Make room and run "
                "the same command again to go on from there"
            ) from error

    def newest(self) -> Path | None:
        """Find the newest checkpoint that is whole, for the run that owns the folder.

        What an interrupted save left is swept away; a damaged checkpoint is reported and set aside
        as `step-N.damaged`, and the one before it is tried.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        self.wait()
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
        for name in (PROGRESS, *(file.name for file in weight_files(weights_in(path)))):
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


def _fingerprints(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    return {path.relative_to(folder).as_posix(): asdict(_fingerprint(path)) for path in files}
