"""Experts, forward and backward: share of the matrix ceiling by backend and shape.

Fresh routing each time.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from plait.bench.measuring import interleaved, product, types
from plait.kernels.native import build
from plait.kernels.table import TABLE

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
    measure = product(torch.bfloat16 if bf16 else torch.float32, torch.device("cpu"))

    def run(compute: Callable[..., torch.Tensor]) -> None:
        ids = torch.randn(tokens, experts).topk(k).indices
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = compute(x, ids, weights, up, down, "swiglu")
        y.sum().backward()  # type: ignore[no-untyped-call]
        x.grad = up.grad = down.grad = weights.grad = None

    # past the table's own choice, so what it would have compiled is compiled here
    names = BACKENDS if build.load() is None else tuple(n for n in BACKENDS if n != "native")
    backends = [backend for backend in TABLE["experts"] if backend.name in names]
    contestants: dict[str, Callable[[], object]] = {b.name: partial(run, b.run) for b in backends}
    contestants["ceiling"] = lambda: ceilings.append(measure())
    seconds = interleaved(contestants, rounds)
    return max(ceilings), {b: flops / seconds[b] / max(ceilings) for b in names}


def lines() -> Iterator[str]:
    """Yield the shares of each shape, as they come."""
    for name in SHAPES:
        for bf16 in (dtype == torch.bfloat16 for dtype in types(torch.device("cpu"))):
            ceiling, found = shares(name, bf16)
            rounded = {backend: round(share, 2) for backend, share in found.items()}
            precision = "bf16" if bf16 else "fp32"
            yield f"{name} {precision} share of {ceiling / 1e9:.0f} GFLOP/s: {rounded}"
