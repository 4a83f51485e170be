"""What the processes of `test_torchrun.py` do; it imports little."""

import os
import sys

from plait.cli import main


def run_in_turn(rank, commands, folder, outputs):
    """Run commands in a folder as the command line does, and keep what is printed."""
    os.chdir(folder)
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="120")
    sys.stdout = (outputs / f"{rank}.out").open("w")
    sys.stderr = (outputs / f"{rank}.err").open("w")
    for words in commands:
        try:
            main(words)
        except SystemExit as end:
            if end.code:
                raise
    sys.stdout.close()
    sys.stderr.close()
