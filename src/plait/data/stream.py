"""A stream: a corpus whose training text is read from its sources while it trains.

Its folder holds what `build` made of the beginning of each source: tokenizer, held-out documents, a
sample. The order is that of `Batches`, with blocks in the place of epochs: sequence n belongs to a
domain by the mixture's weights and is that domain's k-th; a keyed permutation says which sequence
of its block that is. Where a block holds a whole epoch, stream and corpus give the same batches.
"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from plait.data.batches import Batches, Position, check_sizes, share, whole_weights
from plait.data.build import cache_folder
from plait.data.corpus import MANIFEST, Corpus
from plait.data.packing import Block, Mark, Packing, Tokens
from plait.data.permutation import mix, permute
from plait.data.specification import Specification
from plait.reading import quoted


@dataclass(frozen=True)
class StreamPosition(Position):
    """Where training stands in a stream, the same on each rank."""

    sequence_length: int
    domains: dict[str, Mark]
    """where the block begins that each domain's last sequence is in"""


class Stream(Iterator[tuple[torch.Tensor, torch.Tensor]]):
    """Endless batches of packed sequences, read from the sources of a stream.

    Takes and gives what `Batches` does. A domain's next block is read and tokenised in a thread
    while the last one is trained on; so memory holds two blocks per domain. Every rank reads all
    of the text and takes its own rows.

    Args:
        corpus: an open corpus that is a stream.
        sequence_length: tokens of a sequence; must stay the same when training resumes.
        batch_size: sequences per rank and step.
        seed: names the order within the blocks.
        rank: of this process, from 0.
        world: number of processes.
        state: as `state` returned it; None starts at the beginning.

    Raises:
        ValueError, FileNotFoundError: for a source that is missing or has changed since the stream
            was prepared, a state of another stream, seed or sequence length, or numbers that make
            no sense; with the fix. What is wrong further on in a source is raised when it is
            reached.
    """

    def __init__(
        self,
        corpus: Corpus,
        sequence_length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        check_sizes(sequence_length, batch_size, rank, world)
        spec = _specification(corpus)
        weights = corpus.weights or dict.fromkeys(corpus.domains, 1.0)
        self._weights = whole_weights([weights[domain] for domain in corpus.domains])
        self._corpus = corpus
        self._length, self._batch, self._seed = sequence_length, batch_size, seed
        self._rank, self._world = rank, world
        self._next, marks = 0, dict.fromkeys(corpus.domains, Mark())
        if state is not None:
            self._next, marks = self._resumed(state)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(corpus.domains), "stream")
        self._domains = []
        for number, domain in enumerate(corpus.domains):
            packing = Packing(
                domain, spec, corpus.tokenizer, cache_folder(), sequence_length, self._stop
            )
            blocks = packing.blocks(marks[domain])
            self._domains.append(_Domain(self._pool, blocks, marks[domain], (seed, number)))

    def state(self) -> dict[str, Any]:
        """Return where training stands: the fields of `StreamPosition`."""
        marks = [domain.mark for domain in self._domains]
        position = StreamPosition(
            seed=self._seed,
            tokens_seen=self._next * self._length,
            fingerprint=self._corpus.fingerprint,
            sequence_length=self._length,
            domains=dict(zip(self._corpus.domains, marks, strict=True)),
        )
        return asdict(position)

    def close(self) -> None:
        """End the reading ahead; no batch can be taken afterwards."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (tokens_BS, targets_BS), int64; targets are the tokens one place further."""
        own = self._next + self._rank * self._batch
        rows = np.empty((self._batch, self._length + 1), np.int64)
        # all ranks' sequences, so that each comes to the same blocks
        for number in range(self._next, self._next + self._world * self._batch):
            domain, visit = share(self._weights, number)
            sequence = self._domains[domain].sequence(visit, self._length)
            if own <= number < own + self._batch:
                rows[number - own] = sequence
        self._next += self._world * self._batch
        block = torch.from_numpy(rows)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def _resumed(self, state: Mapping[str, Any]) -> tuple[int, dict[str, Mark]]:
        position = StreamPosition.resumed(state, self._corpus, self._seed)
        seen = position.tokens_seen
        if position.sequence_length != self._length or seen < 0 or seen % self._length:
            raise ValueError(
                f"{quoted(seen)} tokens seen in sequences of {quoted(position.sequence_length)} do "
                f"not fit sequences of {self._length}: resume with the run's own sequence length"
            )
        if set(position.domains) != set(self._corpus.domains):
            raise ValueError(f"the loader's state has domains {quoted(list(position.domains))}")
        return seen // self._length, position.domains


class _Domain:
    """The block of a domain that training is in, and the next one, which is being read."""

    def __init__(
        self, pool: ThreadPoolExecutor, blocks: Iterator[Block], mark: Mark, key: tuple[int, int]
    ) -> None:
        self.mark = mark
        self._pool = pool
        self._blocks = blocks
        self._key = key
        self._block: Block | None = None
        self._ahead: Future[Block] | None = None

    def sequence(self, visit: int, length: int) -> Tokens:
        """Return the domain's sequence of this number, `length` + 1 tokens; numbers only grow."""
        while self._block is None or visit >= self.mark.sequences + self._block.sequences:
            ahead = self._ahead or self._pool.submit(next, self._blocks)
            self._block = ahead.result()
            self._ahead = self._pool.submit(next, self._blocks)
            self.mark = self._block.mark
        place = visit - self.mark.sequences
        start = length * permute(place, self._block.sequences, mix(*self._key, self.mark.block))
        return self._block.tokens[start : start + length + 1]


TrainingBatches = Batches | Stream


def training_batches(
    corpus: Corpus,
    sequence_length: int,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    state: Mapping[str, Any] | None = None,
) -> TrainingBatches:
    """Give the batches that a corpus is trained on: from its shards, or streamed; see both."""
    if corpus.streamed:
        return Stream(corpus, sequence_length, batch_size, seed, rank, world, state)
    return Batches(corpus, "train", sequence_length, batch_size, seed, rank, world, state)


def require_sources(corpus: Corpus) -> None:
    """Make sure, where a corpus is a stream, that its sources are there and as they were.

    Raises:
        ValueError, FileNotFoundError: naming the source that is not.
    """
    if corpus.streamed:
        _specification(corpus)


def _specification(corpus: Corpus) -> Specification:
    """Return what a stream is made of, if its sources are still as they were."""
    try:
        spec = Specification.from_dict(corpus.manifest.get("specification", {}))
    except ValueError as error:
        raise ValueError(f"{corpus.path / MANIFEST}: {error}: build the stream again") from None
    stamps: list[str] = corpus.manifest.get("stamps", [])
    if spec.stream is None or spec.domains != corpus.domains or len(stamps) != len(spec.sources):
        raise ValueError(f"{corpus.path / MANIFEST}: does not describe a stream: build it again")
    for source, stamp in zip(spec.sources, stamps, strict=True):
        if source.stamp() != stamp:
            raise ValueError(
                f"{source}: has changed since the stream {corpus.path} was prepared from it: put "
                "back what was there, or build the stream again (--replace) and start a new run"
            )
    return spec
