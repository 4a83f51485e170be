"""The command line: how a command is found, and how mistakes end."""

import contextlib
import difflib
import io
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import NoReturn

from plait import __version__
from plait.cli.commands import COMMANDS, DIVIDED, overview

EXTRAS = {
    "altair": "report",
    "vl_convert": "report",
    "jinja2": "report",
    "markupsafe": "report",
    "pyarrow": "report",
    "pandas": "report",
    "starlette": "explore",
    "uvicorn": "explore",
    "anyio": "explore",
    "transformers": "hf",
    "datasets": "hf",
    "gguf": "gguf",
    "lm_eval": "eval",
    "accelerate": "eval",
    "submitit": "slurm",
    "wandb": "track",
    "tensorboard": "track",
    "trackio": "track",
}
"""module: the extra that brings it"""
INTERRUPTED = 130
"""exit code of what Ctrl-C ended, as shells have it: 128 and the signal's number"""
WORD = 5.0
"""seconds in which the first of several processes may say what is wrong for all"""


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad usage, 130 ended by Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    warnings.showwarning = _warn
    try:
        sys.exit(_run(words))
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os._exit(0)  # whoever read our output has enough
    except ModuleNotFoundError as error:
        if debug or (advice := missing_extra(error.name or "")) is None:
            raise
        _fail(advice)
    except Exception as error:
        if debug or not _is_users(error):
            raise
        if _is_memory(error):
            _fail("not enough memory: make the model, the batch or the sequences smaller")
        kind = type(error).__name__
        code = {"UsageError": 2, "Interrupted": INTERRUPTED}.get(kind, 1)
        _fail(" ".join(_said(error).split()) or kind, code)


def missing_extra(module: str) -> str | None:
    """Say how to install what a command needs; None for a module that no extra brings."""
    name = module.partition(".")[0]
    if name not in EXTRAS:
        return None
    extra = EXTRAS[name]
    return (
        f'this needs {name}, which the extra "{extra}" brings: pip install "plait[{extra}]", or, '
        f'in a clone of Plait, pip install -e ".[{extra}]"'
    )


def _run(words: list[str]) -> int:
    if words[:1] != ["bench"]:
        # Threads that wait by spinning stand still with every other program that wants a core, and
        # asleep they cost next to nothing. Read by torch's OpenMP when torch is loaded, after this.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS and len(words) >= length:
            if name not in DIVIDED and not _alone(name):
                return 0
            from plait.cli.parsing import parse

            with _one_voice():
                result = parse(COMMANDS[name].function(), words[length:], f"plait {name}")()
            return result if isinstance(result, int) else 0
    return _without_command(words)


def _alone(name: str) -> bool:
    """Whether this process does a command that is not divided; from then on it counts as alone."""
    others = int(os.environ.get("WORLD_SIZE", "1")) - 1
    if others < 1:
        return True
    if not _has_the_word():
        return False
    left = "the other does" if others == 1 else f"the other {others} do"
    print(f"plait: `plait {name}` runs in one process: {left} nothing", file=sys.stderr)
    for told in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(told, None)  # neither it nor what it starts may wait for the others
    return True


def _has_the_word() -> bool:
    """Whether this process prints: several that torchrun started speak with one voice."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Keep what libraries print to the process that has the word; tracebacks come after it."""
    if _has_the_word():
        yield
        return
    unheard = io.StringIO()
    with contextlib.redirect_stdout(unheard), contextlib.redirect_stderr(unheard):
        yield


def _without_command(words: list[str]) -> int:
    first, second = [*words, "", ""][:2]
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if first in ("-h", "--help"):
        print(overview())
    elif first == "--version":
        print(f"plait {__version__}")
    elif first == "--complete":
        from plait.cli.completion import candidates

        print(*candidates(words[1:]), sep="\n")
    elif first in groups and second in ("-h", "--help"):
        print(overview(first))
    elif not first:
        print(overview(), file=sys.stderr)
        return 2
    else:
        _unknown(f"{first} {second}".strip() if first in groups else first)
    return 0


def _unknown(found: str) -> NoReturn:
    first = found.split()[0]
    names: Iterable[str] = [name for name in COMMANDS if name.split()[0] == first] or COMMANDS
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    advice = f"did you mean `plait {near[0]}`?" if near else f"choose {', '.join(names)}"
    _fail(f"no {'option' if found.startswith('-') else 'command'} {found!r}: {advice}", 2)


def _is_users(error: Exception) -> bool:
    """Whether the message alone tells a user what to do."""
    kinds = ("Interrupted", "CheckpointError")
    known = isinstance(error, (ValueError, OSError)) or type(error).__name__ in kinds
    return known or _is_memory(error)


def _said(error: Exception) -> str:
    """What an error says; of the system's, the file (of two, what was written) and what ails it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        file = error.filename if error.filename2 is None else error.filename2
        return f"{os.fsdecode(file)}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's and NumPy's, torch's on a GPU, and torch's on the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"plait: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str, code: int = 1) -> NoReturn:
    if not _has_the_word():
        if code == INTERRUPTED:
            sys.exit(code)
        # torchrun ends all when the first fails: that one may say it first, if it failed too
        time.sleep(WORD)
        message = f"process {os.environ['RANK']}: {message}"
    print(f"plait: {message}", file=sys.stderr)
    sys.exit(code)
