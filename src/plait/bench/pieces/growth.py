"""How cost grows: tokens/s of a whole training step against experts, depth and sequence length."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from plait.bench.comparison import interleaved_steps
from plait.bench.shapes import SHAPES, Shape
from plait.kernels import processor


def lines() -> Iterator[str]:
    """Yield a line for each direction of growth, relative to its first entry; in bf16 if it may."""
    cpu = torch.device("cpu")
    precision = "bf16" if processor.multiplies_bf16() else "fp32"
    a = SHAPES["A"]
    dense = replace(a, experts=1, top_k=1, expert_width=a.top_k * a.expert_width)
    directions: dict[str, dict[str | int, Shape]] = {
        "dense of the same active width, then shape A": {"dense": dense, "A": a},
        "experts (K = 2)": {n: replace(a, experts=n) for n in (4, 16, 64)},
        "experts per token (E = 16)": {n: replace(a, top_k=n) for n in (1, 2, 4, 8)},
        "depth": {n: replace(a, layers=n) for n in (3, 6, 12)},
        "sequence, at 4096 tokens": {
            n: replace(a, sequence=n, batch=4096 // n) for n in (256, 1024, 4096)
        },
    }
    for name, shapes in directions.items():
        seconds = interleaved_steps(
            {str(n): s for n, s in shapes.items()}, precision, cpu, rounds=3
        )
        speeds = {str(n): shape.tokens / seconds[str(n)] for n, shape in shapes.items()}
        first = next(iter(speeds.values()))
        yield f"{name}: " + ", ".join(f"{n} {v / first:.2f}" for n, v in speeds.items())
