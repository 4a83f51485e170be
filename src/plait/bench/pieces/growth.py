"""How cost grows: tokens/s of a training step against experts, depth, sequence, batch and threads.

In bf16 where the processor has units for it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from plait.bench.comparison import interleaved_steps
from plait.bench.measuring import threads
from plait.bench.shapes import SHAPES, Shape
from plait.bench.together import tokens_per_second
from plait.kernels import processor
from plait.report.growth_figure import write_growth

ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """One measured size: `speed` is tokens/s over those of the first size of its direction."""

    shape: str
    direction: str
    at: int | str
    speed: float


def directions(base: Shape) -> Mapping[str, Mapping[int, Shape]]:
    """Return the sizes to measure in each direction, from small to large."""
    tokens, short = base.tokens, min(base.sequence, 128)
    steps = [n for n in (1, 4, 16, 64) if tokens >= short * n]
    return {
        f"experts, {base.top_k} per token": {
            n: replace(base, experts=n) for n in (4, 8, 16, 32, 64)
        },
        f"experts per token, of {base.experts}": {n: replace(base, top_k=n) for n in (1, 2, 4, 8)},
        "depth": {n: replace(base, layers=n) for n in (2, 4, 8, 16)},
        f"sequence, at {tokens} tokens a step": {
            short * n: replace(base, sequence=short * n, batch=tokens // (short * n)) for n in steps
        },
        f"batch, sequences of {base.sequence}": {
            n: replace(base, batch=n) for n in (2, 4, 8, 16, 32)
        },
    }


def points(names: tuple[str, ...] = ("nano", "A")) -> Iterator[Point]:
    """Measure each direction from each shape, its sizes in turn; then the threads.

    Raises:
        RuntimeError: a process of its own failed; its last line says why.
    """
    precision = "bf16" if processor.multiplies_bf16() else "fp32"
    for name in names:
        with threads(SHAPES[name].threads):
            for direction, shapes in directions(SHAPES[name]).items():
                sizes = {str(n): shape for n, shape in shapes.items()}
                cpu = torch.device("cpu")
                seconds = interleaved_steps(sizes, precision, cpu, rounds=ROUNDS)
                speeds = {n: shape.tokens / seconds[str(n)] for n, shape in shapes.items()}
                first = next(iter(speeds.values()))
                yield from (Point(name, direction, n, v / first) for n, v in speeds.items())
        several = torch.get_num_threads()
        if several > 1:
            ways = tokens_per_second(name, precision, several, ROUNDS)
            first = next(iter(ways.values()))
            yield from (Point(name, "threads", way, v / first) for way, v in ways.items())


def lines(names: tuple[str, ...] = ("nano", "A"), figure: Path | None = None) -> Iterator[str]:
    """Yield a line for each shape and direction, relative to its first entry.

    Args:
        names: of the shapes to begin from.
        figure: .svg or .png to draw them into.
    """
    measured = list(points(names))
    if figure is not None:
        write_growth([asdict(point) for point in measured], figure)
    found: dict[tuple[str, str], list[str]] = {}
    for point in measured:
        key = point.shape, point.direction
        found.setdefault(key, []).append(f"{point.at}: {point.speed:.2f}")
    for (shape, direction), entries in found.items():
        yield f"{shape}, {direction}: {', '.join(entries)}"
