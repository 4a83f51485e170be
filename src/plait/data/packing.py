"""Packing: a domain's documents, read and tokenised as they are needed, end to end in blocks.

A block is as many whole sequences as are shuffled together. Where it begins is a few numbers, from
which it can be read and tokenised again: that is all a checkpoint holds of a stream.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from plait.data.documents import SHORTEST, clean, content_hash
from plait.data.shards import BATCH_CHARACTERS, batched, token_dtype
from plait.data.sources import Source
from plait.data.specification import Specification
from plait.data.spool import split_of
from plait.data.tokenizer import Tokenizer

Tokens = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Mark:
    """Where a block begins: the document that its first token is of, and what was before."""

    block: int = 0
    """blocks of the domain before it"""
    sequences: int = 0
    """of the domain before it"""
    epoch: int = 0
    """passes over the sources that were finished"""
    source: int = 0
    """which of the domain's sources"""
    place: Any = None
    """of the document in its source, see `Source.documents_from`"""
    characters: int = 0
    """of the documents before it in its source, which count towards the source's limit"""
    document: str = ""
    """its content hash, by which a source that changed is noticed"""
    offset: int = 0
    """tokens of the document that earlier blocks took"""


@dataclass(frozen=True)
class Block:
    """Sequences end to end, each of which begins with the last target of the one before."""

    mark: Mark
    tokens: Tokens
    sequences: int


class _Read(NamedTuple):
    mark: Mark
    text: str


class Packing:
    """The blocks of a domain's training documents.

    Args:
        domain: its name.
        spec: what the stream is made of.
        tokenizer: what turns text into ids.
        cache: folder under which fetched archives are kept.
        length: tokens of a sequence.
        stop: once it is set, reading ends with `CancelledError`.
    """

    def __init__(
        self,
        domain: str,
        spec: Specification,
        tokenizer: Tokenizer,
        cache: Path,
        length: int,
        stop: threading.Event,
    ) -> None:
        assert spec.stream is not None
        self._domain = domain
        self._spec = spec
        self._sources: Sequence[Source] = [s for s in spec.sources if s.domain == domain]
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._cache = cache
        self._length = length
        self._most = max(1, spec.stream.shuffle // length)
        self._stop = stop

    def blocks(self, mark: Mark) -> Iterator[Block]:
        """Give the blocks from `mark` on; after the last document it begins again with the first.

        As in a corpus on the disk, the tokens at the end of an epoch that fill no sequence are
        left out.

        Raises:
            ValueError, FileNotFoundError: a source is missing, damaged, or not as it was, or there
                is no sequence in all of them.
        """
        while True:
            before = mark.sequences
            for block in self._epoch(mark):
                yield block
                done = block.mark.sequences + block.sequences
                mark = replace(mark, block=block.mark.block + 1, sequences=done)
            if mark.sequences == before:
                raise ValueError(
                    f"train of domain {self._domain!r} is shorter than a sequence of "
                    f"{self._length} tokens: shorten the sequences or give it more text"
                )
            mark = Mark(mark.block, mark.sequences, mark.epoch + 1)

    def _epoch(self, mark: Mark) -> Iterator[Block]:
        block, sequences, offset = mark.block, mark.sequences, mark.offset
        size = self._most * self._length
        held: list[Tokens] = []
        count = 0
        begun: list[tuple[int, Mark]] = []  # documents by their first token's place in the block

        def begin() -> Mark:
            first, document = begun[0]
            return replace(document, block=block, sequences=sequences, offset=-first)

        for document, ids in self._encoded(mark):
            begun.append((count - offset, document))
            held.append(ids[offset:])
            count += len(ids) - offset
            offset = 0
            while count > size:
                tokens = np.concatenate(held)
                yield Block(begin(), tokens[: size + 1], self._most)
                block, sequences = block + 1, sequences + self._most
                held, count = [tokens[size:]], count - size
                begun = [(first - size, document) for first, document in begun]
                while len(begun) > 1 and begun[1][0] <= 0:
                    del begun[0]
        if count > self._length:
            left = (count - 1) // self._length
            yield Block(begin(), np.concatenate(held)[: left * self._length + 1], left)

    def _encoded(self, mark: Mark) -> Iterator[tuple[Mark, Tokens]]:
        """Give each document's tokens, an end-of-text token first, as `encode` puts them."""
        # about a small block's text at once, so that the first one need not wait for more
        most = min(BATCH_CHARACTERS, 4 * self._most * self._length)
        for batch in batched(self._documents(mark), lambda read: len(read.text), most):
            encoded = self._tokenizer.encode_batch([read.text for read in batch])
            for read, ids in zip(batch, encoded, strict=True):
                yield read.mark, np.array([self._tokenizer.end_of_text, *ids], self._dtype)

    def _documents(self, mark: Mark) -> Iterator[_Read]:
        """Give the training documents of the rest of an epoch, as `Spool` cleans and splits."""
        for number in range(mark.source, len(self._sources)):
            source = self._sources[number]
            begin = mark if number == mark.source else Mark(epoch=mark.epoch, source=number)
            characters, awaited = begin.characters, begin.document
            for place, document in source.documents_from(self._cache, begin.place):
                if self._stop.is_set():
                    raise CancelledError
                try:
                    text = clean(document.text)
                except UnicodeError:
                    continue
                if len(text) < SHORTEST:
                    continue
                digest = content_hash(text.encode())
                if awaited and awaited != digest.hex():
                    break
                awaited = ""
                if split_of(digest, self._spec.validation, self._spec.test) == "train":
                    at = replace(
                        begin, place=place, characters=characters, document=digest.hex(), offset=0
                    )
                    yield _Read(at, text)
                characters += len(text)
                if source.limit is not None and characters >= source.limit:
                    break
            if awaited:
                raise ValueError(
                    f"{source}: has changed since the checkpoint was written, its document at "
                    f"{begin.place} is another: put back what was there, or start a new run"
                )
