"""Leases: who works in a folder, told by files alone, so that it holds where locks do not (NFS).

A lease is a file `.lease-N`, made by whoever creates it first; the highest N counts. Its holder
touches it every few seconds. One that was not touched for long, or whose process is gone from this
machine, is void, and whoever creates N + 1 holds the folder. Numbers never fall, so two that take
over the same void lease want the same new name, and one of them gets it.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT = 10.0
"""seconds between two touches"""
VOID = 90.0
"""seconds without a touch after which the holder counts as dead"""
HELD = 75
"""exit status of a process that leaves a folder to its holder (EX_TEMPFAIL of sysexits.h)"""
_NAME = ".lease-"


@dataclass(frozen=True)
class Lease:
    """The newest lease of a folder, as it lies there."""

    number: int
    path: Path | None

    @property
    def live(self) -> bool:
        """Whether somebody works there now, as far as can be told."""
        if self.path is None:
            return False
        try:
            with self.path.open("rb") as file:  # opening asks a file server how old it is
                touched = os.fstat(file.fileno()).st_mtime
                holder = _parsed(file.read(4096))
        except FileNotFoundError:  # a newer one has just taken its place
            return True
        if holder.get("released"):
            return False
        if holder.get("machine") == machine() and not _alive(holder.get("process")):
            return False
        return _now(self.path.parent) - touched < VOID


def newest(folder: Path) -> Lease:
    """Find the newest lease of a folder; number 0, without a file, if it never had one."""
    return max(_all(folder), key=lambda lease: lease.number, default=Lease(0, None))


def _all(folder: Path) -> list[Lease]:
    names = [(path.name.removeprefix(_NAME), path) for path in folder.glob(f"{_NAME}*")]
    return [Lease(int(number), path) for number, path in names if number.isdigit()]


def machine() -> str:
    """What processes are told apart by their numbers in: host, its last start, container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


@contextmanager
def leased(folder: Path, lost: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a folder's lease, if nobody does: gives whether it could be had.

    Args:
        folder: that is there.
        lost: called, in a thread, where another took the lease over, since this process was
            suspended for too long. None: it ends at once, before it writes anything more.
    """
    path = _taken(folder)
    if path is None:
        yield False
        return
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done, lost or _end), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        with suppress(OSError):
            path.write_text(json.dumps({"released": True}), encoding="ascii")


def _taken(folder: Path) -> Path | None:
    """Create the next lease, unless the newest is live or another process was quicker."""
    before = newest(folder)
    if before.live:
        return None
    path = folder / f"{_NAME}{before.number + 1}"
    try:
        with path.open("x", encoding="ascii") as file:
            json.dump({"machine": machine(), "process": os.getpid()}, file)
    except FileExistsError:
        return None
    if newest(folder).number != before.number + 1:  # we were slow: many have come and gone
        path.unlink()
        return None
    for old in _all(folder):
        if old.path is not None and old.number <= before.number:
            old.path.unlink(missing_ok=True)
    return path


def _beat(path: Path, done: threading.Event, lost: Callable[[], None]) -> None:
    own = int(path.name.removeprefix(_NAME))
    while not done.wait(BEAT):
        with suppress(OSError):  # a file server that is away for a moment
            if newest(path.parent).number > own:
                lost()
                return
            os.utime(path)


def _end() -> None:
    print("another process has taken this run over: it ends here", file=sys.stderr, flush=True)
    os._exit(HELD)


def _now(folder: Path) -> float:
    """Return the time of the file system's own clock, which a lease's age is told by."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # we may only read there
        return time.time()


def _parsed(data: bytes) -> dict[str, Any]:
    """Read what a lease says; nothing where it is just being written."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alive(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, ValueError):
        return True
    return True
