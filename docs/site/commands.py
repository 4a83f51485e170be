"""A page for each command, made from the parser that its help is printed from."""

import argparse
import inspect
import re
import warnings

import tyro

from plait.cli.commands import COMMANDS
from plait.cli.options import REGISTRY, shape_of


def command_pages() -> dict[str, str]:
    """Return the page of each command by its name, and `index`, which lists them."""
    pages = {name.replace(" ", "-"): command_page(name) for name in COMMANDS}
    rows = [
        f"| [`plait {name}`]({name.replace(' ', '-')}.md) | {command.about} |"
        for name, command in COMMANDS.items()
    ]
    pages["index"] = "\n".join(
        [
            "# Commands",
            "",
            "Each page holds what `plait COMMAND --help` says. A command that takes a",
            "configuration has an option for each of its fields; behind the name of a recipe, help",
            "shows the values that they have there: `plait train nano --help`.",
            "",
            "| command | what it is for |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            *pages,
            "```",
            "",
        ]
    )
    return pages


def command_page(name: str) -> str:
    """Return the page of a command."""
    function = COMMANDS[name].function()
    shape = shape_of(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no other way to tyro's own reading
        parser = tyro.extras.get_parser(shape.function, registry=REGISTRY)
    groups = {group.title: group for group in parser._action_groups if group._group_actions}
    shown = {one for g in groups.values() for a in g._group_actions for one in a.option_strings}
    if missing := set(shape.names) - shown:
        raise ValueError(f"plait {name}: its page lacks {', '.join(missing)}")
    positional = groups.pop("positional arguments", None)
    arguments = positional._group_actions if positional else []
    words = ["plait", name, "[OPTIONS]", *(str(argument.metavar) for argument in arguments)]
    parts = [f"# plait {name}", f":::{{program}} plait {name}\n:::"]
    parts += [(inspect.getdoc(function) or "").partition("\nArgs:")[0].strip()]
    parts += [f"```text\n{' '.join(words)}\n```", *map(entry, arguments)]
    for title, group in groups.items():
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            of = str(title).removesuffix("options").strip()
            heading = f"## Options of `--{of}`" if of else "## Options"
            parts += [heading, group.description, *map(entry, actions)]
    return "\n\n".join(filter(None, parts)) + "\n"


def entry(action: argparse.Action) -> str:
    """Return an argument or option as a directive, so that index and search know it."""
    metavar = (
        "" if isinstance(action, argparse.BooleanOptionalAction) else str(action.metavar or "")
    )
    names = ", ".join(f"{name} {metavar}".strip() for name in action.option_strings)
    about = re.sub(r"\((required|default: .*)\)$", r"*(\1)*", (action.help or "").strip())
    return f":::{{option}} {names or metavar}\n{about}\n:::"
