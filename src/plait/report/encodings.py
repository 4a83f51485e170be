"""Colour, dashes and shapes by model or variant: what one says, the others repeat for print."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from plait.report.palette import MUTED, Series

FOCUS = alt.param(name="focus", value="")
"""the variant that the page's key points at; the others fade"""


def focused(shown: float = 1.0) -> Any:
    """Opacity of marks with a field `variant`, for a chart that has the parameter `FOCUS`."""
    return alt.condition("focus == '' || datum.variant == focus", alt.value(shown), alt.value(0.1))


def colour(looks: Sequence[Series], field: str = "model", *, chance: bool = False) -> Any:
    """Colour by a field that holds the looks' names; with `chance`, that too."""
    values: list[Any] = [look.colour for look in looks]
    return _encoding(alt.Color, looks, field, values, MUTED if chance else None)


def dash(looks: Sequence[Series], field: str = "model", *, chance: bool = False) -> Any:
    """Dashes of lines."""
    values: list[Any] = [list(look.dash) for look in looks]
    return _encoding(alt.StrokeDash, looks, field, values, [4, 3] if chance else None)


def shape(looks: Sequence[Series], field: str = "model") -> Any:
    """Shapes of points."""
    return _encoding(alt.Shape, looks, field, [look.shape for look in looks], None)


def _encoding(
    channel: Any, looks: Sequence[Series], field: str, values: list[Any], at_chance: Any
) -> Any:
    """One legend serves all channels; a single name needs none."""
    names = [look.name for look in looks]
    if at_chance is not None:
        names, values = [*names, "chance"], [*values, at_chance]
    legend: Any = alt.Undefined if len(names) > 1 else None
    scale = alt.Scale(domain=names, range=values)
    return channel(f"{field}:N", title=None, sort=names, scale=scale, legend=legend)
