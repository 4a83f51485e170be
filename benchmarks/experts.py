"""Experts, forward and backward: share of the matrix ceiling by backend and shape.

    python benchmarks/experts.py [A,B,C,D,few]

Prints ratios of medians from one process, interleaved, fresh routing each time.
"""

import os
import sys
from collections.abc import Callable
from functools import partial

import torch

from plait import kernels
from plait.bench.measuring import interleaved, machine, product
from plait.kernels import processor

# tokens, width, experts, experts per token, expert width
SHAPES = {
    "A": (4096, 256, 16, 2, 256),
    "B": (2048, 256, 64, 8, 256),
    "C": (4096, 512, 16, 2, 512),
    "D": (4096, 512, 64, 8, 256),
    "few": (4096, 256, 64, 1, 256),  # 64 rows per expert
}
BACKENDS = ("reference", "cpu", "native")


def shares(name: str, bf16: bool, rounds: int = 5) -> tuple[float, dict[str, float]]:
    """Return the ceiling in FLOP/s, and each backend's share of it."""
    tokens, width, experts, k, inner = SHAPES[name]
    flops = 3 * tokens * k * 3 * 2 * width * inner
    x = torch.randn(tokens, width, requires_grad=True)
    up = (torch.randn(experts, 2 * inner, width) * 0.02).requires_grad_()
    down = (torch.randn(experts, width, inner) * 0.02).requires_grad_()
    weights = torch.rand(tokens, k, requires_grad=True)
    ceilings: list[float] = []
    measure = product(torch.bfloat16 if bf16 else torch.float32)

    def run(backend: str) -> None:
        ids = torch.randn(tokens, experts).topk(k).indices
        os.environ["PLAIT_KERNEL"] = backend
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = kernels.experts(x, ids, weights, up, down, "swiglu")
        y.sum().backward()
        x.grad = up.grad = down.grad = weights.grad = None

    contestants: dict[str, Callable[[], object]] = {b: partial(run, b) for b in BACKENDS}
    contestants["ceiling"] = lambda: ceilings.append(measure())
    seconds = interleaved(contestants, rounds)
    return max(ceilings), {b: flops / seconds[b] / max(ceilings) for b in BACKENDS}


def main(names: list[str]) -> None:
    processor.configure()
    print(machine())
    for name in names:
        for bf16 in (False, True):
            ceiling, found = shares(name, bf16)
            rounded = {backend: round(share, 2) for backend, share in found.items()}
            precision = "bf16" if bf16 else "fp32"
            print(f"{name} {precision} share of {ceiling / 1e9:.0f} GFLOP/s: {rounded}", flush=True)


if __name__ == "__main__":
    main((sys.argv[1] if len(sys.argv) > 1 else ",".join(SHAPES)).split(","))
