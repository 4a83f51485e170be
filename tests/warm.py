"""Python that starts warm: forked from a process that has read torch and transformers already.

To read them takes an interpreter some seconds, and many tests need a process for a command. What
`Warm` runs is a process too, with arguments, folder, environment, outputs and exit code of its own;
only what it imports is there already. A test of what is imported needs a fresh interpreter.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

READ = (
    *("torch._dynamo", "transformers.models.auto.modeling_auto", "transformers.modeling_utils"),
    *("altair", "pandas", "pyarrow.parquet", "vl_convert", "scipy.stats", "tyro", "rich.progress"),
)
READING = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
"""what these modules read of the environment as they load, the same for all"""


class Warm:
    """A process to fork from; each call of `run` waits for a fork to end."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | READING,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] = os.environ,
        input: str = "",
        missing: Collection[str] = (),
        timeout: int = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run what `python ARGUMENTS` would: a script, or a module after -m.

        Args:
            arguments: words.
            cwd: working folder.
            env: environment.
            input: what it reads from standard input.
            missing: packages that are not there.
            timeout: seconds, after which it is killed by SIGALRM.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            streams = [Path(folder) / name for name in ("in", "out", "error")]
            streams[0].write_text(input)
            wanted = {
                "arguments": [str(word) for word in arguments],
                "cwd": str(cwd),
                "environment": dict(env),
                "streams": [str(path) for path in streams],
                "missing": list(missing),
                "timeout": timeout,
            }
            self.process.stdin.write(json.dumps(wanted) + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            out, error = (path.read_text() for path in streams[1:])
        return subprocess.CompletedProcess(arguments, code, out, error)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def serve() -> None:
    """Fork for each line of standard input, and answer with the exit code."""
    for module in READ:
        import_module(module)
    gc.freeze()
    wishes, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in wishes:
        child = os.fork()
        if child == 0:
            leave(lambda line=line: become(**json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def leave(after: Callable[[], None]) -> NoReturn:
    """End this process, without the second that taking all modules down takes."""
    code: object = 0
    try:
        after()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def become(
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    streams: list[str],
    missing: list[str],
    timeout: int,
) -> None:
    """Do in this process what a fresh one would that is called with these arguments."""
    signal.alarm(timeout)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = os.fdopen(0)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    for module in list(sys.modules):
        if module.partition(".")[0] in missing:
            del sys.modules[module]
    sys.modules.update(dict.fromkeys(missing))  # which makes importing them fail
    given: dict[str, Any] = {"run_name": "__main__"}
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], cwd
        runpy.run_module(arguments[1], alter_sys=True, **given)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], **given)


if __name__ == "__main__":
    serve()
