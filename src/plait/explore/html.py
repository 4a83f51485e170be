"""The page as one HTML file: markup, styles and script put together, and the static writer.

Nothing on the page can run but its own script, which its content security policy names by hash;
without a server it may connect to nothing at all, with one to that server only.
"""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from plait.atomic import write_text
from plait.explore.explored_model import open_explored
from plait.report.palette import css_variables

_SCRIPTS = (
    "elements",
    "routing",
    "lanes",
    "flow",
    "path",
    "tokens",
    "selection",
    "colours",
    "readout",
    "page",
)


def render(data: dict[str, Any] | None = None) -> str:
    """Put the page together.

    Args:
        data: {"models": [`describe`…], "texts": [{"text", "analyses": [`analyse` by model]}…]} for
            a page that needs no server; None for the one that a server answers.
    """
    light, dark = css_variables()
    style = (
        f":root{{{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        f":root[data-theme=dark]{{{dark}}}\n" + _asset("page.css")
    )
    modules = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{modules}}})();\n'
    policy = (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; "
        f"img-src data:; connect-src {'none' if data is not None else 'self'!r}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _asset("page.html")
    for place, content in {
        "policy": policy,
        "style": style,
        "script": script,
        "data": _embedded(data),
    }.items():
        assert page.count(f"[[{place}]]") == 1
        page = page.replace(f"[[{place}]]", content)
    return page


def write_static(runs: list[Path], texts: list[str], out: Path, device: str | None = None) -> Path:
    """Write a page for given texts that needs no server and no network.

    Raises:
        ValueError: there is no text, or one is longer than a model reads.
        FileNotFoundError: a run is not there, or the folder to write into.
    """
    if not texts:
        raise ValueError("a page without a server needs its text: give --text")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder: make it first")
    models = open_explored(runs, device)
    html = render(
        {
            "models": [model.describe() for model in models],
            "texts": [
                {"text": text, "analyses": [model.analyse(text) for model in models]}
                for text in texts
            ],
        }
    )
    write_text(out, html)
    return out


def _embedded(data: dict[str, Any] | None) -> str:
    """JSON that is safe inside a script element: no character in it ends one or opens a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (files("plait.explore") / "assets" / name).read_text(encoding="utf-8")


def _sha256(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
