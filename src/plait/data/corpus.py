"""A corpus on disk: token shards by split and domain, and the manifest that describes them."""

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from plait.atomic import write_json
from plait.config.files import from_json
from plait.config.limits import LARGEST_VOCABULARY
from plait.data.shards import Tokens
from plait.data.tokenizer import Tokenizer
from plait.reading import inside, quoted, read_json

FORMATS = (1, 2)
"""2: some split and domain is in several files, which the manifest lists; 1: none is"""
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
VERIFIED = ".verified.json"


@dataclass(frozen=True)
class _File:
    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class _Shard:
    documents: int
    tokens: int
    bytes: int
    sha256: str
    file: str | None = None
    files: list[_File] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.file is None) == (not self.files):
            raise ValueError("a split and domain is in one `file` or in several `files`")
        if self.files and sum(one.tokens for one in self.files) != self.tokens:
            raise ValueError("a split and domain has other tokens than its files")
        if min(self.documents, self.bytes) < 0 or self.tokens < 1:
            raise ValueError("a split and domain counts less than nothing")
        if any(one.tokens < 1 for one in self.files):
            raise ValueError("a file has no tokens")


@dataclass(frozen=True)
class _TokenizerFile:
    vocab_size: int
    end_of_text: int
    fingerprint: str
    size: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    """What `manifest.json` must hold; what else is in there is only kept."""

    name: str
    fingerprint: str
    sources: list[dict[str, Any]]
    splits: dict[str, dict[str, _Shard]]
    weights: dict[str, float] | None
    dtype: Literal["<u2", "<u4"]
    tokenizer: _TokenizerFile
    specification: dict[str, Any] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        domains = self.splits.get("train", {})
        if not domains or any(set(split) != set(domains) for split in self.splits.values()):
            raise ValueError("splits: train is missing or empty, or has other domains than another")
        if self.weights is not None and set(self.weights) != set(domains):
            raise ValueError("weights: they are of other domains")
        if not 0 < self.tokenizer.vocab_size <= LARGEST_VOCABULARY:
            raise ValueError(f"tokenizer.vocab_size is {quoted(self.tokenizer.vocab_size)}")


