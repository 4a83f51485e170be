"""Training steps in several processes at once: whether runs side by side beat one with all threads.

`python -m plait.bench.together SHAPE PRECISION THREADS SECONDS` prints tokens per second.
"""

import statistics
import subprocess
import sys
import time

import torch

from plait.bench.contestants import ours, settings
from plait.bench.shapes import SHAPES

WARM_UP, SECONDS = 2, 6.0


def tokens_per_second(shape: str, precision: str, several: int, rounds: int) -> dict[str, float]:
    """Return the medians of: one run on a thread, one on all of them, one on each at a time.

    Raises:
        RuntimeError: a process failed; its last line says why.
    """
    ways = {
        "1 run, 1 thread": (1, 1),
        f"1 run, {several} threads": (1, several),
        f"{several} runs, 1 thread each": (several, 1),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (runs, threads) in ways.items():
            arguments = [shape, precision, str(threads), str(SECONDS)]
            command = [sys.executable, "-m", "plait.bench.together", *arguments]
            running = [
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for _ in range(runs)
            ]
            try:
                said = [process.communicate() for process in running]
            finally:
                for process in running:
                    process.kill()  # they have ended, unless we are interrupted
            for process, (_, trouble) in zip(running, said, strict=True):
                if process.returncode:
                    raise RuntimeError(f"measuring failed: {trouble.strip().splitlines()[-1:]}")
            found[way].append(sum(float(output) for output, _ in said))
    return {way: statistics.median(speeds) for way, speeds in found.items()}


def _measure(name: str, precision: str, seconds: float) -> float:
    shape = SHAPES[name]
    trained, batches = ours(shape.config(), precision, torch.device("cpu")), shape.batches()
    with settings(tuned=True):
        for _ in range(WARM_UP):
            trained.step(*next(batches))
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            trained.step(*next(batches))
            steps += 1
        return steps * shape.tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(_measure(sys.argv[1], sys.argv[2], float(sys.argv[4])))
