"""Batches: packed sequences in a shuffled order that is the same for any world and batch size.

The order is a function from a sequence's number to its place in a shard. Sequence n belongs to a
domain by the mixture's weights, is that domain's k-th, and lies in the window that a keyed
permutation gives k. Nothing is stored, so a position is a number of tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import lcm
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from plait.config.files import from_dict
from plait.data.corpus import Corpus
from plait.data.permutation import mix, permute
from plait.reading import quoted

IGNORED = -100
"""Target where nothing is to be predicted, as in torch's cross entropy."""


class Order:
    """Which window of which domain the n-th sequence of training is.

    Args:
        windows: number of windows of each domain.
        weights: share of each domain; whole numbers. Weights equal to `windows` make each epoch
            visit every window exactly once.
        seed: names the order.
    """

    def __init__(self, windows: list[int], weights: list[int], seed: int) -> None:
        assert len(windows) == len(weights)
        assert min(*windows, *weights, 1) == 1
        self.windows = windows
        self.weights = weights
        self.seed = seed

    def __getitem__(self, number: int) -> tuple[int, int]:
        """Return (domain, window) of sequence `number` ≥ 0; it never ends."""
        domain, visit = share(self.weights, number)
        epoch, place = divmod(visit, self.windows[domain])
        return domain, permute(place, self.windows[domain], mix(self.seed, domain, epoch))


def share(weights: Sequence[int], number: int) -> tuple[int, int]:
    """Return (domain, visit): whose sequence `number` is, and how many it had before."""
    # Of the first n sequences, domain 0 has floor(n·w0/W); the others share the rest alike.
    # Each count grows by 0 or 1 with n; after W sequences every domain had exactly its weight.
    left = sum(weights)
    for domain, weight in enumerate(weights):
        before = number * weight // left
        if (number + 1) * weight // left > before:
            return domain, before
        number -= before
        left -= weight
    raise AssertionError("the last domain takes all that is left")


@dataclass(frozen=True)
class Position:
    """Where training stands in the data, the same on each rank."""

    seed: int
    """that names the order"""
    tokens_seen: int
    """by all ranks together, from the very start"""
    fingerprint: str
    """of the corpus"""

    @classmethod
    def resumed(cls, state: Mapping[str, Any], corpus: Corpus, seed: int) -> Self:
        """Read a loader's state.

        Raises:
            ValueError: it is damaged, or of another corpus or seed.
        """
        try:
            position = from_dict(cls, state, "loader")
        except ValueError as error:
            raise ValueError(
                f"{error}: the loader's state is damaged or of another version; start anew or take "
                "an earlier checkpoint"
            ) from None
        if position.fingerprint != corpus.fingerprint:
            raise ValueError(
                f"this run was trained on the corpus {quoted(position.fingerprint)}, not on "
                f"{corpus.fingerprint}: give it that corpus, or start a new run"
            )
        if position.seed != seed:
            raise ValueError(
                f"this run's data order has seed {quoted(position.seed)}, not {seed}: "
                "resume with that seed, or start a new run"
            )
        return position


@dataclass(frozen=True)
class CorpusPosition(Position):
    """Where training stands in a corpus on the disk."""

    epoch: int
    """whole passes' worth of tokens"""


