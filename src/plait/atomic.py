"""Files and folders that appear whole or not at all: made under a hidden name, synced, renamed.

Everything that is written to stay goes through here. A process that dies leaves the old file or
folder as it was, and at the most a hidden one beside it, which the next try sweeps away.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(error: BaseException) -> bool:
    """Whether there was no room to write; libraries in Rust say so in their message alone."""
    said = str(error)
    return getattr(error, "errno", None) in _FULL or any(f"(os error {n})" in said for n in _FULL)


@contextmanager
def new_file(path: Path, size: int | None = None) -> Iterator[Path]:
    """Give a path to write to, whose file takes the name `path` when all went well.

    What stood at `path` is replaced; after an error it is still there, and nothing else is.

    Args:
        path: of the file.
        size: its bytes, where they are known: what the disk lacks is then said before it is full.

    Raises:
        OSError: the disk lacks room; the message names the file and the bytes.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not _alive(left_over.name.split(".")[-2]):
            left_over.unlink(missing_ok=True)
    require_room(path, size or 0)
    try:
        try:
            yield partial
        except Exception as error:
            if not disk_full(error):
                raise
            written = partial.stat().st_size if partial.exists() else 0
            of = "" if size is None else f" of {size:,}"
            said = f"the disk was full after {written:,}{of} bytes"
            raise OSError(errno.ENOSPC, said, str(path)) from error
        # as public as what it replaces or as its folder, though some libraries write private files
        partial.chmod((path if path.is_file() else path.parent).stat().st_mode & 0o666)
        sync(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None:  # a write that fails does not say where
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def require_room(path: Path, size: int) -> None:
    """Make sure that the disk where `path` is to be has room for `size` bytes.

    Raises:
        OSError: it has not; the message names the file and the bytes that it lacks.
    """
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    lacking = size - shutil.disk_usage(folder).free
    if lacking > 0:
        said = f"the disk lacks {lacking:,} of the {size:,} bytes that it takes"
        raise OSError(errno.ENOSPC, said, str(path))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file."""
    data = text.encode()
    with new_file(path, len(data)) as partial:
        partial.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the name `path` when all went well.

    Args:
        path: of the folder.
        replaces: names of files and folders in `path` that this one stands for anew. Where it holds
            nothing else it is replaced as a whole.

    Raises:
        ValueError: there is something of that name already, other than an empty folder.
        OSError: the disk is full.
    """
    path = Path(path)
    try:
        with own_folder(path) as folder:
            if path.exists() and not path.is_dir():
                raise ValueError(f"{path} is a file: choose another place, or remove it")
            held = [p.name for p in path.iterdir()] if path.exists() else []
            if strangers := [name for name in held if name not in replaces]:
                raise ValueError(
                    f"{path} is there already and holds {strangers[0]}: choose another place, or "
                    "remove it"
                )
            yield folder
            publish(folder, path)
    except Exception as error:
        if disk_full(error) and not isinstance(error, OSError):  # a library's, which names no file
            raise OSError(errno.ENOSPC, "the disk is full, nothing was kept", str(path)) from error
        raise


@contextmanager
def own_folder(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Give an empty folder beside `path` that is this process' own until it is published.

    A second process waits for its turn and then gets an empty folder too. Whatever happens, the
    folder is gone afterwards, also what a killed process left in it.

    Args:
        path: where the finished folder will be.
        waiting: called once if another process has the folder now.
    """
    with locked_folder(path, waiting) as (folder, _):
        yield folder


@contextmanager
def locked_folder(
    path: Path, waiting: Callable[[], None] = lambda: None
) -> Iterator[tuple[Path, int]]:
    """Give what `own_folder` does, and the descriptor of its lock.

    Processes that inherit the descriptor hold the lock too: should this one be killed, the next
    waits until all of them are gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.partial")
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
        yield folder, lock
    finally:
        if _is(folder, lock):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def publish(folder: Path, path: Path) -> None:
    """Sync a folder with all that is in it, and rename it to `path`, replacing what is there."""
    for found in (*folder.rglob("*"), folder):
        sync(found)
    replaced = _removed(path)
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(path, replaced)
    os.rename(folder, path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a folder that nobody may see half deleted: first its name, then its files."""
    if path.exists():
        hidden = _removed(path)
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what killed processes left of files and folders that they were making in `folder`.

    To be called by the one process that writes in there.
    """
    for left_over in (*folder.glob(".*partial*"), *folder.glob(".*removed*")):
        shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(process: str) -> bool:
    """Whether a process of this number is there, ours or another's."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True
    return True


def _removed(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.removed")


def _is(folder: Path, lock: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False
