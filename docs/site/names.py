"""A page of public names for each folder of the package; Sphinx fills it from the docstrings."""

import importlib
import pkgutil
from collections.abc import Collection

import plait

ELSEWHERE = {"cli", "__main__"}
"""the command line has pages of its own"""


def name_pages(only: Collection[str] = ()) -> dict[str, str]:
    """Return the page of each room, or of some, by its name, and `index`, which lists them."""
    found = room_names()
    if unknown := set(only) - found:
        raise ValueError(f"no folder of the package: {', '.join(sorted(unknown))}")
    rooms = [f"plait.{name}" for name in sorted(only or found)]
    pages = {room: room_page(room) for room in rooms}
    rows = [f"   * - :doc:`{room} <{room}>`\n     - {about(room)}" for room in rooms]
    pages["index"] = "\n".join(
        [
            *heading("Python", "="),
            "A page for each folder of the package, with every public name of its modules. What a",
            "folder's ``__init__`` hands out stands first on its page: import it from there.",
            "",
            ".. list-table::",
            "   :header-rows: 0",
            "",
            *rows,
            "",
            ".. toctree::",
            "   :hidden:",
            "",
            *(f"   {room}" for room in pages),
            "",
        ]
    )
    return pages


def room_names() -> set[str]:
    """Return the names of the folders, and of the modules that stand alone, that have a page."""
    return {module.name for module in pkgutil.iter_modules(plait.__path__)} - ELSEWHERE


def room_page(room: str) -> str:
    """Return the page of a folder, or of a module that stands alone."""
    module = importlib.import_module(room)
    parts = [*heading(room, "="), *directive(room)]
    if handed_out := getattr(module, "__all__", []):
        links = (f":py:obj:`~{home(module, name)}`" for name in handed_out)
        parts += [f"``from {room} import`` … " + " · ".join(links), ""]
    for inner in inner_modules(room):
        parts += [*heading(inner, "-"), *directive(inner)]
    return "\n".join(parts)


def inner_modules(room: str) -> list[str]:
    """Return the full names of a folder's public modules; none where it is a module itself."""
    path = getattr(importlib.import_module(room), "__path__", [])
    found = [module.name for module in pkgutil.walk_packages(path, f"{room}.")]
    return [name for name in found if not any(word.startswith("_") for word in name.split("."))]


def home(module: object, name: str) -> str:
    """Return the full name of what a folder hands out, where it is defined."""
    found = getattr(module, name)
    where = getattr(found, "__module__", None)
    return f"{where}.{name}" if str(where).startswith("plait") else name


def about(room: str) -> str:
    """Return the first line of a module's docstring."""
    return (importlib.import_module(room).__doc__ or "").strip().splitlines()[0]


def heading(text: str, line: str) -> list[str]:
    """Return a heading."""
    return [text, line * len(text), ""]


def directive(module: str) -> list[str]:
    """Return what asks Sphinx for all that a module defines."""
    return [f".. automodule:: {module}", "   :members:", "   :ignore-module-all:", ""]
