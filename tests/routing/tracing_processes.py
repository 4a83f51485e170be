"""What one process and several are asked; nothing that is imported here takes long."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from plait.model import LanguageModel
from plait.parallel import World
from plait.routing import Passage, Trace, perturb, trace_model, trace_to_file, watch
from plait.routing.perturb import Robustness, robustness

PATHS = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
RECORD = import_module("plait.routing.record")


def small_batches(setattr: Callable[[object, str, int], None] = setattr) -> None:
    """Make many batches of little text."""
    for module in (RECORD, perturb):
        setattr(module, "BATCH_TOKENS", 256)


@dataclass
class Found:
    """What a process has in the end, and how many forwards it ran for that."""

    trace: Trace
    tracing: int
    perturbed: list[Robustness]
    perturbing: int


def trace_and_perturb(
    model: LanguageModel, passages: list[Passage], path: Path, world: World | None = None
) -> Found:
    """Trace, into memory and into a file, and perturb."""
    forwards: list[object] = []
    model.register_forward_hook(lambda *_: forwards.append(None))
    trace = trace_model(model, passages, logits=True, world=world)
    tracing = len(forwards)
    trace_to_file(model, passages, path, logits=True, world=world)
    assert len(forwards) == 2 * tracing
    perturbed = robustness(
        watch(model), passages, frequent_paths=PATHS, noise=(0.5,), draws=2, world=world
    )
    return Found(trace, tracing, perturbed, len(forwards) - 2 * tracing)


def be_rank(rank: int, model: LanguageModel, passages: list[Passage], folder: Path) -> None:
    """Do the above with the other processes, and keep what this one has."""
    small_batches()
    path = folder / f"{rank}.parquet"
    found = trace_and_perturb(model, passages, path, World.of_copies("cpu"))
    torch.save(found, folder / f"{rank}.pt")
