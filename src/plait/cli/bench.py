"""The command that measures speed."""

from itertools import chain
from pathlib import Path
from typing import Literal

from plait.cli.output import console, say


def bench(
    shapes: tuple[str, ...] = ("N", "A", "B", "C", "D"),
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
        shapes: names of shapes, such as A B.
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
        from plait.bench.pieces import PIECES, growth
        from plait.kernels import processor

        processor.configure()
        say(", ".join(f"{key} {value}" for key, value in machine(torch.device("cpu")).items()))
        measured = PIECES | {"growth": lambda: growth.lines(figure=figure)}
        for line in chain.from_iterable(measured[piece]() for piece in pieces):
            say(line)
        return
    from plait.bench.comparison import run

    run(shapes, precision, json, rounds, memory, extras, device, console, compiled)
