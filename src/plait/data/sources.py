"""Sources of text: one interface, whether the text is on this machine or a hub.

A source is a frozen value that says where text is, which domain it belongs to and under which
licence it may be used; `Source.documents` reads it. Archives from package registries are in
`plait.data.packages`.
"""

import fnmatch
import glob
import hashlib
import importlib
import itertools
import os
import platform
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from plait.calling import blaming, called, parted
from plait.data import formats
from plait.data.documents import Document, pieces
from plait.data.parts import FilesPart, Part, grouped


@dataclass(frozen=True)
class Source(ABC):
    """Where text comes from.

    Args:
        domain: the name under which its tokens are stored, mixed and evaluated.
        licence: of the text, as an SPDX name where there is one.
        limit: characters (after cleaning) at which reading stops; None reads everything. Sources
            made of files are read in the order of their names' hashes, so that a limit takes a
            fair sample and not the first letters of the alphabet.
    """

    kind: ClassVar[str]

    _: KW_ONLY
    domain: str
    licence: str = "unstated"
    limit: int | None = None

    @abstractmethod
    def documents(self, cache: Path) -> Iterator[Document]:
        """Give the documents, in an order that depends on nothing but the source.

        Args:
            cache: folder under which fetched archives are kept.

        Raises:
            ValueError, FileNotFoundError: if the source is missing or damaged, with the fix.
        """

    def documents_from(self, cache: Path, place: Any = None) -> Iterator[tuple[Any, Document]]:
        """Give the documents from a place on, each with its own place.

        Args:
            cache: as for `documents`.
            place: of the first document, as it was given; None is the beginning. It is plain data.

        Raises:
            ValueError, FileNotFoundError: as for `documents`.
        """
        yield from itertools.islice(enumerate(self.documents(cache)), place or 0, None)

    def apart(self) -> Iterator[Part]:
        """Give what can be read apart, in order: by default the source itself."""
        yield self

    def stamp(self) -> str:
        """Return what tells this text from an earlier state of the same source; may be empty."""
        return ""

    def anchored(self) -> "Source":
        """Return this source as it is named from any working folder."""
        return self

    @abstractmethod
    def __str__(self) -> str:
        """Return what the source is, for progress, errors and the manifest."""

    def _document(self, name: str, text: str) -> Document:
        return Document(name, text, self.domain, self.licence)


def in_hash_order(folder: Path, names: Iterable[str]) -> list[tuple[str, Path]]:
    """Return (name, path) of the regular files among `names`, ordered by the names' hashes."""
    by_hash = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    paths = [(name, folder / name) for name in by_hash]
    return [(name, path) for name, path in paths if path.is_file() and not path.is_symlink()]


def matching(
    names: Iterable[str], include: Iterable[str], exclude: Iterable[str] = ()
) -> Iterator[str]:
    """Give the names that match a pattern of `include` and none of `exclude` (`*` crosses /)."""
    for name in names:
        if any(fnmatch.fnmatchcase(name, p) for p in include) and not any(
            fnmatch.fnmatchcase(name, p) for p in exclude
        ):
            yield name


def file_names(folder: Path) -> Iterator[str]:
    """Give the names of all files under a folder, relative to it, with forward slashes."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for file in files:
            yield (Path(where) / file).relative_to(folder).as_posix()


def numbered(name: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pair each text with the file's name, numbered from the second on: `a.txt`, `a.txt#1`."""
    for number, text in enumerate(texts):
        yield (f"{name}#{number}" if number else name), text


