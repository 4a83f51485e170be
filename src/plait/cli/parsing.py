"""The words behind a command's name become the arguments of its function; mistakes, one line."""

import contextlib
import difflib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from itertools import dropwhile, takewhile
from typing import Any, TextIO

import tyro

from plait.cli.options import REGISTRY, REMOVE, Base, Option, Shape, shape_of
from plait.config.files import from_dict, to_dict
from plait.config.limits import MOST_TOKENS
from plait.reading import named, quoted


class UsageError(ValueError):
    """A command line that cannot be understood."""


def parse(function: Callable[..., Any], words: list[str], prog: str) -> Callable[[], Any]:
    """Return `function` with the arguments that the words of a command line stand for.

    Raises:
        UsageError: in one line, for words that do not fit; it names the option, or a near one.
        SystemExit: after help is printed.
    """
    shape = shape_of(function)
    rest = [word for word in words if word not in ("-h", "--help")]
    if len(rest) < len(words):
        with contextlib.suppress(UsageError):  # without a configuration, help shows no values
            shape = shape_of(function, _load(shape, _read(shape, rest, prog)))
        about = _wrapped(inspect.getdoc(function) or "")
        with _tidied(2 + len(about.splitlines())):
            tyro.cli(
                shape.function, args=["--help"], prog=prog, description=about, registry=REGISTRY
            )
    _check(words, shape.names)
    found = _read(shape, words, prog)
    for name, value in found.arguments.items():
        if isinstance(value, int) and abs(value) > MOST_TOKENS:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is {quoted(value)}: {MOST_TOKENS:,} is the most")
    for name, config in _load(shape, found).items():
        try:
            given, data, mark = found.arguments[name], to_dict(config), shape.configs[name]
            if isinstance(mark, Base):
                data = _merge(data, mark.follow(config, given))
            found.arguments[name] = from_dict(type(config), _merge(data, given))
        except ValueError as error:
            raise UsageError(str(error)) from None
    return lambda: function(*found.args, **found.kwargs)


def _load(shape: Shape, found: inspect.BoundArguments) -> dict[str, Any]:
    first = next(iter(found.arguments.values()), "")
    with warnings.catch_warnings(action="ignore"):  # of what nobody asked for: options may mend it
        return {n: c.load(first) if isinstance(c, Base) else c for n, c in shape.configs.items()}


def _merge(before: dict[str, Any], given: dict[str, Any], path: str = "--") -> dict[str, Any]:
    """Change a configuration's dictionary by the options that were given."""
    for key, value in given.items():
        name = key.removeprefix(REMOVE)
        if name != key:
            if given[name]:
                option = f"{path}{name}.{next(iter(given[name]))}"
                raise UsageError(f"{path}{name} None and {option} exclude each other")
            before[name] = None
        elif not isinstance(value, dict):
            before[name] = value
        elif value:
            before[name] = _merge(before.get(name) or {}, value, f"{path}{name}.")
    return before


def _check(words: list[str], names: dict[str, Option]) -> None:
    """Refuse options that do not exist, and options given twice, of which tyro keeps the last."""
    seen = set()
    for word in takewhile(lambda word: word != "--", words):
        option = word.partition("=")[0].replace("_", "-")
        if option in names:
            name = names[option].name
            if name in seen:
                raise UsageError(f"{name} is given twice: write all its values behind one")
            seen.add(name)
            if names[option].hint is bool and "=" in word:  # tyro reads the value as the next word
                raise UsageError(
                    f"{option} takes no value: write {name} for true, its no- form for false"
                )
        elif re.match(r"--[A-Za-z]", option):
            same_end = [name for name in names if name.endswith(f".{option[2:]}")]
            bare = [name[2:] for name in names]  # dashes would make all of them alike
            near = same_end or [f"--{it}" for it in difflib.get_close_matches(option[2:], bare, 1)]
            advice = f"did you mean {' or '.join(near[:3])}?" if near else "--help lists all"
            raise UsageError(f"no option {named(option)}: {advice}")


def _read(shape: Shape, words: list[str], prog: str) -> inspect.BoundArguments:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), _columns(10_000), contextlib.suppress(SystemExit):
        found = tyro.cli(shape.function, args=words, prog=prog, registry=REGISTRY)
        for p in found.signature.parameters.values():
            required = p.kind is p.POSITIONAL_ONLY and p.default is p.empty
            if required and found.arguments[p.name] == ():
                raise UsageError(f"{p.name.upper()} is missing: write it first, or last behind --")
        return found
    # tyro draws a box: a title, what is wrong, and behind a rule where to read more
    box = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    rows = [row for line in box.splitlines() if (row := line.strip("│ "))]
    body = dropwhile(lambda row: not row.strip("─-"), rows[1:])
    text = " ".join(takewhile(lambda row: row.strip("─-"), body))
    text = text.removeprefix("Error parsing ").partition(" Got errors:")[0]
    text = text.replace(" (required)", "")
    text = text.replace("invalid literal for int() with base 10:", "not a whole number:")
    text = text.replace("could not convert string to float:", "not a number:")
    raise UsageError(text if len(text) <= 500 else f"{text[:500]}…")


def _wrapped(docstring: str) -> str:
    """Return the text above a docstring's arguments in lines, indented so that tyro keeps them."""
    wrapper = textwrap.TextWrapper(shutil.get_terminal_size().columns - 1, "", " ")
    return "\n\n".join(map(wrapper.fill, docstring.partition("\nArgs:")[0].split("\n\n")))


class _Held(io.StringIO):
    """Holds back what is written for another stream, as that one would show it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextlib.contextmanager
def _tidied(above: int) -> Iterator[None]:
    """Wrap the usage of tyro's help; in the lines `above` options, drop what kept them apart."""
    held = _Held(sys.stdout)
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        usage, *lines = held.getvalue().splitlines()
        columns = shutil.get_terminal_size().columns
        wrapper = textwrap.TextWrapper(columns, "", " " * 7, break_on_hyphens=False)
        print(wrapper.fill(usage))
        print(*map(str.lstrip, lines[: above - 1]), *lines[above - 1 :], sep="\n")


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
