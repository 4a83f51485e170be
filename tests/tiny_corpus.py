"""The corpus of half a megabyte that most tests read: built once by a process, then copied."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from plait.data import Corpus, corpora


def tiny(path: Path) -> Corpus:
    """Put it into a folder that is not there yet, as `plait.data.corpora.tiny` does."""
    shutil.copytree(_built(), path)
    return Corpus.open(path)


@functools.cache
def _built() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return corpora.tiny(folder / "tiny").path
