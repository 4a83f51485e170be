"""What bounds each part of a training step: its FLOPs, or the bytes that it moves at the least.

The limit of a part is the longer of FLOPs over the measured speed of a large product and bytes over
the measured speed of memory (a copy, reading and writing counted). Bytes are counted as if every
operand were read once and every result written once, and nothing stayed in a cache meanwhile.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from plait.bench.contestants import ours, settings
from plait.bench.measuring import product, threads, types
from plait.bench.shapes import SHAPES, STANDARD, Shape
from plait.config.counts import count
from plait.kernels import processor

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "experts forward": ("plait::experts_forward",),
    "experts backward": ("plait::experts_backward",),
    "attention": ("plait::attention_forward", "plait::attention_backward"),
    "projections, routers": ("aten::mm", "aten::addmm", "aten::bmm"),
    "head and loss": ("plait::linear_cross_entropy",),
    "norms": ("plait::rms_norm_forward", "plait::rms_norm_backward"),
    "clipping, AdamW": ("plait::total_norm", "plait::scale_", "aten::_fused_adamw_"),
}
"""The parts, by the operations that the profiler sees; all that is left is "other"."""
OTHER = "other"
WARM_UP, STEPS = 4, 3
"""steps; in the first ones the memory that is kept still grows, and its page faults are the cost"""


@dataclass(frozen=True)
class Part:
    """What a part of one step computes and moves at the least."""

    flops: float
    bytes: float

    def limit(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the seconds that it takes at the least."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def parts(shape: Shape, bf16: bool) -> dict[str, Part]:
    """Return the parts of a step, AdamW and float32 weights included."""
    number = 2 if bf16 else 4
    tokens, layers, width, k = shape.tokens, shape.layers, shape.width, shape.top_k
    pairs, inner, hidden = tokens * k, shape.expert_width, 2 * shape.expert_width
    bank = 3 * shape.experts * inner * width
    experts = 2 * pairs * 3 * inner * width

    def products(rows: int, inputs: int, outputs: int) -> Part:
        """Return a projection, its input gradient and its weight gradient."""
        moved = number * rows * (inputs + outputs) + 4 * inputs * outputs
        return Part(6 * rows * inputs * outputs, 3 * moved)

    square = products(tokens, width, width)
    router = products(tokens, width, shape.experts)
    head = products(tokens, width, shape.vocabulary)
    stored = count(shape.config()).stored
    return {
        "experts forward": Part(
            layers * experts,
            # x, h, each pair's output written and read, y
            layers * (number * (2 * tokens * width + pairs * (hidden + 2 * width)) + 4 * bank),
        ),
        "experts backward": Part(
            layers * 2 * experts,
            # x and dy twice, h read; a and dh written and read; each pair's dx the same; dx
            layers
            * (
                number * (5 * tokens * width + pairs * (3 * hidden + 2 * inner + 2 * width))
                + 8 * bank
            ),
        ),
        "attention": Part(
            # two products forward, of which a query sees half on average, and twice that back
            6 * layers * tokens * shape.sequence * width,
            layers * number * 12 * tokens * width,
        ),
        "projections, routers": Part(
            layers * (4 * square.flops + router.flops), layers * (4 * square.bytes + router.bytes)
        ),
        # logits are never kept whole, so only h, its gradient, the weights and theirs
        "head and loss": Part(
            head.flops, 2 * number * tokens * width + 2 * 4 * width * shape.vocabulary
        ),
        "norms": Part(0, (4 * layers + 1) * 5 * number * tokens * width),
        # the gradient for its norm; weight, gradient and two moments; all but the gradient again
        "clipping, AdamW": Part(0, 4 * 8 * stored),
    }


def seconds(shape: Shape, bf16: bool) -> dict[str, float]:
    """Return the mean seconds of a step's parts, as torch's profiler sees them."""
    precision = "bf16" if bf16 else "fp32"
    trained, batches = ours(shape.config(), precision, torch.device("cpu")), shape.batches()
    with settings(tuned=True):
        for _ in range(WARM_UP):
            trained.step(*next(batches))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(STEPS):
                trained.step(*next(batches))
    part_of = {name: part for part, names in OPERATIONS.items() for name in names}
    found = dict.fromkeys((*OPERATIONS, OTHER), 0.0)
    for event in seen.key_averages():
        found[part_of.get(event.key, OTHER)] += event.self_cpu_time_total / 1e6 / STEPS
    return found


def memory_speed(mebibytes: int = 256) -> float:
    """Return the bytes per second that a copy reads and writes, the best of five."""
    source = torch.zeros(mebibytes * 2**18)
    to = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        to.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


def lines(names: tuple[str, ...] = STANDARD) -> Iterator[str]:
    """Yield a line for each part of each shape: its limit, what it took, the share."""
    for name in names:
        shape = SHAPES[name]
        with threads(shape.threads):
            for dtype in types(torch.device("cpu")):
                yield from _lines(name, shape, dtype)


def _lines(name: str, shape: Shape, dtype: torch.dtype) -> Iterator[str]:
    bf16 = dtype == torch.bfloat16
    measure = product(dtype, torch.device("cpu"))
    with processor.products_under(processor.configure().fp32_setting):
        ceiling = max(measure() for _ in range(5))
    speed = memory_speed()
    yield (
        f"{name} {'bf16' if bf16 else 'fp32'}, {torch.get_num_threads()} threads: products "
        f"{ceiling / 1e9:.0f} GFLOP/s, memory {speed / 1e9:.1f} GB/s"
    )
    took, limits = seconds(shape, bf16), 0.0
    for part, of in parts(shape, bf16).items():
        limit = of.limit(ceiling, speed)
        limits += limit
        bound = "products" if of.flops / ceiling > of.bytes / speed else "memory"
        yield (
            f"  {part}: {of.flops / 1e9:.1f} GFLOP, {of.bytes / 1e6:.0f} MB, at least "
            f"{limit * 1e3:.1f} ms ({bound}), took {took[part] * 1e3:.1f}, {limit / took[part]:.2f}"
        )
    whole = sum(took.values())
    yield f"  {OTHER}: took {took[OTHER] * 1e3:.1f} ms"
    yield (
        f"  whole step: at least {limits * 1e3:.1f} ms, took {whole * 1e3:.1f}, "
        f"{limits / whole:.2f}"
    )
