"""The spool: cleaned, unique, split documents on disk, between reading and encoding."""

import array
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from plait.data.documents import SHORTEST, Document, clean, content_hash

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


class Spool:
    """Documents on disk, by split and domain, in a folder that the caller deletes.

    Memory does not grow with the text: hashes of seen documents are in an SQLite file, texts in one
    file per split and domain, beside it an index of (hash, offset, bytes) as unsigned 64-bit.
    """

    def __init__(self, folder: Path, validation: float, test: float) -> None:
        folder.mkdir()
        self._folder = folder
        self._validation = validation
        self._test = test
        self._files: dict[tuple[str, str], tuple[BinaryIO, BinaryIO]] = {}
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
        for files in self._files.values():
            for file in files:
                try:
                    file.close()
                except OSError:  # a full disk: the error that brought us here says so
                    if kind is None:
                        raise

    def add(self, document: Document, counts: Counts) -> None:
        """Clean a document and keep it in its split, unless it is short or was seen before."""
        try:
            text = clean(document.text)
        except UnicodeError:
            counts.not_text += 1
            return
        if len(text) < SHORTEST:
            counts.short += 1
            return
        data = text.encode()
        digest = content_hash(data)
        if not self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount:
            counts.duplicates += 1
            return
        counts.documents += 1
        counts.bytes += len(data)
        counts.characters += len(text)
        counts.text_hash = content_hash(counts.text_hash.encode() + digest).hex()
        split = split_of(digest, self._validation, self._test)
        texts, index = self._open(split, document.domain)
        array.array("Q", (place_of(digest), texts.tell(), len(data))).tofile(index)
        texts.write(data)

    def finish(self) -> None:
        """Write out what is buffered; from here on the spool is read."""
        for texts, index in self._files.values():
            texts.flush()
            index.flush()

    def size(self, split: str, domain: str) -> tuple[int, int]:
        """Return (documents, bytes) of a split and domain."""
        path = self._path(split, domain)
        if not path.exists():
            return 0, 0
        return path.with_suffix(".index").stat().st_size // 24, path.stat().st_size

    def texts(self, split: str, domain: str, share: float = 1.0) -> Iterator[str]:
        """Give the documents of a split and domain.

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
        path = self._path(split, domain)
        index = np.memmap(path.with_suffix(".index"), np.uint64, "r", shape=(documents, 3))
        held_out = self._validation + self._test
        order = range(documents) if split == "train" else np.argsort(index[:, 0], kind="stable")
        with path.open("rb") as file:
            for row in order:
                position, offset, length = (int(value) for value in index[row])
                if (position / HASH_RANGE - held_out) / (1 - held_out) < share:
                    file.seek(offset)
                    yield file.read(length).decode()

    def _open(self, split: str, domain: str) -> tuple[BinaryIO, BinaryIO]:
        if (split, domain) not in self._files:
            path = self._path(split, domain)
            self._files[split, domain] = path.open("wb"), path.with_suffix(".index").open("wb")
        return self._files[split, domain]

    def _path(self, split: str, domain: str) -> Path:
        return self._folder / f"{split}-{domain}.text"
