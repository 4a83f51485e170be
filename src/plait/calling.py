"""A function of somebody's own, named as FILE.py:FUNCTION, called."""

import importlib.util
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plait.reading import one_line


def parted(name: str) -> tuple[Path, str] | None:
    """Return file and function of FILE.py:FUNCTION; None where it is no such name."""
    file, _, function = name.partition(".py:")
    return (Path(f"{file}.py"), function) if function else None


def called(name: str) -> Any:
    """Load FILE.py and return what its FUNCTION returns; None where it has none of that name.

    Raises:
        ValueError: in one line, whatever is wrong in the file, with its line.
        FileNotFoundError: there is no such file.
    """
    parts = parted(name)
    if parts is None:
        raise ValueError(f"{name!r}: name a function as FILE.py:FUNCTION")
    path, function = parts
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: a function is named FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with blaming(path):
        spec.loader.exec_module(module)
        return getattr(module, function, lambda: None)()


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn whatever is raised inside into one line that names the file and the line in it."""
    try:
        yield
    except (Exception, SystemExit) as error:  # whatever is wrong in somebody's file
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}{_line_of(error, path)}: {kind}{one_line(error)}") from error


def _line_of(error: BaseException, path: Path) -> str:
    """Say which line of a file an error is in, or came through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == os.fspath(path)]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    return f", line {line}" if line else ""
