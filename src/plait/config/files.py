"""Configurations as dictionaries, YAML files and hashes: the same few functions for every kind."""

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from plait.atomic import write_text
from plait.reading import named, quoted, read_json, read_yaml

C = TypeVar("C")

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
"""1e-5, which YAML 1.1 takes for text because it has no point"""


def to_dict(config: Any) -> Any:
    """Turn a configuration into plain dictionaries, lists, numbers and strings."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, Path):
        return str(config)
    return config


def from_dict(cls: type[C], data: Any, where: str = "", *, more: bool = False) -> C:
    """Build the configuration `cls` from `to_dict`'s output; absent options take their defaults.

    Args:
        cls: what to build.
        data: the options.
        where: begins their names in errors.
        more: pass over unknown options instead of refusing them.

    Raises:
        ValueError: for an unknown option (naming the nearest), or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where or cls.__name__}: expected options, found {quoted(data)}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if more:
        data = {name: value for name, value in data.items() if name in known}
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown option {quoted(_join(where, name))}: {advice}")
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ValueError(f"option {_join(where, name)!r} is missing")
    return cls(**{k: _value(hints[k], v, _join(where, str(k)), more) for k, v in data.items()})


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _value(hint: Any, data: Any, where: str, more: bool) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        problems = []
        for option in arguments:
            try:
                return _value(option, data, where, more)
            except ValueError as error:
                problems.append(error)
        raise next((p for p in problems if "unknown option" in str(p)), problems[0])
    if hint is type(None):
        if data is None:
            return None
        raise ValueError(f"{where}: expected nothing, found {quoted(data)}")
    if origin is Literal:
        if data in arguments:
            return data
        known = ", ".join(map(repr, arguments))
        raise ValueError(f"{where}: {quoted(data)} is not one of {known}")
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type[Any], hint), data, where, more=more)
    if origin is tuple and isinstance(data, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_value(arguments[0], item, where, more) for item in data)
        if len(arguments) == len(data):
            pairs = zip(arguments, data, strict=True)
            return tuple(_value(hint, item, where, more) for hint, item in pairs)
    if origin is list and isinstance(data, list):
        return [_value(arguments[0], item, where, more) for item in data]
    if origin in (dict, Mapping) and isinstance(data, dict):
        keys = [_value(arguments[0], key, where, more) for key in data]
        places = {key: _join(where, named(key)) for key in keys}
        return {key: _value(arguments[1], data[key], places[key], more) for key in keys}
    number = isinstance(data, (int, float)) and not isinstance(data, bool)
    if hint is float and (number or (isinstance(data, str) and _EXPONENT.fullmatch(data))):
        try:
            return float(data)
        except OverflowError:
            raise ValueError(f"{where}: {quoted(data)} is too large a number") from None
    if hint is Path and isinstance(data, str | Path):
        return Path(data)
    if hint is Any or (isinstance(hint, type) and type(data) is hint):
        return data
    wanted = getattr(hint, "__name__", hint) if origin is None else hint
    raise ValueError(f"{where}: expected {wanted}, found {quoted(data)}")


def save_yaml(config: Any, path: Path) -> None:
    """Write a configuration to a YAML file, whole or not at all."""
    # ASCII with escapes, since YAML 1.1 takes U+0085 and U+2028 for ends of lines
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def load_yaml(cls: type[C], path: Path, part: str | None = None) -> C:
    """Read a configuration of type `cls` from a YAML file; a ValueError names file and option.

    With `part`, a file that holds more (a whole run) may have it under this name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    data = read_yaml(path)
    inner = part is not None and isinstance(data, dict) and part in data
    try:
        return from_dict(cls, data[part] if inner else data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_json(cls: type[C], path: Path, fix: str) -> C:
    """Read what `cls` describes from a JSON file; what else the file holds is passed over.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged; the message names the file and the fix.
    """
    return from_json(cls, read_json(path, fix), path, fix)


def from_json(cls: type[C], data: dict[str, Any], path: Path, fix: str) -> C:
    """Build what `cls` describes from the object that a JSON file holds; see `load_json`."""
    try:
        return from_dict(cls, data, more=True)
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}): {fix}") from None


def config_hash(config: Any) -> str:
    """Twelve hexadecimal digits of SHA-256 over the whole configuration, in canonical form.

    An option that a later version added (`metadata={"added": True}`) counts where it is not at its
    default, so that runs of earlier versions keep their names.
    """
    canonical = json.dumps(_hashed(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _hashed(config: Any) -> Any:
    if not dataclasses.is_dataclass(config):
        return to_dict(config)
    return {
        f.name: _hashed(getattr(config, f.name))
        for f in dataclasses.fields(config)
        if not (f.metadata.get("added") and getattr(config, f.name) == f.default)
    }
