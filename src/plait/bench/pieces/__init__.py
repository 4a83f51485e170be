"""What each piece of a training step costs on this machine's CPU."""

from collections.abc import Callable, Iterator

from plait.bench.pieces import experts, growth, optimizers, roofline, step_parts

PIECES: dict[str, Callable[[], Iterator[str]]] = {
    "experts": experts.lines,
    "step-parts": step_parts.lines,
    "optimizers": optimizers.lines,
    "growth": growth.lines,
    "roofline": roofline.lines,
}
