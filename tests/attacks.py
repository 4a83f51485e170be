"""How hard the attacks of tests/faults try, and the command line as they see it."""

import contextlib
import io
import os
import re

from plait.cli import main


def cases(default: int) -> int:
    """How many cases a test tries: its own number, or PLAIT_FAULTS."""
    return int(os.environ.get("PLAIT_FAULTS", default))


def outcome(*words: str) -> tuple[int, str]:
    """Exit code and what a command said on standard error; whatever it raises is a traceback."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(list(words))
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    raise AssertionError("main always exits")


def assert_in_words(code: int, said: str) -> None:
    """It went well, or it failed in one line (after warnings of a line each)."""
    lines = [line for line in said.splitlines() if line.startswith("plait: ")]
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    if code and lines:
        assert len(lines[-1]) < 1500, lines[-1][:200]
        assert re.match(r"plait: \S", lines[-1])
