"""Where a run's checkpoints are kept: in its folder, or at an address that fsspec knows.

`step-120` is a checkpoint, and `step-120.2` of the same step, by a run that had gone back to it.

Object stores rename nothing, so a checkpoint at an address is there when its manifest is: sent when
every other file has arrived, and the first to be removed. It is made in the run's folder, sent
file by file by the processes that wrote them, and fetched to be read, so all that reads and writes
tensors knows files alone.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from plait import atomic
from plait.data.corpus import file_sha256
from plait.reading import named, one_line, read_json
from plait.storage.manifest import MANIFEST, files_of
from plait.storage.run_folder import AWAY, CHECKPOINTS, study_and_variant
from plait.storage.sharded_state import CheckpointError, reason

_NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")
_ASIDE = ".damaged"


class Folder:
    """The checkpoints in a run's own folder, each of which takes its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """List the checkpoints, whole or not, in their order."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(filter(_NAME.fullmatch, (path.name for path in found)), key=_place)

    def name_for(self, step: int) -> str:
        """Name a new checkpoint: one that is there may be the last whole one, and is kept."""
        return _new_name(step, self.names())

    def send(self, made: Path, files: Iterable[str], name: str) -> None:
        """Bring files that this process wrote in the folder `made` to the checkpoint's."""

    def publish(self, made: Path, name: str) -> None:
        """Make a checkpoint of which every file was sent one that `names` lists."""
        atomic.publish(made, self.path / name)

    @contextmanager
    def opened(self, name: str, state: bool = True, within: Path | None = None) -> Iterator[Path]:
        """Give a folder with the files of a checkpoint, or those not of `state/`; maybe damaged."""
        yield self.path / name

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a checkpoint's manifest, which names every file of it."""
        return file_sha256(self.path / name / MANIFEST)

    def set_aside(self, name: str) -> None:
        """Have `names` list a damaged checkpoint no more."""
        aside = self.path / f"{name}{_ASIDE}"
        atomic.remove(aside)
        os.rename(self.path / name, aside)

    def remove(self, name: str) -> None:
        """Delete a checkpoint."""
        atomic.remove(self.path / name)

    def take_over(self) -> None:
        """Delete what killed processes left, for the one run that writes here."""
        atomic.sweep(self.path)


