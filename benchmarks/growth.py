"""How cost grows: tokens/s of a whole training step against experts, depth and sequence length.

    python benchmarks/growth.py [bf16|fp32]

Each line of figures comes from one interleaved run, relative to its first entry.
"""

import sys
from dataclasses import replace

import torch

from plait.bench import interleaved_steps
from plait.bench.measuring import machine
from plait.bench.shapes import SHAPES, Shape
from plait.kernels import processor


def main(precision: str) -> None:
    processor.configure()
    print(machine(), precision)
    a = SHAPES["A"]
    dense = replace(a, experts=1, top_k=1, expert_width=a.top_k * a.expert_width)
    lines: dict[str, dict[str | int, Shape]] = {
        "dense of the same active width, then shape A": {"dense": dense, "A": a},
        "experts (K = 2)": {n: replace(a, experts=n) for n in (4, 16, 64)},
        "experts per token (E = 16)": {n: replace(a, top_k=n) for n in (1, 2, 4, 8)},
        "depth": {n: replace(a, layers=n) for n in (3, 6, 12)},
        "sequence, at 4096 tokens": {
            n: replace(a, sequence=n, batch=4096 // n) for n in (256, 1024, 4096)
        },
    }
    for name, shapes in lines.items():
        seconds = interleaved_steps({str(n): s for n, s in shapes.items()}, precision, rounds=3)
        speeds = {str(n): shape.tokens / seconds[str(n)] for n, shape in shapes.items()}
        first = next(iter(speeds.values()))
        print(
            name, {n: f"{v / first:.2f} ({v:.0f} tokens/s)" for n, v in speeds.items()}, flush=True
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1] if len(sys.argv) > 1 else "bf16")
