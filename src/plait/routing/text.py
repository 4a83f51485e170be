"""The text that is traced: files, or the held-out documents of a corpus, as passages of tokens."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from plait.data.build import cache_folder
from plait.data.corpora import NAMED, default_path, open_corpus
from plait.data.corpus import MANIFEST, Corpus
from plait.data.documents import clean
from plait.data.sources import Files
from plait.data.tokenizer import Encoder
from plait.routing.record import Passage

DOMAIN = "text"


def passages(
    sources: Sequence[str], tokenizer: Encoder, first: int | None, tokens: int, split: str = "test"
) -> Iterator[Passage]:
    """Yield documents as tokens, at most `tokens` of them, shared evenly by the domains.

    Args:
        sources: files, folders or glob patterns, each as PATH or DOMAIN=PATH; or corpora, by name
            or folder.
        tokenizer: of the model, for files; a corpus must have been encoded with it.
        first: token that stands before each document; None: none.
        tokens: limit over all domains; the last document of a domain is cut at its share. From a
            corpus no document gives more than a twentieth of it (but 512 tokens): intervals are
            taken over documents, so many of them say more than a few long ones.
        split: of corpora, "test" unless told otherwise.

    Raises:
        FileNotFoundError: there is no such text.
        ValueError: a corpus of another tokenizer.
    """
    streams: dict[str, Iterator[list[int]]] = {}
    longest: dict[str, int] = {}
    for source in sources:
        corpus = _corpus(source)
        if corpus is None:
            domain, path = _domain_and_path(source)
            streams[domain] = _file_tokens(domain, path, tokenizer, first)
            continue
        if corpus.tokenizer.encoding_fingerprint != tokenizer.encoding_fingerprint:
            raise ValueError(
                f"corpus {source} was encoded with another tokenizer than the model's: give files, "
                "which are encoded anew"
            )
        for domain in corpus.manifest["splits"][split]:
            streams[domain] = _corpus_tokens(corpus, split, domain)
            longest[domain] = max(512, tokens // (20 * len(corpus.manifest["splits"][split])))
    for domain, documents in streams.items():
        left = tokens // len(streams)
        for document in documents:
            if left <= 0:
                break
            taken = document[: min(left, longest.get(domain, left))]
            yield Passage(taken, domain)
            left -= len(taken)


def _corpus(source: str) -> Corpus | None:
    if (Path(source) / MANIFEST).is_file():
        return open_corpus(source)
    if source in NAMED or (default_path(source) / MANIFEST).is_file():
        return open_corpus(source)
    return None


def _domain_and_path(source: str) -> tuple[str, str]:
    domain, sign, path = source.partition("=")
    if sign and domain and "/" not in domain:
        return domain, path
    return DOMAIN, source


def _file_tokens(
    domain: str, path: str, tokenizer: Encoder, first: int | None
) -> Iterator[list[int]]:
    head = [] if first is None else [first]
    for document in Files(path, domain=domain).documents(cache_folder()):
        try:
            text = clean(document.text)
        except UnicodeError:
            continue  # a binary file among the text
        yield head + tokenizer.encode(text)


def _corpus_tokens(corpus: Corpus, split: str, domain: str) -> Iterator[list[int]]:
    stream = corpus.tokens(split, domain)
    end_of_text = corpus.tokenizer.end_of_text
    chunk, start, held = 1 << 20, 0, np.empty(0, dtype=np.int64)
    while start < len(stream):
        held = np.concatenate([held, stream[start : start + chunk].astype(np.int64)])
        start += chunk
        cuts = np.flatnonzero(held == end_of_text)
        for begin, end in pairwise(cuts):
            yield held[begin:end].tolist()
        if len(cuts):
            held = held[cuts[-1] :]
    if len(held):
        yield held.tolist()
