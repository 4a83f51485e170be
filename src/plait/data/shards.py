"""Token shards: texts encoded in bounded memory and written as plain arrays."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from plait.data.tokenizer import Tokenizer

T = TypeVar("T")

BATCH_CHARACTERS = 1 << 21
_BATCH_TEXTS = 1 << 12


def token_dtype(vocab_size: int) -> str:
    """Return the smallest type that holds every id: `uint16` or `uint32`, little-endian."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def write_shard(
    path: Path,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    advance: Callable[[int], None] = lambda bytes_: None,
) -> dict[str, Any]:
    """Encode texts on all cores into one synced file, an end-of-text token before each.

    Args:
        path: file to write.
        texts: read a few megabytes at a time.
        tokenizer: what turns them into ids.
        advance: told of the UTF-8 bytes that were done.

    Returns:
        The manifest's entry: `documents, tokens, bytes, file, sha256`.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    sha256 = hashlib.sha256()
    documents = tokens = bytes_ = 0
    with path.open("wb") as file:
        for batch in batched(texts, len):
            for ids in tokenizer.encode_batch(batch):
                data = np.array([tokenizer.end_of_text, *ids], dtype).tobytes()
                file.write(data)
                sha256.update(data)
                tokens += 1 + len(ids)
            documents += len(batch)
            done = sum(len(text.encode()) for text in batch)
            bytes_ += done
            advance(done)
    return {
        "documents": documents,
        "tokens": tokens,
        "bytes": bytes_,
        "file": path.name,
        "sha256": sha256.hexdigest(),
    }


def batched(
    texts: Iterable[T], length: Callable[[T], int], most: int = BATCH_CHARACTERS
) -> Iterator[list[T]]:
    """Give texts a few megabytes at a time: what is encoded at once on all cores.

    Args:
        texts: or what holds a text each.
        length: characters of one.
        most: characters at which a batch is full.
    """
    batch: list[T] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += length(text)
        if characters >= most or len(batch) == _BATCH_TEXTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
