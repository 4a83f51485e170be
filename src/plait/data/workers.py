"""Processes that share the work of a build, and give its results in the order of the tasks.

They are commands of their own and no forks, so that a script that builds a corpus needs no
`if __name__ == "__main__"`, and no library meets threads that are missing.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_START = "from plait.data.workers import main; main()"


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that call functions of this package; started when first needed, ended at exit.

    Args:
        processes: how many; with one, all is done in this process.
        holding: descriptors that each keeps open as long as it lives, such as a lock.
    """

    def __init__(self, processes: int, holding: Sequence[int] = ()) -> None:
        self._count = processes
        self._holding = tuple(holding)
        self._threads = ThreadPoolExecutor(processes, "worker")
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            process.kill()  # a thread that waits for its answer then reads the end of its pipe
        self._threads.shutdown()
        for process in self._started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what it never took
                    pipe.close()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Give (task, function(task)) in the tasks' order; one alone is done in this process.

        Tasks are taken ahead of the results, at the most two for each process. What the function
        raises for a task is raised when that task's turn comes.

        Raises:
            ValueError: a process was killed.
        """
        tasks = iter(tasks)
        first = list(islice(tasks, 2))
        if self._count == 1 or len(first) < 2:
            for task in chain(first, tasks):
                yield task, function(task)
            return
        ahead: deque[tuple[T, Future[R]]] = deque()
        for task in chain(first, tasks):
            ahead.append((task, self._threads.submit(self._call, function, task)))
            if len(ahead) == 2 * self._count:
                done, future = ahead.popleft()
                yield done, future.result()
        for done, future in ahead:
            yield done, future.result()

    def _call(self, function: Callable[[T], R], task: T) -> R:
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((function, task), process.stdin)
            process.stdin.flush()
            good, answer = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise ValueError(
                f"a process of the build ended (exit status {process.wait()}), perhaps for want of "
                "memory: build again with fewer (--processes)"
            ) from None
        self._idle.put(process)
        if not good:
            raise answer
        result: R = answer
        return result

    def _process(self) -> "subprocess.Popen[bytes]":
        try:
            return self._idle.get_nowait()
        except Empty:
            pass
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._holding,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # finds what we found
            | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # the terminal's Ctrl-C is for us
        )
        self._started.append(process)
        return process


def main() -> None:
    """Do the tasks that come on standard input, until it closes: the one who sent them is gone."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    tasks: SimpleQueue[tuple[Callable[[Any], Any], Any]] = SimpleQueue()

    def listen() -> None:
        while True:
            try:
                tasks.put(pickle.load(sys.stdin.buffer))
            except EOFError:
                os._exit(0)  # also in the middle of a task

    threading.Thread(target=listen, daemon=True).start()
    while True:
        function, task = tasks.get()
        try:
            answer = True, function(task)
        except Exception as error:
            answer = False, error
        answers.write(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        answers.flush()
