"""Documents: what sources give, how they are cleaned, and where long ones are cut."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

SHORTEST = 200
"""Documents with fewer characters are dropped."""

LONGEST = 1 << 20
"""A text of more characters is cut into documents, so that memory stays bounded."""

PIECE = 1 << 15
"""Characters, at the most, of a document that was cut from a longer text."""


@dataclass(frozen=True)
class Document:
    """One text of a source, before cleaning.

    Bytes that were not UTF-8 arrive as surrogates (Python's `surrogateescape`), so that reading
    never fails and `clean` is the one place that refuses.
    """

    name: str
    text: str
    domain: str
    licence: str


def clean(text: str) -> str:
    """Return `text` with Unix line ends and without surrounding blank space.

    Raises:
        UnicodeError: if it is not text: lone surrogates (bytes that were not UTF-8) or NUL.
    """
    if not is_text(text):
        raise UnicodeError("not UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8 and has no NUL, the mark of a binary file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def content_hash(data: bytes) -> bytes:
    """Return the 16 bytes by which a document is known: for duplicates and for its split."""
    return hashlib.blake2b(data, digest_size=16).digest()


def pieces(text: str | TextIO, cut: int | None = None) -> Iterator[str]:
    """Give a text whole, or cut into consecutive pieces that joined are the text again.

    Args:
        text: the text, or a stream that is read as it is needed.
        cut: characters of a piece at the most. None leaves a text of up to 1 Mi characters whole
            and cuts a longer one into pieces of 32 Ki.

    The cut is after the last blank line of a piece's second half, or else the last line, or else
    the last space, or else anywhere.
    """
    stream = io.StringIO(text, newline="") if isinstance(text, str) else text
    rest = stream.read(LONGEST + 1)
    if cut is None and len(rest) <= LONGEST:
        yield rest
        return
    longest = cut or PIECE
    while rest:
        while len(rest) > longest:
            end = _cut(rest, longest)
            yield rest[:end]
            rest = rest[end:]
        block = stream.read(longest)
        if not block:
            yield rest
            return
        rest += block


def _cut(text: str, longest: int) -> int:
    for boundary in ("\n\n", "\n", " "):
        place = text.rfind(boundary, longest // 2, longest)
        if place >= 0:
            return place + len(boundary)
    return longest
