"""Folders that appear whole or not at all: made under a hidden name, synced, renamed."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_folder(path: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Give an empty folder beside `path` that is this process' own until it is published.

    A second process waits for its turn and then gets an empty folder too. Whatever happens, the
    folder is gone afterwards, also what a killed process left in it.

    Args:
        path: where the finished folder will be.
        waiting: called once if another process has the folder now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / f".{path.name}.building"
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has just renamed or deleted it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        # the folder that we waited for may be gone: renamed or deleted by the one who had it
        if _is(folder, lock):
            break
        os.close(lock)
    try:
        for left_over in folder.iterdir():  # of a process that was killed
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        yield folder
    finally:
        if _is(folder, lock):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _is(folder: Path, lock: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def publish(folder: Path, path: Path) -> None:
    """Sync a folder and all files in it, and rename it to `path`, replacing what is there."""
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)
    if path.exists() and any(path.iterdir()):
        old = folder / ".replaced"
        os.rename(path, old)
        os.rename(folder, path)
        shutil.rmtree(path / old.name)
    else:
        os.rename(folder, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
