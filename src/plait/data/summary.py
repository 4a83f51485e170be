"""What is in a corpus, in figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plait.data.corpus import Corpus

SAMPLE_TOKENS = 120


@dataclass(frozen=True)
class Summary:
    """A corpus in figures.

    Of a stream, `rows` and `sources` count what was read of it beforehand.

    `rows` has one mapping per split and domain: `split, domain, documents, bytes, tokens,
    bytes_per_token`; `sources` one per source: `source, domain, licence, documents, bytes,
    short, duplicates, not_text`; `samples` a piece of training text per domain.
    """

    path: Path
    name: str
    fingerprint: str
    tokenizer: str
    mixture: str
    streamed: bool
    rows: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    samples: dict[str, str]


def inspect(path: str | Path, *, verify: bool = True) -> Summary:
    """Return what is in the corpus at `path`.

    Args:
        path: the corpus folder.
        verify: whether every file is read and compared with its hash.

    Raises:
        FileNotFoundError, ValueError: if it is not a whole corpus, with the fix.
    """
    corpus = Corpus.open(path)
    if verify:
        corpus.verify()
    rows = [
        {"split": split, "domain": domain}
        | {key: shard[key] for key in ("documents", "bytes", "tokens")}
        | {"bytes_per_token": shard["bytes"] / shard["tokens"]}
        for split, domains in corpus.manifest["splits"].items()
        for domain, shard in domains.items()
    ]
    tokenizer = corpus.manifest["tokenizer"]
    weights = corpus.weights
    shares = ", ".join(f"{domain} {weights[domain]:g}" for domain in weights) if weights else ""
    return Summary(
        path=corpus.path,
        name=corpus.name,
        fingerprint=corpus.fingerprint,
        tokenizer=f"vocabulary of {tokenizer['vocab_size']:,} ({tokenizer['fingerprint']})",
        mixture=f"mixture {shares}" if weights else "mixture in proportion to size",
        streamed=corpus.streamed,
        rows=rows,
        sources=corpus.manifest["sources"],
        samples={domain: _sample(corpus, domain) for domain in corpus.domains},
    )


def _sample(corpus: Corpus, domain: str) -> str:
    """Return the beginning of a document from the middle of the training split."""
    tokens = corpus.tokens("train", domain)
    end = corpus.tokenizer.end_of_text
    middle = len(tokens) // 2
    from_middle = tokens[middle : middle + (1 << 20)]
    starts = np.flatnonzero(from_middle == end)
    start = int(starts[0]) + 1 if len(starts) else 0
    ids = from_middle[start : start + SAMPLE_TOKENS].tolist()
    return corpus.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
