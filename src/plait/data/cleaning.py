"""Cleaning: the documents of a part, written to the disk in whatever process reads them.

Texts go into one file, and beside it a row for each document: what became of it, its hash, where
it lies. Whether it was seen before is for `Spool` to say, which takes the parts in their order.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from plait.data.documents import SHORTEST, clean, content_hash
from plait.data.parts import Part

KEPT, SHORT, NOT_TEXT = range(3)
_ROW = struct.Struct("<B16sQQQ")


class Row(NamedTuple):
    """A document: `KEPT`, or why it was dropped."""

    fate: int
    digest: bytes = b""
    offset: int = 0
    bytes: int = 0
    characters: int = 0


@dataclass(frozen=True)
class Cleaning:
    """What is to be read.

    Args:
        part: whose documents.
        cache: folder under which fetched archives are kept.
        texts: the file to write; the rows go beside it.
        most: characters at which reading stops.
        after: place of the last document that was read before; empty: from the beginning.
    """

    part: Part
    cache: Path
    texts: Path
    most: float
    after: tuple[Any, ...] = ()


def clean_part(task: Cleaning) -> tuple[Any, ...]:
    """Clean documents until they are enough, and return the place of the last: empty, if all."""
    offset = characters = 0
    documents = task.part.documents_from(task.cache, *task.after)
    with task.texts.open("xb") as texts, _rows(task.texts).open("xb") as rows:
        for place, document in islice(documents, len(task.after), None):
            row, data = Row(KEPT), b""
            try:
                text = clean(document.text)
            except UnicodeError:
                row = Row(NOT_TEXT)
            else:
                data = text.encode()
                row = Row(KEPT, content_hash(data), offset, len(data), len(text))
                if len(text) < SHORTEST:
                    row, data = Row(SHORT), b""
            rows.write(_ROW.pack(*row))
            texts.write(data)
            offset += len(data)
            characters += row.characters
            if characters >= task.most:
                return (place,)
    return ()


def read_rows(texts: Path) -> Iterator[Row]:
    """Give the rows that lie beside a file of texts."""
    with _rows(texts).open("rb") as file:
        while block := file.read(_ROW.size << 12):
            yield from map(Row._make, _ROW.iter_unpack(block))


def _rows(texts: Path) -> Path:
    return texts.with_suffix(".rows")
