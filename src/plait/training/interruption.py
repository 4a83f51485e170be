"""Ctrl-C and SIGTERM as a question that the loop asks between steps."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(Exception):
    """Training stopped on request after saving a checkpoint; the message says how to resume."""


class Interruption:
    """While it is entered, the first SIGINT or SIGTERM only sets `requested`.

    The second acts as it would have, so that nobody is held hostage by a long step. Outside the
    main thread signals cannot be caught, and nothing is.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
