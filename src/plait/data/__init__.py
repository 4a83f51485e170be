"""Text to tokens: sources → documents → tokenizer → shards, or a stream → batches.

>>> from plait.data import Batches, build, corpora
>>> corpus = build(corpora.starter(), "corpus")                                 # doctest: +SKIP
>>> tokens_BS, targets_BS = next(Batches(corpus, "train", 256, 16, seed=0))     # doctest: +SKIP
"""

from plait.data.batches import Batches, evaluation_batches
from plait.data.build import build, cache_folder
from plait.data.corpus import Corpus
from plait.data.specification import Specification
from plait.data.stream import Stream, training_batches
from plait.data.summary import Summary, inspect
from plait.data.tokenizer import Tokenizer

__all__ = [
    "Batches",
    "Corpus",
    "Specification",
    "Stream",
    "Summary",
    "Tokenizer",
    "build",
    "cache_folder",
    "evaluation_batches",
    "inspect",
    "training_batches",
]
