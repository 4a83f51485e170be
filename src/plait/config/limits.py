"""How small and how large a number of a configuration may be: far beyond any model there ever was.

Checked before anything is parsed, counted or built, so that a slip of the finger (or a file from
somebody else) ends in one line, and not in a machine without memory.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from plait.reading import quoted
from plait.sharing import DEEPEST

WIDEST, MOST_EXPERTS, LARGEST_VOCABULARY, LONGEST_CONTEXT = 2**20, 2**16, 2**24, 2**27
MOST_TOKENS = 2**60
MOST_ELEMENTS = 2**53
"""stored by one model: at four bytes each more than any file system holds"""

Limits = Mapping[str, tuple[int, int]]

MODEL_LIMITS: Limits = {
    "vocab_size": (1, LARGEST_VOCABULARY),
    "depth": (1, DEEPEST),
    "width": (1, WIDEST),
    "context": (1, LONGEST_CONTEXT),
    "attention.heads": (1, MOST_EXPERTS),
    "attention.kv_heads": (1, MOST_EXPERTS),
    "attention.head_width": (1, WIDEST),
    "attention.lora_rank": (0, WIDEST),
    "attention.rope_scaling.original_context": (1, LONGEST_CONTEXT),
    "experts.count": (1, MOST_EXPERTS),
    "experts.width": (1, WIDEST),
    "experts.expand": (1, MOST_EXPERTS),
    "experts.top_k": (1, MOST_EXPERTS),
    "experts.shared_width": (0, WIDEST),
    "experts.dense_first": (0, DEEPEST),
    "experts.dense_at": (0, DEEPEST - 1),
    "experts.dense_width": (1, WIDEST),
    "router.groups": (1, MOST_EXPERTS),
    "router.top_groups": (1, MOST_EXPERTS),
    "router.inner_width": (1, WIDEST),
}
TRAINING_LIMITS: Limits = {
    "data.sequence_length": (1, LONGEST_CONTEXT),
    "data.batch": (1, 2**24),
    "data.micro_batch": (1, 2**24),
    "tokens": (1, MOST_TOKENS),
    "schedule.warmup": (0, MOST_TOKENS),
    "schedule.decay": (0, MOST_TOKENS),
    "evaluation.every": (0, MOST_TOKENS),
    "evaluation.tokens": (1, MOST_TOKENS),
    "evaluation.final_tokens": (1, MOST_TOKENS),
    "evaluation.batch": (1, 2**24),
    "checkpoint.every": (1, MOST_TOKENS),
    "checkpoint.keep": (1, MOST_TOKENS),
    "skip_limit": (1, MOST_TOKENS),
    "recoveries": (0, MOST_TOKENS),
    "log_every": (1, MOST_TOKENS),
    "seed": (-MOST_TOKENS, MOST_TOKENS),
}


def check_limits(config: Any, limits: Limits) -> None:
    """Check each number that has limits, and that every other one is finite.

    Raises:
        ValueError: naming the first option that is out of bounds.
    """
    for name, value in _numbers(config):
        least, most = limits.get(name, (-math.inf, math.inf))
        if value < least:
            raise ValueError(f"{name} is {quoted(value)}: it must be {least:,} or more")
        if value > most:
            raise ValueError(f"{name} is {quoted(value)}: it must be {most:,} at the most")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: it must be a finite number")


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """Each number in a configuration under its dotted name; a list counts by its entries."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{name}.")
        for one in (value or (0,)) if isinstance(value, tuple) else (value,):
            if isinstance(one, (int, float)):
                yield name, one
