"""How many runs at a time are fastest here: N that share the threads, or one with all of them.

A few steps tell. `python -m plait.studies.throughput CONFIG.yaml` trains them and prints its tokens
per second; `measure` starts it once with all threads, then several times at once.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.atomic import write_json
from plait.config import TrainConfig
from plait.config.counts import count
from plait.config.files import config_hash, load_yaml, save_yaml
from plait.reading import read_json

WARM_UP, SECONDS, LEAST_STEPS = 3, 4.0, 3
FILE = "throughput.json"
BYTES_A_PROCESS = 400_000_000
"""of Python and torch, before there is a model"""
BYTES_A_PARAMETER = 32
"""weight, gradient, two moments, and as much again for what a step keeps"""


@dataclass(frozen=True)
class Throughput:
    """Tokens per second of one run with all threads, and of several together."""

    several: int
    alone: float
    together: float

    @property
    def jobs(self) -> int:
        """Runs at a time that are fastest; one where they hardly differ, since it ends sooner."""
        return self.several if self.together > 1.05 * self.alone else 1

    @property
    def best(self) -> float:
        """Tokens per second of the whole machine, so divided."""
        return max(self.alone, self.together) if self.jobs > 1 else self.alone


def threads() -> int:
    """Threads that this process may use: OMP_NUM_THREADS where set, else its processors."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdigit() and int(chosen):
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_at_once(config: TrainConfig, runs: int) -> int:
    """Runs that threads, waiting runs and memory leave room for: at least one."""
    own = BYTES_A_PROCESS + BYTES_A_PARAMETER * count(config.model).stored
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(threads(), runs, memory // (2 * own)))


def measure(config: TrainConfig, folder: Path, runs: int) -> Throughput:
    """Measure on this machine, once for each configuration: the answer is kept in `folder`.

    Args:
        config: of a run like those that wait.
        folder: of the study.
        runs: that wait.
    """
    several = most_at_once(config, runs)
    path, key = folder / FILE, f"{config_hash(config)} {threads()} {several}"
    known: dict[str, Any] = {}
    if path.is_file():
        known = read_json(path, "delete it")
    kept = known.get(key)
    if isinstance(kept, dict) and {*kept} == {"alone", "together"}:
        return Throughput(several, **kept)
    with tempfile.TemporaryDirectory() as place:
        configuration = Path(place) / "config.yaml"
        save_yaml(config, configuration)
        alone = _tokens_per_second(configuration, processes=1)
        together = alone if several == 1 else _tokens_per_second(configuration, several)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {**known, key: {"alone": alone, "together": together}})
    return Throughput(several, alone, together)


def _tokens_per_second(configuration: Path, processes: int) -> float:
    """Sum over processes that run at the same time and share the threads.

    Raises:
        ValueError: one of them failed; its last line says why.
    """
    each = str(threads() // processes)
    environment = os.environ | {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}
    command = [sys.executable, "-m", "plait.studies.throughput", str(configuration)]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(processes)
    ]
    try:
        said = [process.communicate() for process in running]
    finally:
        for process in running:
            process.kill()  # they have ended, unless we are interrupted
    for process, (_, trouble) in zip(running, said, strict=True):
        if process.returncode:
            raise ValueError(trouble.strip().splitlines()[-1] if trouble.strip() else "no message")
    return sum(float(output) for output, _ in said)


class _Enough(Exception):
    """Thrown out of the loop, so that no checkpoint is written."""


def main(configuration: Path) -> None:
    """Train a few steps and print tokens per second."""
    from plait.training import train

    config = load_yaml(TrainConfig, configuration)
    began: list[float] = []

    def progress(row: Any) -> None:
        if "tokens_per_second" not in row:
            return
        began.append(time.perf_counter())
        steps = len(began) - WARM_UP
        if steps >= LEAST_STEPS and began[-1] - began[WARM_UP - 1] > SECONDS:
            raise _Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Enough):
        train(config, Path(folder) / "run", progress=progress, device="cpu")
    warm = min(WARM_UP, len(began)) - 1  # a run may be shorter than that
    steps, seconds = len(began) - 1 - warm, began[-1] - began[warm]
    print(steps * config.tokens_per_step / seconds if steps else 1.0)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
