"""A corpus on disk: token shards by split and domain, and the manifest that describes them."""

import contextlib
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from plait.atomic import write_json
from plait.config.files import from_json
from plait.config.limits import LARGEST_VOCABULARY
from plait.data.tokenizer import Tokenizer
from plait.reading import inside, quoted, read_json

FORMAT = 1
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
VERIFIED = ".verified.json"


@dataclass(frozen=True)
class _Shard:
    documents: int
    tokens: int
    bytes: int
    file: str
    sha256: str


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
        for shards in self.splits.values():
            for domain, shard in shards.items():
                if min(shard.documents, shard.bytes) < 0 or shard.tokens < 1:
                    raise ValueError(f"splits: {quoted(domain)} counts less than nothing")
        if self.weights is not None and set(self.weights) != set(domains):
            raise ValueError("weights: they are of other domains")
        if not 0 < self.tokenizer.vocab_size <= LARGEST_VOCABULARY:
            raise ValueError(f"tokenizer.vocab_size is {quoted(self.tokenizer.vocab_size)}")


class Corpus:
    """A finished corpus, read through memory maps.

    `manifest` has the keys `format, name, fingerprint, specification, stamps, sources, splits,
    weights, dtype, tokenizer, made_by`; `splits[split][domain]` has `documents, tokens, bytes`
    (UTF-8, end-of-text tokens not counted), `file, sha256`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._shards: dict[tuple[str, str], npt.NDArray[np.unsignedinteger[Any]]] = {}

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
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{file}: format {quoted(manifest.get('format'))}, this version reads {FORMAT}: "
                f"{fix}"
            )
        from_json(_Manifest, manifest, file, fix)
        corpus = cls(path, manifest)
        itemsize = np.dtype(manifest["dtype"]).itemsize
        for shard in corpus._shard_entries():
            corpus._check_size(shard["file"], shard["tokens"] * itemsize)
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

    def tokens(self, split: str, domain: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of one shard, shape (tokens,), uint16 or uint32, as a memory map.

        Documents follow one another, each with an end-of-text token before it.

        Raises:
            ValueError: if there is no such split or domain.
        """
        if (split, domain) not in self._shards:
            splits = self.manifest["splits"]
            if split not in splits:
                raise ValueError(f"{self.path}: no split {split!r}: it has {', '.join(splits)}")
            if domain not in splits[split]:
                raise ValueError(
                    f"{self.path}: no domain {domain!r}: it has {', '.join(splits[split])}"
                )
            self._shards[split, domain] = np.memmap(
                inside(self.path, splits[split][domain]["file"]), self.manifest["dtype"], mode="r"
            )
        return self._shards[split, domain]

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
        entries = self._shard_entries()
        hashes = {shard["file"]: shard["sha256"] for shard in entries}
        hashes[TOKENIZER] = self.manifest["tokenizer"]["sha256"]
        for name, expected in hashes.items():
            if file_sha256(inside(self.path, name)) != expected:
                raise ValueError(
                    f"{self.path / name}: its bytes differ from the manifest's sha256: delete "
                    f"{self.path} and build the corpus again"
                )
        for shard in entries:
            tokens = np.memmap(self.path / shard["file"], self.manifest["dtype"], mode="r")
            if (largest := int(tokens.max())) >= self.vocab_size:
                raise ValueError(
                    f"{self.path / shard['file']}: token {largest}, but the tokenizer has "
                    f"{self.vocab_size} entries: delete {self.path} and build the corpus again"
                )

    def verify_once(self) -> None:
        """Verify, unless each file is the very one (size, time, inode) that was verified before.

        What was found is kept in the corpus' folder where that can be written.

        Raises:
            ValueError: as for `verify`.
        """
        names = [TOKENIZER, *(shard["file"] for shard in self._shard_entries())]
        found = {name: _identity(self.path / name) for name in names}
        record = self.path / VERIFIED
        known = {"fingerprint": self.fingerprint, "files": found}
        with contextlib.suppress(OSError, ValueError):
            if read_json(record, "it is written anew") == known:
                return
        self.verify()
        with contextlib.suppress(OSError):  # it is verified again the next time
            write_json(record, known)

    def _shard_entries(self) -> list[dict[str, Any]]:
        splits = self.manifest["splits"]
        return [shard for domains in splits.values() for shard in domains.values()]

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


def _identity(path: Path) -> list[int]:
    """What changes when a file is written, copied or replaced."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
