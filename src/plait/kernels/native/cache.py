"""Which compiled library is believed: one that nobody else can have written, and that is whole.

A library stands in a folder of its own with a record of its SHA-256, of what it was built from and
of where it was tried. Folder and record appear together or not at all (`plait.atomic`).
"""

import hashlib
import json
import logging
import os
import platform
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plait.atomic import publish, remove, write_json

LIBRARY, RECORD = "plait.so", "record.json"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


def places() -> Iterator[Path]:
    """Give the folders for kernels in which only this user and root can put or exchange anything.

    The first is in the cache folder (`PLAIT_CACHE`, else `~/.cache/plait`). Where others could
    plant a library, a line says so and the next is the one in the home folder: the minute of
    compiling is spent once, and Python's kernels would be slower in every run.
    """
    home = Path.home() / ".cache" / "plait"
    for cache in dict.fromkeys((Path(os.environ.get("PLAIT_CACHE") or home), home)):
        # what a link in the path names later does not matter any more
        folder = (cache / "kernels").resolve()
        danger = _danger(folder)
        if danger is None:
            yield folder
        else:
            log.warning("no compiled kernels are kept in %s: %s", folder, danger)


def ready(entry: Path, built_from: dict[str, str]) -> bool:
    """Whether an entry's library may be loaded: without a flaw, and tried on this system."""
    return flaw(entry, built_from) is None and system() in _read(entry).get("tried", [])


def flaw(entry: Path, built_from: dict[str, str]) -> str | None:
    """Return why an entry's library must not even be tried, or None."""
    try:
        for path in (entry, entry / RECORD, entry / LIBRARY):
            problem = _exposed(path, stat.S_ISDIR if path == entry else stat.S_ISREG)
            if problem is not None:
                return f"{path.name} {problem}"
        record = _read(entry)
        if not record:
            return f"{RECORD} cannot be understood"
        if record["built_from"] != built_from:
            return "it was built from something else"
        if record["sha256"] != _sha256(entry / LIBRARY):
            return f"{LIBRARY} is not the file that was built: its SHA-256 differs"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return str(error)
    return None


def store(folder: Path, entry: Path, built_from: dict[str, str], compiler: str) -> None:
    """Make a folder that holds a library which was tried here into an entry, replacing the old."""
    write_json(
        folder / RECORD,
        {
            "sha256": _sha256(folder / LIBRARY),
            "built_from": built_from,
            "compiler": compiler,
            "tried": [system()],
        },
    )
    if entry.is_symlink() or entry.is_file():
        entry.unlink()
    remove(entry)
    publish(folder, entry)


def keep_others_out(path: Path) -> None:
    """Take from other users the right to write to what this user has made, whatever the umask."""
    mode = path.stat().st_mode
    if mode & OTHERS_WRITE:
        path.chmod(mode & ~OTHERS_WRITE)


def store_tried(entry: Path) -> None:
    """Record that an entry without a flaw was tried on this system too."""
    record = _read(entry)
    write_json(entry / RECORD, record | {"tried": [*record["tried"], system()]})


def system() -> str:
    """Return what a library that was built for this processor may still crash on: the C library.

    Images of several systems may share one cache.
    """
    return " ".join(platform.libc_ver()).strip() or platform.system()


def _exposed(path: Path, plain: Callable[[int], bool]) -> str | None:
    """Return how a file or folder may have come from somebody else, or None."""
    found = path.lstat()
    if not plain(found.st_mode):
        return "is a link, or something else that does not belong there"
    if found.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if found.st_mode & OTHERS_WRITE:
        return "can be written by other users"
    return None


def _read(entry: Path) -> dict[str, Any]:
    """Return an entry's record; empty if it is none."""
    try:
        record = json.loads((entry / RECORD).read_bytes())
        whole = {"sha256", "built_from"} <= record.keys() and isinstance(record["tried"], list)
    except (OSError, ValueError, AttributeError, KeyError):
        return {}
    return dict(record) if whole else {}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _danger(folder: Path) -> str | None:
    """Return how another user could change what is in a folder, made if need be; None if nobody.

    It ends at the home folder: who can change that needs no library to be planted.
    """
    try:
        for missing in (*reversed(folder.parents), folder):
            missing.mkdir(mode=0o755, exist_ok=True)
        found = folder.stat()
        # a loose umask made it so; a folder like /tmp is left as it is
        if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
            keep_others_out(folder)
    except OSError as error:
        return f"it cannot be made ({error.strerror})"
    home = Path("~").expanduser().resolve()
    for place in (folder, *folder.parents):
        if place == home != folder:
            break
        found = place.stat()
        if found.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        if found.st_mode & stat.S_ISVTX and place != folder:
            continue  # others may add something, and touch only what is theirs
        if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _alone(place)):
            return f"{place} can be written by other users"
    return None


def _alone(place: Path) -> bool:
    """Whether a folder's group is its owner's own, called like it, as many systems have it."""
    try:
        return place.group() == place.owner()
    except KeyError:
        return False
