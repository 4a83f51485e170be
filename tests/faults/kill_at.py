"""`plait`, killed by SIGKILL just before the n-th change that it makes to the disk's names.

    python kill_at.py N COUNT-FILE WORDS …

With N = 0 it is not killed, and COUNT-FILE holds the number of such changes afterwards.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

number, counted, words = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
calls = 0


def killing(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    return call


for name in ("rename", "replace", "fsync", "mkdir"):
    setattr(os, name, killing(getattr(os, name)))
shutil.rmtree = killing(shutil.rmtree)

from plait.cli import main  # noqa: E402  after the changes

try:
    main(words)
finally:
    counted.write_text(str(calls))
