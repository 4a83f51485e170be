"""The spool: unique, split documents on disk, between reading and encoding."""

import array
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np

from plait.data.cleaning import NOT_TEXT, SHORT, read_rows
from plait.data.documents import content_hash

HASH_RANGE = 1 << 64


def split_of(digest: bytes, validation: float, test: float) -> str:
    """Return the split of a document with this `content_hash`, by where that lies in its range."""
    position = place_of(digest) / HASH_RANGE
    if position < validation:
        return "validation"
    return "test" if position < validation + test else "train"


def place_of(digest: bytes) -> int:
    """Return where a document's hash lies, from 0 to below `HASH_RANGE`."""
    return int.from_bytes(digest[:8], "little")


@dataclass
class Counts:
    """What became of a source's documents.

    `text_hash` chains the hashes of those that were kept, and so pins the source's text.
    """

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    short: int = 0
    duplicates: int = 0
    not_text: int = 0
    text_hash: str = ""


class Place(NamedTuple):
    """Where a document's text lies: in which file of the spool, from which byte, how many."""

    file: int
    offset: int
    bytes: int


class Spool:
    """Documents on disk, by split and domain, in a folder that the caller deletes.

    Memory does not grow with the text: hashes of seen documents are in an SQLite file, texts where
    `clean_part` wrote them, and per split and domain there is an index of (hash, file, offset,
    bytes) as unsigned 64-bit.
    """

    def __init__(self, folder: Path, validation: float, test: float) -> None:
        folder.mkdir()
        self.folder = folder
        self._validation = validation
        self._test = test
        self._files = 0
        self._indices: dict[tuple[str, str], BinaryIO] = {}
        self._sizes: dict[tuple[str, str], tuple[int, int]] = {}
        self._seen = sqlite3.connect(folder / "seen.sqlite", isolation_level=None)
        # lost with the folder anyway: no journal, no waiting for the disk
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute("PRAGMA synchronous = OFF")
        self._seen.execute("PRAGMA cache_size = -65536")  # 64 MiB
        self._seen.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        self._seen.execute("BEGIN")

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seen.close()
        for file in self._indices.values():
            try:
                file.close()
            except OSError:  # a full disk: the error that brought us here says so
                if kind is None:
                    raise

    def new_file(self) -> Path:
        """Name a file for texts."""
        self._files += 1
        return texts_file(self.folder, self._files)

    def take(self, texts: Path, domain: str, counts: Counts, enough: float) -> bool:
        """Keep the documents of a file in their splits, unless they are short or were seen before.

        Args:
            texts: as `new_file` named it and `clean_part` wrote it.
            domain: of the documents.
            counts: of the source so far.
            enough: characters of the source at which the rest is left out.

        Returns:
            Whether it was enough.
        """
        number = int(texts.stem)
        for row in read_rows(texts):
            if row.fate == SHORT:
                counts.short += 1
            elif row.fate == NOT_TEXT:
                counts.not_text += 1
            elif not self._is_new(row.digest):
                counts.duplicates += 1
            else:
                counts.documents += 1
                counts.bytes += row.bytes
                counts.characters += row.characters
                counts.text_hash = content_hash(counts.text_hash.encode() + row.digest).hex()
                split = split_of(row.digest, self._validation, self._test)
                entry = (place_of(row.digest), number, row.offset, row.bytes)
                array.array("Q", entry).tofile(self._index(split, domain))
                documents, bytes_ = self._sizes[split, domain]
                self._sizes[split, domain] = documents + 1, bytes_ + row.bytes
            if counts.characters >= enough:
                return True
        return False

    def finish(self) -> None:
        """Write out what is buffered; from here on the spool is read."""
        for file in self._indices.values():
            file.flush()

    def size(self, split: str, domain: str) -> tuple[int, int]:
        """Return (documents, bytes) of a split and domain."""
        return self._sizes.get((split, domain), (0, 0))

    def places(self, split: str, domain: str, share: float = 1.0) -> Iterator[Place]:
        """Give where the documents of a split and domain lie.

        Held-out documents come in the order of their hashes, so that any first part of them is a
        fair sample; those for training as they were read.

        Args:
            split: as in `split_of`.
            domain: the sources' name for it.
            share: of the documents, chosen by hash.
        """
        documents, _ = self.size(split, domain)
        if not documents:
            return
        index = np.memmap(self._path(split, domain), np.uint64, "r", shape=(documents, 4))
        held_out = self._validation + self._test
        order = range(documents) if split == "train" else np.argsort(index[:, 0], kind="stable")
        for row in order:
            position, *place = index[row].tolist()
            if (position / HASH_RANGE - held_out) / (1 - held_out) < share:
                yield Place(*place)

    def _is_new(self, digest: bytes) -> bool:
        inserted = self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,))
        return inserted.rowcount == 1

    def _index(self, split: str, domain: str) -> BinaryIO:
        if (split, domain) not in self._indices:
            self._indices[split, domain] = self._path(split, domain).open("wb")
            self._sizes[split, domain] = 0, 0
        return self._indices[split, domain]

    def _path(self, split: str, domain: str) -> Path:
        return self.folder / f"{split}-{domain}.index"


def texts_file(folder: Path, number: int) -> Path:
    """Return the path of a spool's file of texts."""
    return folder / f"{number}.texts"


def read_texts(folder: Path, places: Iterable[Place]) -> Iterator[str]:
    """Give the texts that lie at some places of a spool, in their order."""
    number, file = 0, None
    try:
        for place in places:
            if file is None or place.file != number:
                if file is not None:
                    file.close()
                number, file = place.file, texts_file(folder, place.file).open("rb")
            file.seek(place.offset)
            yield file.read(place.bytes).decode()
    finally:
        if file is not None:
            file.close()
