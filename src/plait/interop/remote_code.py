"""The code that goes with an exported model: one file, made of the model's own source.

It needs torch and transformers alone. What the classes of `plait.interop.modeling` name, they and
what they name in turn, is copied definition by definition, in the order of the imports; kernels are
those of `plait.interop.portable`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from plait.atomic import write_text

FILE = "modeling_plait.py"
CLASSES = {
    "AutoConfig": "PlaitConfig",
    "AutoModel": "PlaitModel",
    "AutoModelForCausalLM": "PlaitForCausalLM",
    "AutoModelForSequenceClassification": "PlaitForSequenceClassification",
}
"""transformers' auto classes, and ours"""
AUTO_MAP = {auto: f"{Path(FILE).stem}.{name}" for auto, name in CLASSES.items()}
"""what `config.json` says of them"""
MODELING = "plait.interop.modeling"
REPLACED = {"plait.kernels": ("plait.interop.portable", "kernels")}
LEFT_OUT = (
    "PlaitForCausalLM.of",
    "Plan.__str__",
    "Plan._text",
    "Plan._terms",
    "ModelConfig.__post_init__",  # a model that was trained is possible
    "ModelConfig.experts_by_bank",
    "ModelConfig.depths_of",
)
"""methods that no forward needs"""
LICENCE = '''\
# Copyright The Plait contributors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""A Plait model (a mixture of experts whose layers share) for transformers, in one file.

Made by `plait export` from Plait's own source; changes belong there. It needs torch and
transformers alone, and loads with `trust_remote_code=True`.
"""
'''

Code = Literal["file", "import"]


def write_code(folder: Path, code: Code) -> None:
    """Write the file that `auto_map` names: self-contained, or one line that imports Plait."""
    names = ", ".join(CLASSES.values())
    text = source() if code == "file" else f"from plait.interop import {names}  # noqa: F401\n"
    write_text(folder / FILE, text)


@cache
def source() -> str:
    """Return the self-contained file."""
    needed: dict[str, set[str]] = {}
    after: dict[str, set[str]] = {}
    outside: set[tuple[str, str]] = set()
    open_ = [(MODELING, name) for name in CLASSES.values()]
    open_ = [_home(*one) for one in open_]
    while open_:
        module, name = open_.pop()
        if name in needed.setdefault(module, set()):
            continue
        needed[module].add(name)
        after.setdefault(module, set())
        for used in _Module.of(module).definitions[name].names:
            if used in _Module.of(module).outside:
                outside.add(_Module.of(module).outside[used])
            elif _Module.of(module).knows(used):
                home = _home(module, used)
                open_.append(home)
                if home[0] != module:
                    after[module].add(home[0])
    order = list(TopologicalSorter({m: sorted(after[m]) for m in sorted(after)}).static_order())
    names = [name for module in order for name in needed[module]]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"two modules define {twice}: rename one"
    parts = [LICENCE.rstrip(), *_imports(outside)]
    for module in order:
        parts += _Module.of(module).section(needed[module])
    return "\n".join(parts).rstrip() + "\n"


@dataclass
class _Definition:
    """A statement at the top of a module: its text, and the names that it mentions."""

    text: str
    names: set[str]


@dataclass
class _Module:
    """A module of ours, read."""

    name: str
    title: str = ""
    definitions: dict[str, _Definition] = field(default_factory=dict)
    """by what they define, in order"""
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)
    """names imported from other modules of ours: module and name"""
    outside: dict[str, tuple[str, str]] = field(default_factory=dict)
    """names imported from elsewhere: module, and name or nothing for the module itself"""

    @staticmethod
    @cache
    def of(name: str) -> "_Module":
        """Read a module."""
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        lines, body = text.splitlines(), ast.parse(text).body
        module = _Module(name, title=lines[0].strip('"'))
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.Import):
                module.outside |= {a.asname or a.name: (a.name, "") for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                if node.module.split(".")[0] == "plait":
                    assert all(a.asname is None for a in node.names), f"{name} renames an import"
                    module.ours |= {a.name: (node.module, a.name) for a in node.names}
                else:
                    imported = {
                        a.asname or a.name: (node.module, ast.unparse(a)) for a in node.names
                    }
                    module.outside |= imported
            else:
                defined = list(_defined(node))
                if not defined:
                    continue
                described = isinstance(following, ast.Expr) and following.end_lineno
                end = described or node.end_lineno or node.lineno
                definition = _Definition(_text(lines, node, end), set(_mentioned(node)))
                module.definitions |= dict.fromkeys(defined, definition)
        return module

    def knows(self, name: str) -> bool:
        """Whether the module defines or imports a name, which otherwise is Python's own."""
        return name in self.definitions or name in self.ours

    def section(self, names: set[str]) -> Iterator[str]:
        """Yield the definitions of these names as they stand, under the module's title."""
        yield f"\n\n# {self.name}\n# {self.title}"
        apart = True
        for text in dict.fromkeys(d.text for n, d in self.definitions.items() if n in names):
            before, apart = apart, text.startswith(("def ", "class ", "@"))
            yield f"\n\n{text}" if before or apart else text


def _home(module: str, name: str) -> tuple[str, str]:
    """Return the module that defines what `name` is in `module`, and its name there."""
    while name not in _Module.of(module).definitions:
        module, name = _Module.of(module).ours[name]
        module, name = REPLACED.get(f"{module}.{name}", (module, name))
    return module, name


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def _mentioned(node: ast.stmt) -> Iterator[str]:
    left_out = {id(inner) for method in _methods_left_out(node) for inner in ast.walk(method)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and id(inner) not in left_out:
            yield inner.id


def _methods_left_out(node: ast.stmt) -> list[ast.FunctionDef]:
    if not isinstance(node, ast.ClassDef):
        return []
    methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
    return [method for method in methods if f"{node.name}.{method.name}" in LEFT_OUT]


def _text(lines: list[str], node: ast.stmt, end: int) -> str:
    """Return the lines of a definition, without what only checkers read."""
    gone = {
        line
        for method in _methods_left_out(node)
        for line in range(_first(method) - 1, (method.end_lineno or 0) + 1)
    }
    kept = [lines[at - 1] for at in range(_first(node), end + 1) if at not in gone]
    return "\n".join(re.sub(r"  # (type: ignore|noqa|fmt:)\S*.*$", "", line) for line in kept)


def _first(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    first: int = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return first


def _imports(names: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the import statements, the standard library's first."""
    others = ("torch", "transformers")
    for group in (False, True):
        mine = sorted(one for one in names if (one[0].split(".")[0] in others) == group)
        yield ""
        yield from (f"import {module}" for module, name in mine if not name)
        for module in dict.fromkeys(module for module, name in mine if name):
            wanted = [name for of, name in mine if of == module and name]
            line = f"from {module} import {', '.join(wanted)}"
            long = "".join(f"    {name},\n" for name in wanted)
            yield line if len(line) <= 100 else f"from {module} import (\n{long})"