class Address:
    """The checkpoints of a run at an address such as `s3://bucket/folder`: see `Folder`.

    Args:
        address: of this run's checkpoints.
        run: folder of the run, which notes the address with its first checkpoint.

    Raises:
        ValueError: fsspec does not know it, or lacks the package for it.
    """

    def __init__(self, address: str, run: Path) -> None:
        self.address, self.run = address, run
        try:
            self._files, root = url_to_fs(address)
        except (ImportError, ValueError) as error:  # the first says which package to install
            raise ValueError(f"checkpoints at {address}: {one_line(error)}") from None
        self._root = str(root).rstrip("/")

    def __str__(self) -> str:
        return self.address

    def names(self) -> list[str]:
        """List the checkpoints that have a manifest, in their order."""
        return [name for name, files in self._sizes().items() if MANIFEST in files]

    def name_for(self, step: int) -> str:
        """Name a new checkpoint, as `Folder` does."""
        return _new_name(step, self._sizes())

    def send(self, made: Path, files: Iterable[str], name: str) -> None:
        """Send files that this process wrote in the folder `made`."""
        with self._told():
            for file in files:
                target = self._at(name, file)
                self._files.makedirs(posixpath.dirname(target), exist_ok=True)
                self._files.put_file(str(made / file), target)
                self._sync(target)

    def publish(self, made: Path, name: str) -> None:
        """Send the manifest, if what it names has arrived."""
        there = self._sizes().get(name, {})
        for file, written in files_of(made).items():
            if there.get(file) != written.bytes:
                raise OSError(
                    f"{self}: {file} did not arrive: give an address that all processes share"
                )
        self.send(made, [MANIFEST], name)
        self._note()

    @contextmanager
    def opened(self, name: str, state: bool = True, within: Path | None = None) -> Iterator[Path]:
        """Fetch a checkpoint, or what of it is not `state/`, into a folder that is then removed.

        What was mapped from its files outlives them.

        Args:
            name: of the checkpoint.
            state: also fetch that.
            within: where to; None: where temporary files go.

        Raises:
            OSError: the address cannot be read.
            CheckpointError: there is no telling what to fetch.
        """
        with TemporaryDirectory(prefix=".", suffix=".partial", dir=within) as made:
            folder = Path(made) / name
            there = self._sizes().get(name, {})
            self._fetch(name, folder, [file for file in (MANIFEST,) if file in there])
            try:
                files = [_harmless(file) for file in files_of(folder, state)]
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"checkpoint {self}/{name} is damaged: {reason(error)}"
                ) from None
            self._fetch(name, folder, [file for file in files if file in there])
            yield folder

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a checkpoint's manifest, which names every file of it."""
        with TemporaryDirectory() as folder:
            self._fetch(name, Path(folder), [MANIFEST])
            return file_sha256(Path(folder) / MANIFEST)

    def set_aside(self, name: str) -> None:
        """Have `names` list a damaged checkpoint no more: its manifest takes another name."""
        with self._told():
            self._files.mv(self._at(name, MANIFEST), self._at(name, MANIFEST + _ASIDE))

    def remove(self, name: str) -> None:
        """Delete a checkpoint, its manifest first."""
        with self._told():
            if self._files.exists(self._at(name, MANIFEST)):
                self._files.rm_file(self._at(name, MANIFEST))
            self._files.rm(self._at(name), recursive=True)

    def take_over(self) -> None:
        """Delete what killed processes left, here and there, for the one run that writes there."""
        atomic.sweep(self.run / CHECKPOINTS)
        for name, files in self._sizes().items():
            if MANIFEST in files:
                self._note()
            elif MANIFEST + _ASIDE not in files:
                self.remove(name)

    def _note(self) -> None:
        if not (self.run / AWAY).exists():
            atomic.write_json(self.run / AWAY, {"address": self.address})

    def _fetch(self, name: str, folder: Path, files: Iterable[str]) -> None:
        with self._told():
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._at(name, file), str(folder / file))

    def _at(self, *names: str) -> str:
        return "/".join((self._root, *names))

    def _sizes(self) -> dict[str, dict[str, int]]:
        """List bytes by file by checkpoint, whole or not, checkpoints in their order."""
        with self._told():
            self._files.invalidate_cache()
            found: dict[str, Any] = self._files.find(self._root, detail=True)
        sizes: dict[str, dict[str, int]] = {}
        for path, about in found.items():
            name, _, file = path.removeprefix(f"{self._root}/").partition("/")
            if _NAME.fullmatch(name):
                sizes.setdefault(name, {})[file] = about["size"]
        return dict(sorted(sizes.items(), key=lambda item: _place(item[0])))

    def _sync(self, path: str) -> None:
        if isinstance(self._files, LocalFileSystem):  # others answer when it is stored
            atomic.sync(Path(path))
            atomic.sync(Path(path).parent)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each library has its own kinds
            raise OSError(f"{self}: {reason(error)}") from error


Place = Folder | Address


def place_of(run: Path, address: str | None = None) -> Place:
    """Find where the checkpoints of a run are.

    Args:
        run: its folder.
        address: beneath which those of a run that has none yet go; None: into its folder.

    Raises:
        ValueError: it has checkpoints elsewhere already, or fsspec does not know the address.
    """
    noted, own = run / AWAY, Folder(run / CHECKPOINTS)
    if address is not None:
        whole = address if "://" in address else Path(address).absolute().as_posix()
        study, _ = study_and_variant(run)
        address = f"{whole.rstrip('/')}/{study}/{run.resolve().name}"
    if noted.is_file():
        known = read_json(noted, "put there the address of its checkpoints").get("address")
        if not isinstance(known, str):
            raise ValueError(f"{noted}: names no address: put there that of its checkpoints")
        if address not in (None, known):
            raise ValueError(
                f"{run} has its checkpoints at {known}: go on without --checkpoints, or move them "
                f"to {address} and delete {noted}"
            )
        return Address(known, run)
    if address is None:
        return own
    if own.names():
        raise ValueError(
            f"{run} has its checkpoints in {own}: go on without --checkpoints, or move them to "
            f"{address}"
        )
    return Address(address, run)


def step_of(name: str) -> int:
    """Return the step of a checkpoint's name."""
    return _place(name)[0]


def _place(name: str) -> tuple[int, int]:
    """Read a step, and which time it was written, from a checkpoint's name."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)


def _new_name(step: int, names: Iterable[str]) -> str:
    turns = [turn for at, turn in map(_place, names) if at == step]
    return f"step-{step}.{max(turns) + 1}" if turns else f"step-{step}"


def _harmless(file: str) -> str:
    if not file.isprintable() or PurePosixPath(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(f"{named(file)} leads out of it")
    return file
