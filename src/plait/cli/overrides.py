"""Options on the command line that change a configuration: `--model.sharing.experts own`."""

from typing import Any, TypeVar

import yaml

from plait.config.files import from_dict, to_dict

C = TypeVar("C")


class UsageError(ValueError):
    """A command line that cannot be understood."""


def override(config: C, arguments: list[str]) -> C:
    """Return `config` with options changed.

    Options are written as paths with dots; `-` and `_` are the same. A value is YAML: a number,
    true, null, [8, 16] or text. An option without a value is true, and `--no-…` is false. A part
    that is None, such as a collaboration, comes into being with the first option set in it.

    Raises:
        UsageError: in one line, for an option that does not exist or a value that does not fit.
    """
    data = to_dict(config)
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise UsageError(f"{option!r} is no option: options begin with --, text is quoted")
        name, equals, text = option[2:].partition("=")
        name = name.replace("-", "_")
        if equals:
            pass
        elif rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        else:
            path, _, last = name.rpartition(".")
            text = "false" if last.startswith("no_") else "true"
            name = ".".join(filter(None, (path, last.removeprefix("no_"))))
        _set(data, name.split("."), _value(text))
    try:
        return from_dict(type(config), data)
    except ValueError as error:
        raise UsageError(str(error)) from None


def split_options(arguments: list[str], names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Part the options called `names`, each with its value, from all others."""
    parts: tuple[list[str], list[str]] = ([], [])
    chosen = 1
    for argument in arguments:
        if argument.startswith("--"):
            chosen = 0 if argument.partition("=")[0] in names else 1
        parts[chosen].append(argument)
    return parts


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            return text
    return text if isinstance(value, dict) else value


def _set(data: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if data.get(name) is None:
            data[name] = {}
        data = data[name]
        if not isinstance(data, dict):
            raise UsageError(f"{'.'.join(path)}: {name} has no options of its own")
    data[path[-1]] = value
