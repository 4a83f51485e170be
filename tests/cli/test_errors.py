"""What the command line says of the system's errors."""

import errno
import os

import pytest

from plait.cli import _said


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "out/x"), "out/x: read-only file system"),
        (
            OSError(errno.ENOSPC, "No space left on device", "from", None, b"to"),
            "to: no space left on device",
        ),
        (FileNotFoundError("give a folder"), "give a folder"),
        (ValueError("depth is 0"), "depth is 0"),
    ],
)
def test_a_file_comes_first_and_no_number(error: Exception, says: str) -> None:
    assert _said(error) == says
