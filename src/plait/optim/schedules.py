"""Learning-rate schedules: pure functions from tokens seen to a factor on the peak rate.

Tokens rather than steps, so that a schedule means the same at any batch size. The loop takes the
factor at the middle of each step, so that neither the first nor the last step is lost to a 0.
"""

import math

from plait.config import ScheduleConfig


def warmed(tokens: int, warmup: int) -> float:
    """Linear rise from 0 to 1 over `warmup` tokens, then 1."""
    return min(1.0, tokens / warmup) if warmup > 0 else 1.0


def constant(tokens: int, *, warmup: int = 0) -> float:
    """Warm-up, then 1."""
    return warmed(tokens, warmup)


def cosine(tokens: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Warm-up, then half a cosine from 1 to `floor` at `total` tokens (arXiv 1608.03983)."""
    if tokens < warmup:
        return warmed(tokens, warmup)
    done = min(1.0, (tokens - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def linear(tokens: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Warm-up, then a straight fall from 1 to `floor` at `total` tokens (arXiv 2310.07831)."""
    if tokens < warmup:
        return warmed(tokens, warmup)
    done = min(1.0, (tokens - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 - done)


def wsd(tokens: int, *, total: int, warmup: int = 0, decay: int, floor: float = 0.0) -> float:
    """Warm-up, stay at 1, then fall linearly to `floor` over the last `decay` tokens.

    Source: arXiv 2404.06395 (warm-up, stable, decay).
    """
    left = max(0, total - tokens)
    if left >= decay:
        return warmed(tokens, warmup)
    return min(warmed(tokens, warmup), floor + (1 - floor) * left / decay)


def factor(config: ScheduleConfig, tokens: int, total: int) -> float:
    """Return the factor on the peak rate at `tokens` of `total`."""
    warmup, floor = config.warmup, config.floor
    if config.name == "cosine":
        return cosine(tokens, total=total, warmup=warmup, floor=floor)
    if config.name == "linear":
        return linear(tokens, total=total, warmup=warmup, floor=floor)
    if config.name == "wsd":
        return wsd(tokens, total=total, warmup=warmup, decay=config.decay, floor=floor)
    return constant(tokens, warmup=warmup)
