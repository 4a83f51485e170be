"""The options of a command: what tyro reads, made from the signature of the command's function.

A parameter that is a configuration (a frozen dataclass) becomes options, one for each field, named
by its path: `--model.sharing.router`. Help, parser and completion are made from the same shape.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple, TypedDict, cast, get_args

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_docstring = functools.cache(docstring_parser.parse_from_object)
REMOVE = "remove "
"""begins the key of the option that removes a part: no field's name has a space"""
REGISTRY = ConstructorRegistry()


@dataclasses.dataclass(frozen=True)
class Base:
    """Marks a configuration whose options change what `load` returns for the first argument."""

    load: Callable[[str], Any]
    known: Iterable[str] = ()
    """names that it knows, for completion"""
    follow: Callable[[Any, dict[str, Any]], dict[str, Any]] = lambda loaded, given: {}
    """from what was loaded and the options given: further ones that follow, unless given too"""


class Option(NamedTuple):
    """An option, whichever way it is written."""

    name: str
    hint: Any


@dataclasses.dataclass(frozen=True)
class Shape:
    """What tyro reads in place of a command's function."""

    function: Callable[..., inspect.BoundArguments]
    """returns its arguments; in place of a configuration, the options that were given"""
    configs: dict[str, Any]
    """the configurations, or the `Base` of each"""
    names: dict[str, Option]
    """the options, by every way to write them"""


def shape_of(function: Callable[..., Any], loaded: dict[str, Any] | None = None) -> Shape:
    """Return what tyro reads in place of `function`; `loaded` are values for the help to show."""

    def arguments(*args: Any, **options: Any) -> inspect.BoundArguments:
        return signature.bind(*args, **options)

    shape = Shape(arguments, {}, {})
    parameters = []
    for p in inspect.signature(function, eval_str=True).parameters.values():
        annotated = typing.get_origin(p.annotation) is Annotated
        cls, mark, *_ = (*get_args(p.annotation), None) if annotated else (p.annotation, p.default)
        if dataclasses.is_dataclass(cls):
            shape.configs[p.name] = (loaded or {}).get(p.name, mark)
            options = _options(cast(type, cls), shape.configs[p.name], "--", shape.names)
            hint = cast(Any, Annotated[options, tyro.conf.arg(name="")])
            p = p.replace(annotation=hint, default=p.empty)
        else:
            more: dict[str, Any] = {}
            if p.default == ():
                more["help_behavior_hint"] = "(default: none)"
            if p.kind is not p.POSITIONAL_ONLY:
                _name(shape.names, f"--{p.name}", cls)
            elif typing.get_origin(cls) is not typing.Literal:  # tyro shows its choices
                several = typing.get_origin(cls) is tuple
                more["metavar"] = p.name.upper() + (" ..." if several else "")
                if several and p.default is p.empty:
                    more["help_behavior_hint"] = "(required)"
            if more:
                p = p.replace(annotation=cast(Any, Annotated[p.annotation, tyro.conf.arg(**more)]))
        parameters.append(p)
    signature = inspect.Signature(parameters)
    vars(arguments)["__signature__"] = signature
    # one line for each argument: tyro's completion takes a second line for a candidate
    arguments.__doc__ = re.sub(r"\n {8,}", " ", inspect.getdoc(function) or "")
    arguments.__annotations__ = {p.name: p.annotation for p in parameters}
    return shape


def _options(cls: type, value: Any, path: str, names: dict[str, Option]) -> Any:
    """Return a type that has the fields of `cls` as options, and add them to `names`.

    A dictionary without required keys: tyro leaves out what was not given, so that nothing that a
    recipe says is ever said again.
    """
    texts = {p.arg_name: p.description for p in _docstring(cls).params}
    hints = typing.get_type_hints(cls)
    options: dict[str, Any] = {}
    for field in filter(lambda field: field.init, dataclasses.fields(cls)):
        now = value if isinstance(value, Base) else getattr(value, field.name)
        hint, option = hints[field.name], path + field.name
        part: Any = next(filter(dataclasses.is_dataclass, (hint, *get_args(hint))), None)
        if part is None:
            aliases = field.metadata.get("aliases", ())
            options[field.name] = _leaf(hint, texts.get(field.name), now, aliases=aliases)
            _name(names, option, hint, *aliases)
            continue
        if part is not hint:  # it may be None
            options[REMOVE + field.name] = _leaf(None, "without this part", now, name=field.name)
            _name(names, option, hint)
        inner = _options(part, part() if now is None else now, f"{option}.", names)
        if now is None:
            inner.__doc__ += " None, unless one of its options is given."
        options[field.name] = Annotated[inner, tyro.conf.arg(help=inner.__doc__)]
    made = cast(Any, TypedDict)(cls.__name__, options, total=False)
    made.__doc__ = inspect.getdoc(cls)
    return made


def _leaf(hint: Any, text: str | None, now: Any, **more: Any) -> Any:
    """Return the type of an option with its help, and with the value that it has unless given."""
    shown = " ".join(map(str, now)) or "none" if isinstance(now, tuple) else str(now)
    default = "" if dataclasses.is_dataclass(now) else f"(default: {shown})"
    text = " ".join((text or "").split())
    return Annotated[hint, tyro.conf.arg(help=text, help_behavior_hint=default, **more)]


def _name(names: dict[str, Option], option: str, hint: Any, *aliases: str) -> None:
    option = option.replace("_", "-")
    opposite = [re.sub(r"([^-.][^.]*)$", r"no-\1", option)] if hint is bool else []
    names.update(dict.fromkeys((option, *opposite, *aliases), Option(option, hint)))


@REGISTRY.primitive_rule
def _none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    """Read YAML's null as None, and show None without braces."""

    def read(words: list[str]) -> None:
        if words[0] not in ("None", "null"):
            raise ValueError(f"{words[0]!r} is not None")

    if info.type is not type(None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="None",
        instance_from_str=read,
        is_instance=lambda value: value is None,
        str_from_instance=lambda _: ["None"],
    )
