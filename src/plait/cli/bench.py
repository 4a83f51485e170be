"""The command that measures speed."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from plait.cli.output import console, say


def bench(
    shapes: tuple[str, ...] = (),
    precision: tuple[str, ...] = ("fp32", "bf16"),
    rounds: int = 5,
    json: Path | None = None,
    memory: bool = True,
    extras: bool = True,
    pieces: tuple[Literal["experts", "step-parts", "optimizers", "growth", "roofline"], ...] = (),
    figure: Path | None = None,
    device: str = "cpu",
    compiled: bool = False,
) -> None:
    """Measure our speed against transformers' on this machine, in one run.

    Args:
        shapes: names of shapes, such as A B; none: N A B C D, or those that a piece is shown at.
        precision: fp32, bf16 or both.
        rounds: timed training steps of each contestant; medians are printed.
        json: file to write the figures to.
        memory: measure peak memory too, each side in a process of its own.
        extras: measure decoding, tied and shared twins and collaboration too.
        pieces: measure what single pieces of a step cost on the CPU instead, line by line.
        figure: .svg or .png that the piece growth is drawn into.
        device: that the training steps run on, as torch names it.
        compiled: measure both sides under torch.compile too, as is always done on CUDA.
    """
    if pieces:
        import torch

        from plait.bench.measuring import machine
        from plait.bench.pieces import PIECES, growth, optimizers, roofline
        from plait.bench.shapes import require_shapes
        from plait.kernels import processor

        if shapes and (fixed := {"experts", "step-parts"} & {*pieces}):
            raise ValueError(f"--pieces {min(fixed)} has sizes of its own: leave out --shapes")
        require_shapes(shapes)
        processor.configure()
        say(", ".join(f"{key} {value}" for key, value in machine(torch.device("cpu")).items()))
        named = {"names": shapes} if shapes else {}
        measured = PIECES | {
            "growth": partial(growth.lines, figure=figure, **named),
            "optimizers": partial(optimizers.lines, **named),
            "roofline": partial(roofline.lines, **named),
        }
        for line in chain.from_iterable(measured[piece]() for piece in pieces):
            say(line)
        return
    from plait.bench.comparison import run
    from plait.bench.shapes import STANDARD

    run(shapes or STANDARD, precision, json, rounds, memory, extras, device, console, compiled)
