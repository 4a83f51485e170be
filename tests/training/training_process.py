"""What runs in the real processes of these tests."""

import resource
import sys

import torch

from plait.training import Interrupted, train


def run(config, folder, threads=1, largest_file=None):
    """Train as the command line would: one line on an error, exit code 1."""
    torch.set_num_threads(threads)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        train(config, folder, device="cpu")
    except (ValueError, Interrupted) as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
