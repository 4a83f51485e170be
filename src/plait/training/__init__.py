"""Training: one resumable run, from a configuration and a folder to a result."""

from plait.training.interruption import Interrupted
from plait.training.loop import Diverged, train

__all__ = ["Diverged", "Interrupted", "train"]