class Corpus:
    """A finished corpus, read through memory maps.

    `manifest` has the keys `format, name, fingerprint, specification, stamps, sources, splits,
    weights, dtype, tokenizer, made_by`; `splits[split][domain]` has `documents, tokens, bytes`
    (UTF-8, end-of-text tokens not counted), `sha256` of all its tokens, and the `file` that holds
    them or a list of `files`, each with `file, tokens, sha256`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._tokens: dict[tuple[str, str], Tokens] = {}

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open a corpus, checking that each file is there in its full size.

        Raises:
            FileNotFoundError: if there is no whole corpus at `path`.
            ValueError: if it is damaged or of another format, with the fix.
        """
        path = Path(path)
        file, fix = path / MANIFEST, f"delete {path} and build the corpus again"
        if not file.is_file():
            raise FileNotFoundError(f"{path}: no corpus here: build one with `plait data build`")
        manifest = read_json(file, fix)
        if manifest.get("format") not in FORMATS:
            raise ValueError(
                f"{file}: format {quoted(manifest.get('format'))}, this version reads "
                f"{' and '.join(map(str, FORMATS))}: {fix}"
            )
        from_json(_Manifest, manifest, file, fix)
        corpus = cls(path, manifest)
        itemsize = np.dtype(manifest["dtype"]).itemsize
        for one in corpus._files():
            corpus._check_size(one["file"], one["tokens"] * itemsize)
        corpus._check_size(TOKENIZER, manifest["tokenizer"]["size"])
        return corpus

    @property
    def name(self) -> str:
        """The name given in its specification."""
        return str(self.manifest["name"])

    @property
    def fingerprint(self) -> str:
        """16 hex digits of everything that training reads: tokens, tokenizer, weights."""
        return str(self.manifest["fingerprint"])

    @property
    def vocab_size(self) -> int:
        """Number of token ids, without loading the tokenizer."""
        return int(self.manifest["tokenizer"]["vocab_size"])

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains, in the order of the specification."""
        return tuple(self.manifest["splits"]["train"])

    @property
    def weights(self) -> dict[str, float] | None:
        """Mixture weights by domain; None means in proportion to size."""
        weights: dict[str, float] | None = self.manifest["weights"]
        return weights

    @property
    def streamed(self) -> bool:
        """Whether training reads the sources: the split train is then only a sample of them."""
        return bool(self.manifest.get("specification", {}).get("stream"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            ValueError: if the file is not the one that the corpus was encoded with.
        """
        tokenizer = Tokenizer.load(self.path)
        if tokenizer.fingerprint != self.manifest["tokenizer"]["fingerprint"]:
            raise ValueError(
                f"{self.path / TOKENIZER}: not the tokenizer that this corpus was encoded with: "
                "put the original back or build the corpus again"
            )
        return tokenizer

    def tokens(self, split: str, domain: str) -> Tokens:
        """Return the tokens of a split and domain: `len`, slices and `numpy.asarray` read them.

        Documents follow one another, each with an end-of-text token before it.

        Raises:
            ValueError: if there is no such split or domain.
        """
        if (split, domain) not in self._tokens:
            splits = self.manifest["splits"]
            if split not in splits:
                raise ValueError(f"{self.path}: no split {split!r}: it has {', '.join(splits)}")
            if domain not in splits[split]:
                raise ValueError(
                    f"{self.path}: no domain {domain!r}: it has {', '.join(splits[split])}"
                )
            self._tokens[split, domain] = Tokens(
                [
                    (inside(self.path, one["file"]), one["tokens"])
                    for one in _files_of(splits[split][domain])
                ],
                self.manifest["dtype"],
            )
        return self._tokens[split, domain]

    def check_ids(self, ids: npt.NDArray[np.int64]) -> None:
        """Make sure that token ids are of this corpus' vocabulary, also where a bit was flipped.

        Raises:
            ValueError: one is larger.
        """
        if ids.size and (largest := int(ids.max())) >= self.vocab_size:
            raise ValueError(
                f"{self.path}: holds token {largest}, but its vocabulary ends before "
                f"{self.vocab_size}: it is damaged, so delete it and build the corpus again"
            )

    def verify(self) -> None:
        """Read every file: compare hashes with the manifest's, tokens with the vocabulary.

        Raises:
            ValueError: naming the first file that differs.
        """
        files = {one["file"]: one["sha256"] for one in self._files()}
        names = [*files, TOKENIZER]
        expected = [*files.values(), self.manifest["tokenizer"]["sha256"]]
        with ThreadPoolExecutor() as pool:
            found = pool.map(file_sha256, [inside(self.path, name) for name in names])
            for name, wanted, sha256 in zip(names, expected, found, strict=True):
                if sha256 != wanted:
                    pool.shutdown(cancel_futures=True)
                    raise ValueError(
                        f"{self.path / name}: its bytes differ from the manifest's sha256: delete "
                        f"{self.path} and build the corpus again"
                    )
        for name in files:
            tokens = np.memmap(self.path / name, self.manifest["dtype"], mode="r")
            if (largest := int(tokens.max())) >= self.vocab_size:
                raise ValueError(
                    f"{self.path / name}: token {largest}, but the tokenizer has "
                    f"{self.vocab_size} entries: delete {self.path} and build the corpus again"
                )

    def verify_once(self) -> None:
        """Verify, unless each file is the very one (size, time, inode) that was verified before.

        What was found is kept in the corpus' folder where that can be written.

        Raises:
            ValueError: as for `verify`.
        """
        names = [TOKENIZER, *(one["file"] for one in self._files())]
        found = {name: _identity(self.path / name) for name in names}
        record = self.path / VERIFIED
        known = {"fingerprint": self.fingerprint, "files": found}
        with contextlib.suppress(OSError, ValueError):
            if read_json(record, "it is written anew") == known:
                return
        self.verify()
        with contextlib.suppress(OSError):  # it is verified again the next time
            write_json(record, known)

    def _files(self) -> list[dict[str, Any]]:
        """Return `file, tokens, sha256` of each token file."""
        splits = self.manifest["splits"]
        shards = (shard for domains in splits.values() for shard in domains.values())
        return [one for shard in shards for one in _files_of(shard)]

    def _check_size(self, name: str, expected: int) -> None:
        file = self.path / name
        try:
            size = inside(self.path, name).stat().st_size
        except FileNotFoundError:
            size = 0
        if size != expected:
            raise ValueError(
                f"{file}: {size:,} bytes, not {quoted(expected)} as in its manifest: delete "
                f"{self.path} and build the corpus again"
            )


def format_of(splits: dict[str, dict[str, Any]]) -> int:
    """Return the oldest format that can say which files the tokens are in."""
    shards = [shard for domains in splits.values() for shard in domains.values()]
    return 2 if any("files" in shard for shard in shards) else 1


def _files_of(shard: dict[str, Any]) -> list[dict[str, Any]]:
    return shard["files"] if shard.get("files") else [shard]


def _identity(path: Path) -> list[int]:
    """What changes when a file is written, copied or replaced."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
