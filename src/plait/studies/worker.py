"""One run of a study in a process of its own: `python -m plait.studies.worker RUN-FOLDER`.

The parent writes `config.yaml` and holds the other end of standard input: when that closes, the
parent is gone, and the run saves its checkpoint and stops rather than train on unseen.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from plait.storage.lease import HELD
from plait.storage.run_folder import HeldError, RunFolder
from plait.training import Interrupted, train


def main(
    folder: Path,
    device: str | None = None,
    compile: bool = False,
    checkpoints: str | None = None,
) -> int:
    """Train what `config.yaml` says; 0 when finished, 1 with the reason on stderr, or `HELD`."""
    threading.Thread(target=_stop_when_parent_is_gone, daemon=True).start()
    try:
        train(
            RunFolder(folder).config(),
            folder,
            device=device,
            compile=compile,
            checkpoints=checkpoints,
        )
    except HeldError:
        return HELD
    except (ValueError, OSError, Interrupted) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _stop_when_parent_is_gone() -> None:
    os.read(sys.stdin.fileno(), 1)  # the raw call: a lock on stdin would outlive this thread
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoints")
    sys.exit(main(**vars(parser.parse_args())))