class Batches(Iterator[tuple[torch.Tensor, torch.Tensor]]):
    """Endless batches of packed sequences for training.

    Step s holds sequences `s·world·batch_size` to `(s+1)·world·batch_size` of one global order,
    of which each rank takes `batch_size` neighbours. So the order does not depend on `world` or
    `batch_size`, and both may change when training resumes.

    Args:
        corpus: an open corpus.
        split: usually `"train"`.
        sequence_length: tokens of a sequence; must stay the same when training resumes.
        batch_size: sequences per rank and step.
        seed: names the order.
        rank: of this process, from 0.
        world: number of processes.
        state: as `state` returned it; None starts at the beginning.
        weights: share of each domain; by default the corpus' own, or in proportion to size.

    Raises:
        ValueError: for a state of another corpus, seed or sequence length, a domain shorter than a
            sequence, or numbers that make no sense; with the fix.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        sequence_length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        state: Mapping[str, Any] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        check_sizes(sequence_length, batch_size, rank, world)
        if corpus.streamed and split == "train":
            raise ValueError(
                f"{corpus.path}: is a stream, whose train split is a sample: "
                "plait.data.training_batches reads all of it"
            )
        domains = corpus.domains
        self._corpus = corpus
        self._shards = [corpus.tokens(split, domain) for domain in domains]
        windows = [(len(shard) - 1) // sequence_length for shard in self._shards]
        for domain, count in zip(domains, windows, strict=True):
            if count < 1:
                raise ValueError(
                    f"{corpus.path}: {split} of domain {domain!r} is shorter than a sequence of "
                    f"{sequence_length} tokens: shorten the sequences or give it more text"
                )
        weights = corpus.weights if weights is None else weights
        if weights is not None and set(weights) != set(domains):
            raise ValueError(f"weights {dict(weights)}: give one per domain: {', '.join(domains)}")
        shares = windows if weights is None else whole_weights([weights[d] for d in domains])
        self._order = Order(windows, shares, seed)
        self._length = sequence_length
        self._batch = batch_size
        self._rank = rank
        self._world = world
        self._next = 0 if state is None else self._resumed(state)

    @property
    def epoch_tokens(self) -> int:
        """Tokens of one epoch: as many sequences as the split has windows."""
        return sum(self._order.windows) * self._length

    def state(self) -> dict[str, Any]:
        """Return where training stands: the fields of `CorpusPosition`."""
        seen = self._next * self._length
        position = CorpusPosition(
            seed=self._order.seed,
            tokens_seen=seen,
            fingerprint=self._corpus.fingerprint,
            epoch=seen // self.epoch_tokens,
        )
        return asdict(position)

    def close(self) -> None:
        """End what works in the background: nothing here, see `Stream`."""

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (tokens_BS, targets_BS), int64; targets are the tokens one place further."""
        first = self._next + self._rank * self._batch
        rows = np.empty((self._batch, self._length + 1), np.int64)
        for row, number in enumerate(range(first, first + self._batch)):
            domain, window = self._order[number]
            start = window * self._length
            rows[row] = self._shards[domain][start : start + self._length + 1]
        self._corpus.check_ids(rows)
        self._next += self._world * self._batch
        block = torch.from_numpy(rows)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def _resumed(self, state: Mapping[str, Any]) -> int:
        position = CorpusPosition.resumed(state, self._corpus, self._order.seed)
        seen, epoch = position.tokens_seen, position.epoch
        if seen < 0 or seen % self._length or epoch != seen // self.epoch_tokens:
            raise ValueError(
                f"{quoted(seen)} tokens seen (epoch {quoted(epoch)}) do not fit sequences of "
                f"{self._length}: resume with the run's own sequence length"
            )
        return seen // self._length


def evaluation_batches(
    corpus: Corpus,
    split: str,
    sequence_length: int,
    batch_size: int,
    tokens_per_domain: int | None = None,
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, int]]:
    """Give the held-out text of each domain as `(domain, tokens_BS, targets_BS, target_bytes)`.

    The targets are the first `tokens_per_domain` ones of each domain (all of them if None or if
    there are fewer): the same for every run, batch size and sequence length. Held-out documents
    lie in the order of their hashes, so these are a fair sample. What is left of the last sequence
    is filled with end-of-text tokens whose targets are -100; the last batch of a domain may have
    fewer sequences. `target_bytes` are the UTF-8 bytes behind the targets, exact also where a
    character is spread over tokens: bits per byte = sum of nats / (ln 2 · sum of bytes).

    Raises:
        ValueError: if the corpus has no such split, or a number is below 1.
    """
    if min(sequence_length, batch_size) < 1 or (tokens_per_domain or 1) < 1:
        raise ValueError(
            f"sequence_length {sequence_length}, batch_size {batch_size}, tokens_per_domain "
            f"{tokens_per_domain}: give at least 1"
        )
    token_bytes = corpus.tokenizer.token_bytes
    padding = corpus.tokenizer.end_of_text
    for domain in corpus.domains:
        shard = corpus.tokens(split, domain)
        count = min(len(shard) - 1, tokens_per_domain or len(shard))
        step = sequence_length * batch_size
        for start in range(0, count, step):
            end = min(start + step, count)
            span = shard[start : end + 1].astype(np.int64)
            corpus.check_ids(span)
            tokens = _rows(span[:-1], sequence_length, padding)
            targets = _rows(span[1:], sequence_length, IGNORED)
            yield domain, tokens, targets, int(token_bytes[span[1:]].sum())


def _rows(tokens: npt.NDArray[np.int64], length: int, padding: int) -> torch.Tensor:
    rows = -(-len(tokens) // length)
    padded = np.full(rows * length, padding, np.int64)
    padded[: len(tokens)] = tokens
    return torch.from_numpy(padded.reshape(rows, length))


def check_sizes(sequence_length: int, batch_size: int, rank: int, world: int) -> None:
    """Make sure that the numbers of a reader of batches make sense; a ValueError says which."""
    if min(sequence_length, batch_size, world) < 1 or not 0 <= rank < world:
        raise ValueError(
            f"sequence_length {sequence_length}, batch_size {batch_size}, rank {rank} of world "
            f"{world}: all must be at least 1, and the rank from 0 to below the world"
        )


def whole_weights(weights: list[float]) -> list[int]:
    """Return whole numbers in the ratio of mixture weights; a ValueError names absurd ones."""
    if not all(1e-6 <= weight <= 1e12 for weight in weights):
        raise ValueError(
            f"mixture weights {quoted(weights)}: each must be from 1e-6 to 1e12; leave out a "
            "domain that is not wanted"
        )
    exact = [Fraction(str(weight)).limit_denominator(1_000_000) for weight in weights]
    unit = lcm(*(share.denominator for share in exact))
    return [int(share * unit) for share in exact]
