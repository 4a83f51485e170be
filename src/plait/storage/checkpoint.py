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
its hash. `plait.storage.places` says how it is where they are kept at an address.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from plait import atomic
from plait.parallel import World
from plait.storage.lease import machine
from plait.storage.manifest import MANIFEST, PROGRESS, STATE, fingerprints, verify
from plait.storage.places import Folder, Place, step_of
from plait.storage.sharded_state import CheckpointError, reason, save_shards
from plait.storage.tensor_files import write_divided

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, written beside its training.

    Args:
        folder: where they are made.
        keep: how many of the newest stay.
        world: the processes, each of which writes and hashes a part.
        place: where they are kept; None: in the folder.
    """

    def __init__(self, folder: Path, keep: int, world: World, place: Place | None = None) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        self.place = place or Folder(folder)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        progress: Mapping[str, Any],
    ) -> None:
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
        self._saving = self._thread.submit(self._write, step, **copies, progress=progress)

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
        step: int,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        progress: Mapping[str, Any],
    ) -> None:
        partial = self.folder / f".step-{step}.partial"
        here, main, place = self.world, self.world.is_main, self.place

        def begin() -> str:
            if main:
                atomic.remove(partial)
                partial.mkdir(parents=True)
                atomic.require_room(partial, _bytes(state) + _bytes(weights))
            return place.name_for(step) if main else ""

        def write() -> dict[str, Any]:
            written = [*of_state, *write_divided(partial, weights, here)]
            if main:
                atomic.write_json(partial / PROGRESS, progress)
                written.append(partial / PROGRESS)
            files = fingerprints(partial, written)
            place.send(partial, files, name)
            return files

        def end() -> None:
            if main:
                files = dict(sorted(item for some in written for item in some.items()))
                atomic.write_json(partial / MANIFEST, {"files": files})
                place.publish(partial, name)
                self.prune(self.keep)

        try:
            name = here.together(begin)[0]
            of_state = save_shards(state, partial / STATE, here)
            written = here.together(write)
            here.together(end)
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            if main:
                atomic.remove(partial)
            remedy = "Make room" if isinstance(place, Folder) else "Mend that"
            raise CheckpointError(
                f"could not write checkpoint {place}/step-{step}: {reason(error)}; "
                f"{self._intact()}. {remedy} and run the same command again to go on from there"
            ) from error
        shutil.rmtree(partial, ignore_errors=True)  # what was sent away, on each machine

    def _intact(self) -> str:
        try:
            kept = self.place.names()
        except OSError:  # what failed may be the way there
            return "what was there before is intact"
        return f"{kept[-1]} is intact" if kept else "there is no earlier one"

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """Give a folder with the newest checkpoint that is whole, for the run that owns them.

        What an interrupted save left is swept away; a damaged checkpoint is reported and set aside,
        and the one before it is tried. From an address each machine fetches it once, for as long as
        the folder is needed.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        self.wait()
        self.folder.mkdir(parents=True, exist_ok=True)
        here, place, name = self.world, self.place, None
        with ExitStack() as stack:
            path: Path | None = None
            if here.is_main:
                place.take_over()
                found = newest_whole(place, place.set_aside, within=self.folder)
                name, path = stack.enter_context(found)
            name = here.broadcast(name)
            machines = here.gathered(machine())
            first = machines.index(machines[here.rank])

            def fetched() -> Path | None:
                if name is None or here.is_main or first != here.rank:
                    return path
                return stack.enter_context(place.opened(name, within=self.folder))

            yield here.together(fetched)[first]
            here.barrier()

    def last(self) -> str | None:
        """Name the newest checkpoint, whole or not."""
        names = self.place.names()
        return f"{self.place}/{names[-1]}" if names else None

    def hash_of(self, step: int) -> str:
        """Return the SHA-256 of a checkpoint's manifest, which names every file of it."""
        return self.place.digest([n for n in self.place.names() if step_of(n) == step][-1])

    def prune(self, keep: int) -> None:
        """Remove all but the newest of each of the `keep` newest steps."""
        if self.world.is_main:
            names = self.place.names()
            kept = list({step_of(name): name for name in names}.values())[-keep:]
            for name in names:
                if name not in kept:
                    self.place.remove(name)


@contextmanager
def newest_whole(
    place: Place, damaged: Callable[[str], None], state: bool = True, within: Path | None = None
) -> Iterator[tuple[str | None, Path | None]]:
    """Give the name of the newest whole checkpoint and a folder with its files; None without one.

    Args:
        place: where the checkpoints are; nothing there is touched.
        damaged: told the names of those that are newer and damaged.
        state: not the weights alone; see `Address.opened`, as for `within`.
        within: where to fetch it to.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    names: list[str] = []
    for name in reversed(place.names()):
        with ExitStack() as stack:
            try:
                path = stack.enter_context(place.opened(name, state, within))
                verify(path, state, f"{place}/{name}")
            except CheckpointError as error:
                logger.warning("%s; trying the one before it", error)
                names.append(name)
                continue
            for one in names:
                damaged(one)
            yield name, path
            return
    if names:
        raise CheckpointError(
            f"every checkpoint in {place} is damaged: delete this folder to start again"
        )
    yield None, None


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
