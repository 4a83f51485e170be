"""How Sphinx builds the site; `build.py` gathers its pages and calls it."""

import pkgutil
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util import logging

import plait
from plait.report.palette import DARK, INK, MUTED, RULE, SERIES

HERE = Path(__file__).parent
LOG = logging.getLogger(__name__)

project = "Plait"
copyright = "the Plait authors"
release = plait.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
suppress_warnings = [
    "ref.python",  # a type named like an attribute, such as bytes
    "misc.highlighting_failure",  # a cell with shell commands in a notebook
]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a notebook is committed with what it printed

default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:.*", r"(?s)(?!plait\.).*"),  # of other packages, and what is code but no name
    ("py:class", r"plait\..*\.([A-Z]|Size)"),  # type variables
]
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "Plait"
html_static_path = [str(HERE / "page.css")]
html_css_files = ["page.css"]
html_favicon = str(HERE / "icon.svg")
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"


def colours(of: dict[str, str], page: str, surface: str) -> dict[str, str]:
    """Return the theme's variables in the colours of the reports."""
    ink, muted, rule, link = (of.get(colour, colour) for colour in (INK, MUTED, RULE, SERIES[0]))
    return {
        "color-foreground-primary": ink,
        "color-foreground-secondary": muted,
        "color-foreground-muted": muted,
        "color-foreground-border": muted,
        "color-background-primary": page,
        "color-background-secondary": surface,
        "color-background-border": rule,
        "color-brand-primary": ink,
        "color-brand-content": link,
        "color-brand-visited": link,
        "color-api-name": ink,
        "color-api-pre-name": muted,
        "color-sidebar-link-text--top-level": ink,
    }


html_theme_options = {
    "light_css_variables": colours({}, "#fcfcfa", "#f4f5f2"),
    "dark_css_variables": colours(DARK, "#15181c", "#1b1f24"),
}


class NameOrCode(PyXRefRole):
    """What stands between single backticks in a docstring: a link where it is a name of ours."""

    explicit_title_re = re.compile(r"(?!)")  # `runs/<study>` is no title with a target


def math(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers set by themselves."""
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    formula = re.sub("(<mi>log</mi>)(?=<m[is])", r'\1<mspace width="0.17em"/>', formula)
    scrolled = f'<div class="math" tabindex="0">{formula}</div>'
    writer.body.append(scrolled if block else formula)
    raise nodes.SkipNode


def described(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read a docstring in Google's style; |x| is a number there, and no substitution.

    What stands below an attribute is prose: Google's style would take it for `type: text`.
    """
    lines[:] = [re.sub(r"\|(?=\S)", r"\\|", line) for line in lines]
    if what not in ("attribute", "data", "property"):
        style = Config(napoleon_use_rtype=False, napoleon_use_ivar=True)
        lines[:] = GoogleDocstring(lines, style, app, what, name, obj, options).lines()


def where_it_is_defined(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """Let a name that a folder hands out lead to where it is defined."""
    target = node["reftarget"]
    if node.get("refdomain") != "py" or not target.startswith("plait."):
        return None
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return None
    home = f"{getattr(found, '__module__', '')}.{target.rpartition('.')[2]}"
    domain = env.domains.python_domain
    place = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, text)
    return place or (text if app.config.is_a_part else None)


def demand_docstring(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> None:
    """Warn of a public class or function of ours that does not say what it is."""
    function = getattr(obj, "fget", None) or getattr(obj, "func", None) or obj
    ours = str(getattr(function, "__module__", "")).startswith("plait")
    if skip and ours and not name.startswith("_") and not function.__doc__:
        LOG.warning("%s.%s has no docstring", function.__module__, function.__qualname__)


def setup(app: Sphinx) -> None:
    """Register what is made here."""
    app.add_config_value("is_a_part", False, "env", bool)
    app.add_html_math_renderer("mathml", (math, None), (math, None))
    app.add_role_to_domain("py", "obj", NameOrCode(), override=True)
    app.connect("autodoc-skip-member", demand_docstring)
    app.connect("autodoc-process-docstring", described)
    app.connect("missing-reference", where_it_is_defined)
