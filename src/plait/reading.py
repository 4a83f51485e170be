"""What comes from outside: JSON, YAML and files of folders, read within bounds.

Everything that was written by others is read through here. Whatever is wrong with it is a
ValueError in one line that names the file, what is wrong, and the fix.
"""

import json
import os
import reprlib
from pathlib import Path
from typing import Any

import yaml

SHOWN = 60
"""characters of a value that a message repeats at the most"""
JSON_BYTES = 64_000_000
YAML_BYTES = 1_000_000
YAML_NODES = 20_000
"""values in a YAML file, each use of an alias counted anew"""
YAML_LEVELS = 100


class _Short(reprlib.Repr):
    """Of a nested value its first entries; of a number its size where it is absurdly long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, SHOWN, SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 128 else f"{'−' if x < 0 else ''}2**{x.bit_length()}"


_short = _Short()


def quoted(value: object, at: int = 0) -> str:
    """Return a value as a message repeats it: of a long text the part around the place `at`."""
    if not isinstance(value, str):
        text = _short.repr(value)
        return text if len(text) <= 3 * SHOWN else text[: 3 * SHOWN] + "…"
    start = max(0, min(at - SHOWN // 2, len(value) - SHOWN))
    cut = repr(value[start : start + SHOWN])
    return "…" * (start > 0) + cut + "…" * (start + SHOWN < len(value))


def named(name: str) -> str:
    """Return a name as a message says it: bare, unless it is long or has odd characters."""
    return name if len(name) <= 2 * SHOWN and name.isprintable() else quoted(name)


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line that is not long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 5 * SHOWN else text[: 5 * SHOWN] + "…"


def parse_json(text: str | bytes, where: object, fix: str) -> Any:
    """Return the value of a JSON text; a ValueError names `where` it is from, and the fix."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: damaged, not JSON ({one_line(error)}): {fix}") from None


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds anything else; the message names the file and the fix.
    """
    value = parse_json(_text(path, JSON_BYTES, fix), path, fix)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: damaged (not an object, but {quoted(value)}): {fix}")
    return value


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML, or of absurd size; the message names the file.
    """
    text = _text(path, YAML_BYTES, "shorten it")
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # it raises many kinds for a value that does not fit its tag
        raise ValueError(f"{path} is not YAML: {one_line(error)}") from None


def _text(path: Path, largest: int, fix: str) -> str:
    with open(path, "rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"{path}: larger than {largest:,} bytes: {fix}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: damaged ({error}): {fix}") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which nests only so deep and repeats only so much through aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._nodes
        self._level += 1
        if self._level > YAML_LEVELS:
            raise ValueError(f"it nests deeper than {YAML_LEVELS} levels")
        node = super().compose_node(parent, index)
        self._level -= 1
        if is_alias and id(node) not in self._sizes:
            raise ValueError("a part of it contains itself")
        self._nodes += self._sizes[id(node)] if is_alias else 1
        self._sizes[id(node)] = self._nodes - before
        if self._nodes > YAML_NODES:
            raise ValueError(f"it holds more than {YAML_NODES:,} values")
        return node


def inside(folder: Path, name: str) -> Path:
    """Return the path of a regular file in a folder that somebody else may have made.

    Links may lead to other files of the folder, and to the blobs of the hub client's cache
    (`snapshots/<revision>/file` → `../../blobs/<hash>`), if it is such a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name, or a link, leads out of the folder.
    """
    path = Path(folder) / name
    if not name.isprintable():
        raise ValueError(f"{folder}: {quoted(name)} cannot be the name of a file")
    try:
        real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
        is_file = real.is_file()
    except (ValueError, OSError):  # characters that no file system has, or too many of them
        raise ValueError(f"{folder}: {quoted(name)} cannot be the name of a file") from None
    rooms = [root]
    if root.parent.name == "snapshots":
        rooms.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(room) for room in rooms):
        raise ValueError(f"{path}: leads out of {folder}: put the file itself there")
    if not is_file:
        raise FileNotFoundError(f"{path}: no such file")
    return path
