"""The command that measures speed."""

from pathlib import Path

from plait.cli.output import console


def bench(
    shapes: tuple[str, ...] = ("A", "B", "C", "D"),
    precision: tuple[str, ...] = ("fp32", "bf16"),
    rounds: int = 5,
    json: Path | None = None,
    memory: bool = True,
    extras: bool = True,
) -> None:
    """Measure our speed against transformers' on this machine, in one run.

    Args:
        shapes: names of shapes, such as A B.
        precision: fp32, bf16 or both.
        rounds: timed training steps of each contestant; medians are printed.
        json: file to write the figures to.
        memory: measure peak memory too, each side in a process of its own.
        extras: measure decoding, tied and shared twins and collaboration too.
    """
    from plait import bench as benchmark

    benchmark.run(shapes, precision, json, rounds, memory, extras, console)