@dataclass(frozen=True)
class StandardLibrary(Source):
    """The Python files of the running interpreter's own standard library: code, no download.

    Args:
        parts: top-level packages and modules to read, such as `("json", "email")`; all if empty.
        tests: whether its tests are read too: they are more than half of it.
    """

    kind: ClassVar[str] = "standard-library"

    _: KW_ONLY
    domain: str = "code"
    licence: str = "PSF-2.0"
    parts: tuple[str, ...] = ()
    tests: bool = False

    def __str__(self) -> str:
        return f"standard library of Python {platform.python_version()}"

    def documents(self, cache: Path) -> Iterator[Document]:
        """Give one document per file; see `Source.documents`."""
        folder = Path(sysconfig.get_path("stdlib"))
        # _sysconfigdata is how this very interpreter was compiled, not code
        exclude = ["site-packages/*", "dist-packages/*", "_sysconfigdata*"]
        if not self.tests:
            exclude += ["test/*", "tests/*", "*/test/*", "*/tests/*", "*/idle_test/*"]
        wanted = [name for part in self.parts for name in (f"{part}/*.py", f"{part}.py")]
        names = matching(file_names(folder), wanted or ["*.py"], exclude)
        for name, path in in_hash_order(folder, names):
            for named, text in numbered(name, formats.texts(path)):
                yield self._document(named, text)


@dataclass(frozen=True)
class StandardLibraryTopics(Source):
    """The running interpreter's help topics (`pydoc_data.topics`): prose, no download."""

    kind: ClassVar[str] = "standard-library-topics"

    _: KW_ONLY
    domain: str = "prose"
    licence: str = "PSF-2.0"

    def __str__(self) -> str:
        return f"help topics of Python {platform.python_version()}"

    def documents(self, cache: Path) -> Iterator[Document]:
        """Give one document per help topic; see `Source.documents`."""
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        for name in sorted(topics):
            yield self._document(name, topics[name])


@dataclass(frozen=True)
class Files(Source):
    """Local files: text of any suffix, `.jsonl`, `.json`, `.parquet`, also gzipped.

    Args:
        path: a file, a folder (its `.txt`, `.md`, `.rst`, `.tex` and record files, also in
            subfolders) or a glob pattern (`**` crosses folders).
        fields: the fields of a record that make up its text; dots lead into nested records.
        cut: characters at which every text is cut into several documents, at a paragraph or
            line end; by default only a text of more than 1 Mi characters is cut.
    """

    kind: ClassVar[str] = "files"

    path: str
    _: KW_ONLY
    fields: tuple[str, ...] = ("text",)
    cut: int | None = None

    def __post_init__(self) -> None:
        if self.cut is not None and self.cut < 1000:
            raise ValueError(f"cut {self.cut}: give at least 1000 characters")

    def __str__(self) -> str:
        return self.path

    def documents(self, cache: Path) -> Iterator[Document]:
        """Give one document per text file, row or piece; see `Source.documents`."""
        return (document for _, document in self.documents_from(cache))

    def documents_from(self, cache: Path, place: Any = None) -> Iterator[tuple[Any, Document]]:
        """Give documents with their places: [file, record, piece]; see `Source.documents_from`."""
        return self._part(self._files()).documents_from(cache, place)

    def apart(self) -> Iterator[Part]:
        """Give neighbouring files together as parts; see `Source.apart`."""
        return map(self._part, grouped(self._files()))

    def stamp(self) -> str:
        """Return a hash of the files' names, sizes and times."""
        files = self._files()
        stamps = [(name, (at := file.stat()).st_size, at.st_mtime_ns) for name, file in files]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]

    def anchored(self) -> Source:
        """Return this source with an absolute path."""
        return replace(self, path=os.path.abspath(self.path))

    def _part(self, files: Sequence[tuple[str, Path]]) -> Part:
        # one file named by the user must be right; a folder may hold what is not text
        strict = Path(self.path).is_file()
        return FilesPart(files, self.domain, self.licence, self.fields, self.cut, strict)

    def _files(self) -> list[tuple[str, Path]]:
        path = Path(self.path)
        if path.is_file():
            return [(path.name, path)]
        if path.is_dir():
            folder = path
            names = [name for name in file_names(path) if formats.known(Path(name))]
            fix = "holds no .txt, .md, .rst, .tex, .jsonl, .json or .parquet file: give a pattern"
        else:
            fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
            folder = Path(*fixed)
            names = [
                Path(name).relative_to(folder).as_posix()
                for name in glob.glob(self.path, recursive=True)
            ]
            fix = "no such file, and no file matches it as a pattern: check the path"
        files = in_hash_order(folder, names)
        if not files:
            raise FileNotFoundError(f"{self.path}: {fix}")
        return files


