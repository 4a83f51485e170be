"""Parts of a source that are read apart from one another, perhaps in several processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from plait.data import formats
from plait.data.documents import Document, is_text

PART_BYTES = 32 << 20
"""of the files that are read together as one part"""
PART_FILES = 1 << 12


class Part(Protocol):
    """What gives documents in an order of its own: a source, or some files of one."""

    def documents_from(self, cache: Path, place: Any = None) -> Iterator[tuple[Any, Document]]:
        """Give the documents from a place on; see `Source.documents_from`."""
        ...


@dataclass(frozen=True)
class FilesPart:
    """Some files of a source, one after the other.

    Args:
        files: (name, path) of each.
        domain: of the source.
        licence: of the source.
        fields: of a record that make up its text.
        cut: characters at which texts are cut, see `Files`.
        strict: whether a file that is empty or no text is an error.
    """

    files: Sequence[tuple[str, Path]]
    domain: str
    licence: str
    fields: tuple[str, ...]
    cut: int | None
    strict: bool

    def documents_from(self, cache: Path, place: Any = None) -> Iterator[tuple[Any, Document]]:
        """Give documents with their places: [file, record, piece]; see `Source.documents_from`."""
        first = place or [0, 0, 0]
        for number, (name, path) in enumerate(self.files):
            if number < first[0]:
                continue
            if self.strict and path.stat().st_size == 0:
                raise ValueError(f"{path}: is empty: leave it out")
            record = first[1] if number == first[0] else 0
            for *at, text in formats.placed_texts(path, self.fields, self.cut, record):
                here = [number, *at]
                if here < first:
                    continue
                if self.strict and not is_text(text):
                    raise ValueError(
                        f"{path}: not UTF-8 text: convert it (iconv -t utf-8) or leave it out"
                    )
                yield here, Document(_numbered(name, *at), text, self.domain, self.licence)


def grouped(files: Sequence[tuple[str, Path]]) -> Iterator[Sequence[tuple[str, Path]]]:
    """Give neighbours together, until they are as large as a part."""
    start = size = 0
    for end, (_, path) in enumerate(files, 1):
        size += path.stat().st_size
        if size >= PART_BYTES or end - start == PART_FILES:
            yield files[start:end]
            start, size = end, 0
    if start < len(files):
        yield files[start:]


def _numbered(name: str, record: int, piece: int) -> str:
    """Return the name of a piece of a record: `a.jsonl`, `a.jsonl#1`, `a.jsonl#1.1`."""
    number = f"#{record}.{piece}" if piece else f"#{record}" if record else ""
    return name + number
