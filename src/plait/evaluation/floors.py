"""What counting alone scores: the unigram and the interpolated bigram of the training tokens.

A model whose held-out loss lies above the bigram's has learned nothing about structure yet. Both
are counted on the tokens that a run saw and scored on the tokens that it is scored on.
"""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plait.atomic import write_json
from plait.data.batches import IGNORED, evaluation_batches
from plait.data.corpus import Corpus
from plait.data.stream import training_batches
from plait.evaluation.heldout import Score

MOST_COUNTED = 10_000_000
"""training tokens that are counted at the most: a longer run is compared with these"""

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Floors:
    """Held-out scores of counting, by domain; "all" pools them."""

    unigram: dict[str, Score]
    bigram: dict[str, Score]

    def to_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """Give each kind's readings by domain, see `Score.to_dict`."""
        return {
            kind: {domain: score.to_dict() for domain, score in scores.items()}
            for kind, scores in (("unigram", self.unigram), ("bigram", self.bigram))
        }

    def loss(self, kind: str, domain: str = "all") -> float:
        """Nats per token of "unigram" or "bigram"."""
        score: Score = getattr(self, kind)[domain]
        return score.nats / score.tokens


class Counts:
    """Counts of tokens and of neighbours, and the probabilities that follow.

    The unigram is smoothed by one; the bigram is interpolated with it by Witten and Bell (1991):
    p(b | a) = (c(ab) + t(a) p(b)) / (c(a) + t(a)), t(a) being the number of tokens seen behind a.

    Args:
        sequences: (N, S + 1) tokens; neighbours are counted within a row.
        vocab_size: V.
    """

    def __init__(self, sequences: Tokens, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        seen_V = np.bincount(sequences[:, 1:].ravel(), minlength=vocab_size)
        self.unigram_V = (seen_V + 1) / (seen_V.sum() + vocab_size)
        codes = sequences[:, :-1].ravel() * vocab_size + sequences[:, 1:].ravel()
        self.pairs_P, self.counts_P = np.unique(codes, return_counts=True)
        first_P = self.pairs_P // vocab_size
        self.follow_V = np.bincount(first_P, self.counts_P, vocab_size)
        self.kinds_V = np.bincount(first_P, minlength=vocab_size)

    def unigram_nats(self, targets_T: Tokens) -> float:
        """Sum of −log p(b) over targets."""
        return float(-np.log(self.unigram_V[targets_T]).sum())

    def bigram_nats(self, tokens_T: Tokens, targets_T: Tokens) -> float:
        """Sum of −log p(b | a) over targets b and the token a before each."""
        code_T = tokens_T * self.vocab_size + targets_T
        place_T = np.searchsorted(self.pairs_P, code_T).clip(max=len(self.pairs_P) - 1)
        count_T = np.where(self.pairs_P[place_T] == code_T, self.counts_P[place_T], 0)
        kinds_T, follow_T = self.kinds_V[tokens_T], self.follow_V[tokens_T]
        p_T = (count_T + kinds_T * self.unigram_V[targets_T]) / np.maximum(follow_T + kinds_T, 1)
        # nothing was ever seen behind this token: the unigram is all there is
        p_T = np.where(kinds_T == 0, self.unigram_V[targets_T], p_T)
        return float(-np.log(p_T).sum())


def floors(
    corpus: Corpus,
    *,
    sequence_length: int,
    training_tokens: int,
    tokens_per_domain: int,
    split: str = "test",
    seed: int = 0,
    keep: bool = True,
) -> Floors:
    """Count the training tokens of a run, and score a split as `heldout.evaluate` does.

    Args:
        corpus: the text.
        sequence_length: of the run, in tokens.
        training_tokens: that the run saw, in the order of `seed`; of more than `MOST_COUNTED` the
            first are counted.
        tokens_per_domain: targets of each domain that are scored.
        split: that is scored.
        seed: of the run's data order.
        keep: read and write `floors.json` in the corpus' folder, where it can be written.
    """
    named = f"{split} {sequence_length} {training_tokens} {tokens_per_domain} {seed}"
    path = corpus.path / "floors.json"
    known = _read(path, corpus.fingerprint) if keep else {}
    if named not in known:
        rows = max(1, min(training_tokens, MOST_COUNTED) // sequence_length)
        sequences = _training(corpus, sequence_length, rows, seed)
        counts = Counts(sequences, corpus.vocab_size)
        unigram: dict[str, Score] = {}
        bigram: dict[str, Score] = {}
        batches = evaluation_batches(corpus, split, sequence_length, 64, tokens_per_domain)
        for domain, tokens_BS, targets_BS, size in batches:
            tokens_T, targets_T = tokens_BS.numpy().ravel(), targets_BS.numpy().ravel()
            kept = targets_T != IGNORED
            tokens_T, targets_T = tokens_T[kept], targets_T[kept]
            for found, nats in (
                (unigram, counts.unigram_nats(targets_T)),
                (bigram, counts.bigram_nats(tokens_T, targets_T)),
            ):
                score = Score(nats, len(targets_T), size)
                for name in (domain, "all"):
                    found[name] = found.get(name, Score(0.0, 0, 0)) + score
        known[named] = {
            kind: {name: [s.nats, s.tokens, s.bytes] for name, s in found.items()}
            for kind, found in (("unigram", unigram), ("bigram", bigram))
        }
        if keep:
            _write(path, corpus.fingerprint, known)
    entry = known[named]
    scored = {
        kind: {name: Score(n, int(t), int(b)) for name, (n, t, b) in entry[kind].items()}
        for kind in entry
    }
    return Floors(**scored)


def _training(corpus: Corpus, sequence_length: int, rows: int, seed: int) -> Tokens:
    sequences = np.empty((rows, sequence_length + 1), np.int64)
    with closing(training_batches(corpus, sequence_length, 1, seed)) as batches:
        for row in sequences:
            tokens_BS, targets_BS = next(batches)
            row[:-1], row[-1] = tokens_BS[0].numpy(), int(targets_BS[0, -1])
    return sequences


def _read(path: Path, fingerprint: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        entries: dict[str, dict[str, dict[str, list[float]]]] = kept["floors"]
        return entries if kept["fingerprint"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(path: Path, fingerprint: str, entries: object) -> None:
    try:
        write_json(path, {"fingerprint": fingerprint, "floors": entries})
    except OSError:
        return  # a corpus that cannot be written is counted again
