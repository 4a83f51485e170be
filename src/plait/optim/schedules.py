"""Learning-rate schedules: pure functions from tokens seen to a factor on the peak rate.

Tokens rather than steps, so that a schedule means the same at any batch size. The loop takes the
factor at the middle of each step, so that neither the first nor the last step is lost to a 0.
"""

import math
from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls over a run."""

    name: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: half a cosine after the warm-up; wsd: stay, then a linear fall; constant: stay"""
    warmup: int = 0
    """tokens over which the rate rises from 0"""
    decay: int = 0
    """wsd: tokens over which it falls at the end"""
    floor: float = 0.0
    """share of the peak rate at the end; 0 for constant, which has no end"""

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup is {self.warmup}: tokens, 0 or more")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"schedule.floor is {self.floor}: a share of the peak, in [0, 1]")
        if (self.name == "wsd") != (self.decay > 0):
            raise ValueError(
                "schedule.decay belongs to wsd: set it there, in tokens, and only there"
            )
        if self.name == "constant" and self.floor:
            raise ValueError("schedule.floor has no meaning for constant: unset it")

    def factor(self, tokens: int, total: int) -> float:
        """Return the factor on the peak rate at ``tokens`` of ``total``."""
        if self.name == "cosine":
            return cosine(tokens, total=total, warmup=self.warmup, floor=self.floor)
        if self.name == "wsd":
            return wsd(tokens, total=total, warmup=self.warmup, decay=self.decay, floor=self.floor)
        return constant(tokens, warmup=self.warmup)
