"""Training: one resumable run, from a configuration and a folder to a result."""

from plait.training.checkpoint import CheckpointError
from plait.training.config import TrainConfig
from plait.training.interruption import Interrupted
from plait.training.loop import Diverged, train
from plait.training.run import Result, load_run, run_folder

__all__ = [
    "CheckpointError",
    "Diverged",
    "Interrupted",
    "Result",
    "TrainConfig",
    "load_run",
    "run_folder",
    "train",
]
