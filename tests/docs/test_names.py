"""Names on the pages of names lead somewhere: seconds, where building these pages takes a minute.

`make docs` builds them all and refuses what leads nowhere, and the site of `test_site.py` has a few
of them. Here is what they would refuse, by the annotations and docstrings that they show.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

import pytest
import toys

SAID = re.compile(r"(?<!`)`~?(plait\.[\w.]+)`(?!`)")
"""a name of ours between single backticks, which is a link"""


@pytest.fixture(scope="module")
def modules() -> list[ModuleType]:
    """All that have a heading on a page."""
    sys.path.insert(0, str(toys.ROOT / "docs" / "site"))
    try:
        import names
    finally:
        del sys.path[0]
    rooms = [f"plait.{room}" for room in names.room_names()]
    inner = [name for room in rooms for name in names.inner_modules(room)]
    return [importlib.import_module(name) for name in (*rooms, *inner)]


def shown(module: ModuleType) -> dict[str, Any]:
    """The classes and functions that a module's page describes, by their full names."""
    found = {
        name: member
        for name, member in vars(module).items()
        if not name.startswith("_")
        and getattr(member, "__module__", None) == module.__name__
        and (inspect.isclass(member) or inspect.isroutine(inspect.unwrap(member)))
        and member.__doc__
    }
    return {f"{module.__name__}.{name}": member for name, member in found.items()}


def described(name: str, shown_: Any) -> Iterator[tuple[str, Any]]:
    """What is described of a class or a function: itself, and a class' constructor and methods."""
    yield name, shown_
    if not inspect.isclass(shown_):
        return
    yield name, vars(shown_).get("__init__")
    for of_it, member in vars(shown_).items():
        if not of_it.startswith("_"):
            member = getattr(member, "fget", None) or getattr(member, "func", None) or member
            yield f"{name}.{of_it}", getattr(member, "__func__", member)


def classes(annotation: object, within: ModuleType) -> Iterator[type]:
    """The classes that an annotation names."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(within))
        except NameError:  # imported for the type checker alone, and so no link on the page
            return
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    inner = annotation if isinstance(annotation, list) else get_args(annotation)
    for one in inner:
        if not isinstance(one, str):  # of a Literal
            yield from classes(one, within)


def faults(modules: list[ModuleType]) -> set[str]:
    """What leads nowhere on the pages of some modules."""
    links = {name: thing for module in modules for name, thing in shown(module).items()}
    found = set()
    for module in modules:
        said = [(module.__name__, module)]
        said += [one for name, thing in shown(module).items() for one in described(name, thing)]
        for name, thing in said:
            for annotation in (getattr(thing, "__annotations__", None) or {}).values():
                for cls in classes(annotation, module):
                    target = f"{cls.__module__}.{cls.__qualname__}"
                    if target.startswith("plait.") and target not in links:
                        found.add(f"{name} names {target}")
            doc = thing.__doc__ if isinstance(getattr(thing, "__doc__", None), str) else ""
            for target in SAID.findall(doc):
                try:
                    pkgutil.resolve_name(target)
                except (ImportError, AttributeError):
                    found.add(f"{name} says {target}")
    return found


FAULTS = '''
class _Hidden:
    """Not on the page."""

class Silent:
    other: "Shown"

class Shown:
    """On the page, see `plait.sharing.Sharing` and `plait.nothing.at_all`."""

    kept: dict[str, _Hidden]

    def method(self, given: "list[Shown | Silent]") -> None:
        """Do something."""

    @property
    def read(self) -> "tuple[_Hidden, ...] | None":
        """Something."""

def function(how: "Callable[[Shown], _Hidden]") -> "Literal['_Hidden']":
    """Do something."""

def _function(given: _Hidden) -> None:
    """Not on the page."""
'''


def test_what_leads_nowhere_is_found() -> None:
    module = ModuleType("plait.made_up")
    exec(
        f"from collections.abc import Callable\nfrom typing import Literal\n{FAULTS}", vars(module)
    )
    assert faults([module]) == {
        "plait.made_up.Shown says plait.nothing.at_all",
        "plait.made_up.Shown names plait.made_up._Hidden",
        "plait.made_up.Shown.method names plait.made_up.Silent",
        "plait.made_up.Shown.read names plait.made_up._Hidden",
        "plait.made_up.function names plait.made_up._Hidden",
    }


def test_every_name_on_a_page_leads_somewhere(modules: list[ModuleType]) -> None:
    assert len(modules) > 150
    assert faults(modules) == set()
