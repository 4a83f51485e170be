"""Token shards: texts encoded in bounded memory and written as plain arrays of bounded size."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from plait.data.spool import Place, read_texts
from plait.data.tokenizer import Tokenizer

T = TypeVar("T")
TokenIds = npt.NDArray[np.unsignedinteger[Any]]

SHARD_TOKENS = 1 << 30
"""of one file, unless told otherwise: two or four gigabytes"""
BATCH_CHARACTERS = 1 << 21
_BATCH_TEXTS = 1 << 12


def token_dtype(vocab_size: int) -> str:
    """Return the smallest type that holds every id: `uint16` or `uint32`, little-endian."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


@dataclass(frozen=True)
class Encoding:
    """What is to be encoded: some documents of a spool.

    Args:
        tokenizer: its file.
        fingerprint: of the tokenizer.
        spool: the spool's folder.
        places: of the documents' texts.
    """

    tokenizer: Path
    fingerprint: str
    spool: Path
    places: Sequence[Place]


def encode(task: Encoding) -> TokenIds:
    """Encode documents, an end-of-text token before each: their ids, end to end."""
    tokenizer = _tokenizer(task.tokenizer, task.fingerprint)
    dtype = token_dtype(tokenizer.vocab_size)
    texts = list(read_texts(task.spool, task.places))
    encoded = tokenizer.encode_batch(texts)
    return np.concatenate([np.array([tokenizer.end_of_text, *ids], dtype) for ids in encoded])


@lru_cache(maxsize=1)
def _tokenizer(file: Path, fingerprint: str) -> Tokenizer:
    """Load a tokenizer once; the fingerprint tells those apart that lay at one path in turn."""
    return Tokenizer.load(file)


class ShardWriter:
    """Writes the tokens of one split and domain into files, each full but the last.

    Args:
        folder: of the corpus.
        name: of a file that holds all: `NAME.bin`; several are `NAME-00000.bin` and so on.
        most: tokens of a file.
    """

    def __init__(self, folder: Path, name: str, most: int) -> None:
        self._folder = folder
        self._name = name
        self._most = most
        self._sha256 = hashlib.sha256()
        self._files: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._own = hashlib.sha256()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, tokens: TokenIds) -> None:
        """Append tokens, in as many files as they take."""
        while len(tokens):
            if self._file is None or self._files[-1]["tokens"] == self._most:
                self._begin()
            assert self._file is not None
            entry = self._files[-1]
            now, tokens = np.split(tokens, [self._most - entry["tokens"]])
            data = now.tobytes()
            self._file.write(data)
            self._sha256.update(data)
            self._own.update(data)
            entry["tokens"] += len(now)
            entry["sha256"] = self._own.hexdigest()

    def finish(self) -> dict[str, Any]:
        """Return what the manifest says of the files: `tokens, sha256`, and `file` or `files`."""
        assert self._file is not None
        self._file.close()
        whole = {
            "tokens": sum(entry["tokens"] for entry in self._files),
            "sha256": self._sha256.hexdigest(),
        }
        if len(self._files) > 1:
            return whole | {"files": self._files}
        alone = f"{self._name}.bin"
        (self._folder / self._files[0]["file"]).rename(self._folder / alone)
        return whole | {"file": alone}

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
        name = f"{self._name}-{len(self._files):05}.bin"
        self._files.append({"file": name, "tokens": 0, "sha256": ""})
        self._file = (self._folder / name).open("wb")
        self._own = hashlib.sha256()


class Tokens(Sequence[int]):
    """The tokens of files, end to end, read as if they were one array.

    Files are mapped when they are first read. What is kept in memory grows with their number and
    not with their tokens.

    Args:
        files: (path, tokens) of each.
        dtype: of a token.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], dtype: str) -> None:
        self._paths = [path for path, _ in files]
        self._starts = list(accumulate((tokens for _, tokens in files), initial=0))
        self._dtype = np.dtype(dtype)
        self._maps: dict[int, TokenIds] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, where: Any) -> Any:
        """Return a token, or those of a slice (without a step) as an array, shape (tokens,)."""
        if not isinstance(where, slice):
            place = range(len(self))[where]
            return self._read(place, place + 1)[0]
        start, end, step = where.indices(len(self))
        if step != 1:
            raise ValueError(f"tokens are read in their order, not with a step of {step}")
        return self._read(start, max(start, end))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> TokenIds:
        return np.array(self[:], dtype)

    def _read(self, start: int, end: int) -> TokenIds:
        parts = []
        number = bisect_right(self._starts, start, hi=len(self._paths)) - 1
        while True:
            first, last = self._starts[number], self._starts[number + 1]
            parts.append(self._map(number)[start - first : end - first])
            if end <= last:
                break
            start, number = last, number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _map(self, number: int) -> TokenIds:
        if number not in self._maps:
            mapped = np.memmap(self._paths[number], self._dtype, mode="r")
            self._maps[number] = np.asarray(mapped)
        return self._maps[number]


def batched(
    items: Iterable[T], length: Callable[[T], int], most: int | None = None
) -> Iterator[list[T]]:
    """Give texts a few megabytes at a time: what is encoded at once.

    Args:
        items: texts, or what stands for one each.
        length: of one.
        most: length at which a batch is full; None: `BATCH_CHARACTERS`.
    """
    batch: list[T] = []
    held, most = 0, most or BATCH_CHARACTERS
    for item in items:
        batch.append(item)
        held += length(item)
        if held >= most or len(batch) == _BATCH_TEXTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
