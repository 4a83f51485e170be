"""Learning-rate schedules: pure functions from tokens seen to a factor on the peak rate.

Tokens rather than steps, so that a schedule means the same at any batch size. The factor for a step
is taken at the tokens seen *with* that step: the first is above zero and the last meets the floor.
"""

import math


def warmed(tokens: int, warmup: int) -> float:
    """Linear rise from 0 to 1 over ``warmup`` tokens, then 1."""
    return min(1.0, tokens / warmup) if warmup > 0 else 1.0


def constant(tokens: int, *, warmup: int = 0) -> float:
    """Warm-up, then 1."""
    return warmed(tokens, warmup)


def cosine(tokens: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Warm-up, then half a cosine from 1 to ``floor`` at ``total`` tokens (arXiv 1608.03983)."""
    if tokens < warmup:
        return warmed(tokens, warmup)
    done = min(1.0, (tokens - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def wsd(tokens: int, *, total: int, warmup: int = 0, decay: int, floor: float = 0.0) -> float:
    """Warm-up, stay at 1, then fall linearly to ``floor`` over the last ``decay`` tokens.

    Source: arXiv 2404.06395 (warm-up, stable, decay).
    """
    left = max(0, total - tokens)
    if left >= decay:
        return warmed(tokens, warmup)
    return min(warmed(tokens, warmup), floor + (1 - floor) * left / decay)