@dataclass(frozen=True)
class HubDataset(Source):
    """A data set that the `datasets` library can load, by name or folder; streamed.

    Args:
        name: as in `datasets.load_dataset`.
        config: its configuration, if it has several.
        split: the split to read; ours are made anew, by document hash.
        revision: commit or tag; pin it, or the text may change between builds.
        fields: the fields of a row that make up its text.
    """

    kind: ClassVar[str] = "hub"

    name: str
    _: KW_ONLY
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    fields: tuple[str, ...] = ("text",)

    def __str__(self) -> str:
        return f"dataset {self.name}" + (f" ({self.config})" if self.config else "")

    def documents(self, cache: Path) -> Iterator[Document]:
        """Give one document per row; see `Source.documents`."""
        return (document for _, document in self.documents_from(cache))

    def documents_from(self, cache: Path, place: Any = None) -> Iterator[tuple[Any, Document]]:
        """Give documents with their places: [row, piece, the library's own state]."""
        import datasets  # of the extra `hf`

        number, first, state = place or (0, 0, None)
        try:
            rows = datasets.load_dataset(
                self.name, self.config, split=self.split, revision=self.revision, streaming=True
            )
            if state is None:
                state = rows.state_dict()
            else:
                rows.load_state_dict(state)
            given = iter(rows)
        except Exception as error:  # the library raises dozens of kinds, many of them its own
            raise ValueError(f"dataset {self.name!r} cannot be loaded: {_reason(error)}") from None
        while True:
            try:
                row = next(given)
            except StopIteration:
                return
            except Exception as error:
                raise ValueError(
                    f"dataset {self.name!r} cannot be read at row {number}: {_reason(error)}"
                ) from None
            text = formats.record_text(row, self.fields, f"dataset {self.name!r}")
            for piece, part in enumerate(pieces(text)):
                if piece >= first:
                    name = f"{self.name}:{number}" + (f"#{piece}" if piece else "")
                    yield [number, piece, state], self._document(name, part)
            number, first, state = number + 1, 0, rows.state_dict()

    def anchored(self) -> Source:
        """Return this source with an absolute path, if it is a folder."""
        return replace(self, name=os.path.abspath(self.name)) if Path(self.name).is_dir() else self


_END = object()


@dataclass(frozen=True)
class PythonFunction(Source):
    """Whatever a function of yours gives: an iterable of texts, or of mappings with fields of text.

    Args:
        function: FILE.py:FUNCTION. It is called without arguments, whenever reading begins, and
            must give the same documents in the same order each time.
        fields: of a mapping that make up its text.
    """

    kind: ClassVar[str] = "python"

    function: str
    _: KW_ONLY
    fields: tuple[str, ...] = ("text",)

    def __post_init__(self) -> None:
        if parted(self.function) is None:
            raise ValueError(f"function {self.function!r}: name it as FILE.py:FUNCTION")

    def __str__(self) -> str:
        return self.function

    def documents(self, cache: Path) -> Iterator[Document]:
        """Give the documents in the function's order; see `Source.documents`."""
        found = called(self.function)
        path, function = self._parts
        if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
            raise ValueError(
                f"{self.function}: {function} is no function of {path} that returns an iterable of "
                "texts"
            )
        given = iter(found)
        for number in itertools.count():
            with blaming(path):
                one = next(given, _END)
            if one is _END:
                return
            where = f"{self.function}, document {number}"
            if isinstance(one, Mapping):
                text = formats.record_text(one, self.fields, where)
            elif isinstance(one, str):
                text = one
            else:
                raise ValueError(f"{where}: {type(one).__name__} is neither text nor a mapping")
            for name, part in numbered(f"{function}:{number}", pieces(text)):
                yield self._document(name, part)

    def stamp(self) -> str:
        """Return a hash of the file: of what the function reads it says nothing."""
        path, _ = self._parts
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}: it gave the text of {self.domain}")
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def anchored(self) -> Source:
        """Return this source with an absolute path."""
        path, function = self._parts
        return replace(self, function=f"{os.path.abspath(path)}:{function}")

    @property
    def _parts(self) -> tuple[Path, str]:
        parts = parted(self.function)
        assert parts is not None
        return parts


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
