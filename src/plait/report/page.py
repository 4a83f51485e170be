"""One HTML file that holds everything: text, styles, charts and the library that draws them.

Its content security policy allows exactly the two scripts that this file puts in (by hash) and
no connection at all, so that hostile text in a corpus or a name cannot do anything, even if an
escape were missed.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from plait.report.figure import Figure, Section, styled
from plait.report.numbers import number, p_value, quantity
from plait.report.palette import css_variables, themed


def render(template: str, sections: Sequence[Section], **context: Any) -> str:
    """Render a template that extends `page.html.j2`; it gets each section's figures with their ids.

    Args:
        template: its name.
        sections: with the figures that are drawn on the page.
        context: further names that the template uses.
    """
    numbered = [
        [(figure, f"figure-{i}-{j}") for j, figure in enumerate(section.figures)]
        for i, section in enumerate(sections)
    ]
    environment = Environment(
        loader=PackageLoader("plait.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, quantity=quantity, p_value=p_value)
    vega, script = _vega(), _text("page.js")
    light, dark = css_variables()
    return environment.get_template(template).render(
        **context,
        sections=[
            {
                "id": f"section-{i}",
                "title": section.title,
                "text": section.text,
                "html": section.html,
                "figures": numbered[i],
                "folded": section.folded,
                "gist": section.gist,
            }
            for i, section in enumerate(sections)
        ],
        specs={id_: embedded(figure) for figures in numbered for figure, id_ in figures},
        vega=Markup(vega),
        script=Markup(script),
        script_hashes=Markup(" ".join(f"'sha256-{_sha256(s)}'" for s in (vega, script))),
        style=Markup(_text("page.css")),
        light=Markup(light),
        dark=Markup(dark),
    )


def embedded(figure: Figure) -> Markup:
    """The chart's specification as JSON that is safe inside a script element."""
    chart: Any = styled(figure.chart).properties(width="container")
    spec = chart.to_dict()
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    if figure.key:
        spec["config"].setdefault("legend", {})["disable"] = True
    text = json.dumps(_finite(themed(spec)), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def _vega() -> str:
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    convert: Any = vl_convert  # its stub misses that the snippet is optional
    bundle: str = convert.javascript_bundle(vl_version=version)
    assert "</script" not in bundle.lower()
    return bundle.replace("\r\n", "\n")


def _text(name: str) -> str:
    return (files("plait.report") / "templates" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null: JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
