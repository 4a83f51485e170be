"""Building a corpus: read, clean, split, train the tokenizer on train alone, encode, rename.

Everything is made in a folder beside the target that is renamed when all is written and synced, so
that a folder with a manifest is a whole corpus, whatever happened before.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import Progress

import plait
from plait.atomic import disk_full, locked_folder, publish, write_json
from plait.data.cleaning import Cleaning, clean_part
from plait.data.corpus import MANIFEST, SPLITS, TOKENIZER, Corpus, file_sha256, format_of
from plait.data.shards import (
    SHARD_TOKENS,
    Encoding,
    ShardWriter,
    batched,
    encode,
    token_dtype,
)
from plait.data.sources import Source
from plait.data.specification import Specification
from plait.data.spool import Counts, Place, Spool, read_texts
from plait.data.tokenizer import Tokenizer
from plait.data.workers import Workers, processors

TOKENIZER_SAMPLE = 64_000_000
"""Bytes of training text, at the most, on which a tokenizer is trained."""


def cache_folder() -> Path:
    """Return where fetched archives and named corpora are kept: PLAIT_CACHE or ~/.cache/plait."""
    return Path(os.environ.get("PLAIT_CACHE") or Path.home() / ".cache" / "plait")


def build(
    spec: Specification,
    path: str | Path,
    progress: Progress | None = None,
    *,
    replace: bool = False,
    processes: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Corpus:
    """Build the corpus that a specification describes, or open it if it is there already.

    Of a stream only the beginning of each source is read and encoded; `plait.data.stream` reads
    the rest while it trains.

    Args:
        spec: what it is made of.
        path: the corpus folder; its parents are made.
        progress: shows the stages, if given.
        replace: whether a corpus of another specification may be replaced.
        processes: that read and encode side by side, where there is enough to do; 1: this one
            alone; None: one for each processor that it may use. The corpus is the same to the bit.
        shard_tokens: of a token file at the most; the fingerprint does not depend on it.

    Raises:
        FileNotFoundError: if a source is missing.
        ValueError: if a source is damaged, a split of a domain would be empty, the disk is full, or
            `path` holds something else. Nothing is left behind.
    """
    processes = processors() if processes is None else processes
    if min(processes, shard_tokens) < 1:
        raise ValueError(
            f"processes {processes} and shard_tokens {shard_tokens}: give at least 1 of each"
        )
    path = Path(path).resolve()  # through a link, to rename on the disk that it leads to
    if spec.stream is not None:  # it is read again, perhaps from another working folder
        spec = spec.anchored()
    stamps = [source.stamp() for source in spec.sources]
    wanted = json.loads(json.dumps({"specification": spec.to_dict(), "stamps": stamps}))
    if (corpus := _existing(path, wanted, replace)) is not None:
        return corpus
    progress = progress or Progress(disable=True)

    def waiting() -> None:
        progress.add_task(f"waiting for another build of {escape(path.name)}", total=None)

    try:
        # each worker holds the folder's lock too, so that the next build waits for the last of them
        with locked_folder(path, waiting) as (folder, lock), Workers(processes, [lock]) as workers:
            # while we waited for its lock, another process may have built it
            if (corpus := _existing(path, wanted, replace)) is not None:
                return corpus
            _write(spec, folder, wanted, progress, workers, shard_tokens)
            publish(folder, path)
    except (OSError, sqlite3.OperationalError) as error:
        if disk_full(error) or "disk is full" in str(error):  # as SQLite says
            raise ValueError(
                f"{path}: the disk is full, nothing was kept: free three times the text's size, or "
                "build in another folder (PLAIT_CACHE moves the default)"
            ) from None
        raise
    return Corpus.open(path)


def _existing(path: Path, wanted: dict[str, Any], replace: bool) -> Corpus | None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if not (path / MANIFEST).is_file():
        raise ValueError(f"{path}: there is something else here: choose another folder")
    try:
        corpus = Corpus.open(path)
    except ValueError:
        if replace:
            return None
        raise
    if all(corpus.manifest[key] == value for key, value in wanted.items()):
        return corpus
    if replace:
        return None
    raise ValueError(
        f"{path}: holds a corpus of another specification or of files that have changed since: "
        "delete it, replace it (--replace) or choose another folder"
    )


def _write(
    spec: Specification,
    folder: Path,
    wanted: dict[str, Any],
    progress: Progress,
    workers: Workers,
    shard_tokens: int,
) -> None:
    with Spool(folder / "spool", spec.validation, spec.test) as spool:
        counts = _read(spec, spool, progress, workers)
        _require_every_split(spec, spool)
        tokenizer = _tokenizer(spec, spool, progress)
        tokenizer.save(folder / TOKENIZER)
        encoder = partial(Encoding, folder / TOKENIZER, tokenizer.fingerprint, spool.folder)
        splits = _encode(spec, spool, encoder, folder, progress, workers, shard_tokens)
    shutil.rmtree(folder / "spool")
    manifest: dict[str, Any] = {
        "format": format_of(splits),
        "name": spec.name,
        "fingerprint": "",
        **wanted,
        "sources": [
            {
                "source": str(source),
                "kind": source.kind,
                "domain": source.domain,
                "licence": source.licence,
            }
            | asdict(count)
            for source, count in zip(spec.sources, counts, strict=True)
        ],
        "splits": splits,
        "weights": dict(spec.weights) if spec.weights else None,
        "dtype": token_dtype(tokenizer.vocab_size),
        "tokenizer": {
            "vocab_size": tokenizer.vocab_size,
            "end_of_text": tokenizer.end_of_text,
            "fingerprint": tokenizer.fingerprint,
            "size": (folder / TOKENIZER).stat().st_size,
            "sha256": file_sha256(folder / TOKENIZER),
        },
        "made_by": {"plait": plait.__version__, "python": sys.version.split()[0]},
    }
    manifest["fingerprint"] = _fingerprint(manifest)
    write_json(folder / MANIFEST, manifest)


def _read(spec: Specification, spool: Spool, progress: Progress, workers: Workers) -> list[Counts]:
    task = progress.add_task("reading", total=None)
    counts = []
    for source in spec.sources:
        progress.update(task, description=f"reading {escape(str(source))}")  # not rich's markup
        counts.append(_read_source(source, spec, spool, workers))
        progress.advance(task)
    spool.finish()
    total = sum(count.bytes for count in counts)
    progress.update(
        task, description=f"read {total / 1e6:.1f} MB", total=total or 1, completed=total or 1
    )
    return counts


def _read_source(source: Source, spec: Specification, spool: Spool, workers: Workers) -> Counts:
    limits = [source.limit, spec.stream.sample if spec.stream else None]
    enough = min((limit for limit in limits if limit is not None), default=math.inf)
    cache, count = cache_folder(), Counts()
    tasks = (Cleaning(part, cache, spool.new_file(), enough) for part in source.apart())
    for task, last in workers.map(clean_part, tasks):
        done = spool.take(task.texts, source.domain, count, enough)
        while last and not done:  # what it stopped at was less, without those seen before
            task = dataclasses.replace(task, texts=spool.new_file(), after=last)
            _, last = clean_part(task)
            done = spool.take(task.texts, source.domain, count, enough)
        if done:
            break
    if not count.documents:
        raise ValueError(
            f"{source}: no usable document ({count.short} under 200 characters, "
            f"{count.duplicates} seen before, {count.not_text} not UTF-8): check the source"
        )
    return count


def _held(spec: Specification) -> Iterator[str]:
    shares = {"train": 1.0, "validation": spec.validation, "test": spec.test}
    return (split for split in SPLITS if shares[split] > 0)


def _require_every_split(spec: Specification, spool: Spool) -> None:
    for domain in spec.domains:
        total = sum(spool.size(split, domain)[0] for split in SPLITS)
        for split in _held(spec):
            if not spool.size(split, domain)[0]:
                raise ValueError(
                    f"domain {domain!r}: none of its {total} documents falls into {split}: give it "
                    f"more text{' (`sample`)' if spec.stream else ''}, cut its files into smaller "
                    f"documents (`cut`) or raise `{split}`"
                )


def _tokenizer(spec: Specification, spool: Spool, progress: Progress) -> Tokenizer:
    if spec.tokenizer is not None:
        return Tokenizer.load(spec.tokenizer)
    assert spec.vocab_size is not None
    total = sum(spool.size("train", domain)[1] for domain in spec.domains)
    share = min(1.0, TOKENIZER_SAMPLE / total)
    task = progress.add_task("training the tokenizer", total=total * share)

    def sample() -> Iterator[str]:
        for domain in spec.domains:
            for text in read_texts(spool.folder, spool.places("train", domain, share)):
                progress.advance(task, len(text.encode()))
                yield text
        progress.update(task, description="training the tokenizer: merging")

    tokenizer = Tokenizer.train(sample(), spec.vocab_size)
    progress.update(task, description="trained the tokenizer", completed=total * share)
    return tokenizer


def _encode(
    spec: Specification,
    spool: Spool,
    encoder: Callable[[Sequence[Place]], Encoding],
    folder: Path,
    progress: Progress,
    workers: Workers,
    shard_tokens: int,
) -> dict[str, dict[str, Any]]:
    pairs = [(split, domain) for split in _held(spec) for domain in spec.domains]
    task = progress.add_task("encoding", total=sum(spool.size(*pair)[1] for pair in pairs))
    splits: dict[str, dict[str, Any]] = {}
    for split, domain in pairs:
        documents, bytes_ = spool.size(split, domain)
        places = batched(spool.places(split, domain), lambda place: place.bytes)
        with ShardWriter(folder, f"{split}-{domain}", shard_tokens) as shards:
            for encoding, tokens in workers.map(encode, map(encoder, places)):
                shards.write(tokens)
                progress.advance(task, sum(place.bytes for place in encoding.places))
            written = shards.finish()
        splits.setdefault(split, {})[domain] = {"documents": documents, "bytes": bytes_} | written
    return splits


def _fingerprint(manifest: dict[str, Any]) -> str:
    read = {
        "shards": {
            f"{split}/{domain}": shard["sha256"]
            for split, domains in manifest["splits"].items()
            for domain, shard in domains.items()
        },
        "tokenizer": manifest["tokenizer"]["fingerprint"],
        "weights": manifest["weights"],
    }
    if manifest["specification"].get("stream"):
        read |= {key: manifest[key] for key in ("specification", "stamps")}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]
