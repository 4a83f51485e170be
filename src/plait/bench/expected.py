"""How long the bench will take, said before it begins and mended as it goes on."""

import time
from collections.abc import Mapping, Sequence

import torch

from plait.bench import measuring
from plait.bench.contestants import IMPLEMENTATIONS
from plait.bench.memory import STEPS
from plait.bench.shapes import Shape
from plait.config.counts import count
from plait.report.numbers import duration

SHARE = 0.3
"""of the speed of a float32 product, that a step has on the average of both sides"""
START = 10.0
"""seconds that a process of its own takes to begin, and about those that decoding takes"""
COMPILING = 120.0
"""seconds that torch.compile takes for both sides, by guess; a busy core takes far longer"""


def steps_here(
    shape: Shape, precisions: Sequence[str], rounds: int, extras: bool, compiled: bool = False
) -> int:
    """Return how many whole training steps of a shape this process takes, timed or not."""
    each = 2 * rounds  # once untimed, once timed
    whole = each * (2 + 2 * len(IMPLEMENTATIONS))  # ours, and theirs with our kernel and its own
    steps = whole * len(precisions) * len(shape.optimizers)
    if "bf16" in precisions:
        steps += each * (1 + len(IMPLEMENTATIONS))  # against weights in bf16
    if compiled:
        steps += each * (2 + len(IMPLEMENTATIONS)) * len(precisions)
    return steps + (each * (1 + len(shape.variants())) if extras else 0)


def expected_seconds(
    shape: Shape,
    precisions: Sequence[str],
    rounds: int,
    memory: bool,
    extras: bool,
    device: torch.device,
    compiled: bool = False,
) -> float:
    """Return about how long a shape takes here, from its FLOPs and the speed of one product."""
    with measuring.threads(shape.threads):
        product = measuring.product(torch.float32, device, size=1024)
        speed = SHARE * max(product() for _ in range(3))
    processes = 2 * len(precisions) if memory else 0
    steps = steps_here(shape, precisions, rounds, extras, compiled) + processes * (1 + STEPS)
    a_step = count(shape.config()).flops_training * shape.tokens
    others = START * (processes + extras) + COMPILING * compiled * len(precisions)
    return steps * a_step / speed + others


class Clock:
    """What is expected of each part of the work, held against what has passed."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.left = dict(expected)
        self.passed = 0.0
        self.began = self.before = time.perf_counter()

    def begin(self) -> str:
        """Say how long all of it takes."""
        return f"about {duration(sum(self.left.values()))} on this machine"

    def done(self, part: str) -> str:
        """Say how long a part took, and at this pace what is left."""
        now = time.perf_counter()
        took, self.before = now - self.before, now
        self.passed += self.left.pop(part)
        left = sum(self.left.values()) * (now - self.began) / self.passed
        return duration(took) + (f", about {duration(left)} to go" if self.left else "")
