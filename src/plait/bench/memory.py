"""Peak memory of a training step above the model's own, in a process of its own.

`python -m plait.bench.memory WHO SHAPE PRECISION DEVICE THREADS` prints bytes.
"""

import subprocess
import sys

import torch

from plait.bench.contestants import ours, settings, theirs
from plait.bench.measuring import forget_peak, resident_bytes
from plait.bench.shapes import SHAPES

STEPS = 3


def peak_above_model(who: str, shape: str, precision: str, device: str) -> int:
    """Return the bytes measured in a fresh process; `who` is "plait" or a transformers' way."""
    command = [sys.executable, "-m", "plait.bench.memory", who, shape, precision, device]
    command.append(str(torch.get_num_threads()))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.split()[-1])


def _measure(who: str, shape: str, precision: str, device: str) -> int:
    """Measure here. The model's own: weights and optimizer state, without gradients."""
    sizes = SHAPES[shape]
    batches, place = sizes.batches(), torch.device(device)
    if who == "plait":
        trained = ours(sizes.config(), precision, place)
    else:
        trained = theirs(sizes, precision, place)
    if who != "plait":
        trained.model.set_experts_implementation(who)  # type: ignore[operator]
    with settings(tuned=who == "plait"):
        trained.step(*next(batches))
        forget_peak(place)
        before = resident_bytes(place)
        for _ in range(STEPS):
            trained.step(*next(batches))
        return resident_bytes(place, peak=True) - before


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    print(_measure(*sys.argv[1:5]))
