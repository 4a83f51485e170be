"""Text to tokens: sources → documents → tokenizer → shards, or a stream → batches.

>>> from plait.data import Batches, build, corpora
>>> corpus = build(corpora.starter(), "corpus")                                 # doctest: +SKIP
>>> tokens_BS, targets_BS = next(Batches(corpus, "train", 256, 16, seed=0))     # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

from plait.data.build import build, cache_folder
from plait.data.corpus import Corpus
from plait.data.specification import Specification
from plait.data.summary import Summary, inspect
from plait.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from plait.data.batches import Batches, evaluation_batches
    from plait.data.stream import Stream, training_batches

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

# what makes tensors comes when it is asked for: a process that only reads text needs no torch
_WITH_TORCH = {
    "Batches": "plait.data.batches",
    "evaluation_batches": "plait.data.batches",
    "Stream": "plait.data.stream",
    "training_batches": "plait.data.stream",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(importlib.import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
