"""Colours, one table for charts and page: the light values in figure files, CSS variables in HTML.

The series colours follow Okabe & Ito's colour-blind-safe set, darkened until they read on white and
lightened for a dark page; shape and dash repeat what colour says, for print without colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

INK = "#1d2126"
MUTED = "#59636e"
RULE = "#dde0dd"
BAND = "#eceeea"
BASELINE = "#6a737d"
SERIES = (
    "#0068b3",
    "#c96a00",
    "#00805c",
    "#b0508e",
    "#3d9fd6",
    "#c23b17",
    "#8a7d00",
    "#6a4fb3",
    "#7a4a2b",
)

DARK = {
    INK: "#e6e8ea",
    MUTED: "#9aa4af",
    RULE: "#343a41",
    BAND: "#262b31",
    BASELINE: "#a8b1bb",
    **dict(
        zip(
            SERIES,
            (
                "#5aaee8",
                "#f0a13c",
                "#3cc39b",
                "#e08fc0",
                "#a5d8f7",
                "#ff8363",
                "#d6c84a",
                "#b39df0",
                "#cfa07c",
            ),
            strict=True,
        )
    ),
}
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    BAND: "--band",
    BASELINE: "--baseline",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)},
}
BASELINE_SHAPE = "circle"
SHAPES = (
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "triangle-right",
    "M-1-.5-.5-1 0-.5.5-1 1-.5.5 0 1 .5.5 1 0 .5-.5 1-1 .5-.5 0Z",
    "triangle-left",
    "M0-1 .25-.31 .95-.31 .38.12 .59.81 0 .4-.59.81-.38.12-.95-.31-.25-.31Z",
)
"""symbols of the variants as Vega takes them: by name, or as a path between −1 and 1"""
DASHES = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2))
SEQUENTIAL: Literal["viridis"] = "viridis"
"""for heatmaps: even steps for the eye, in grey, and with any colour vision"""
DIVERGING = ("#2166ac", "#e4e4df", "#b35806")
"""for heatmaps that part at a neutral value: below, at it, above"""

_OUTLINES = {
    "circle": "M-.82 0a.82.82 0 1 0 1.64 0a.82.82 0 1 0-1.64 0Z",
    "square": "M-.76-.76H.76V.76H-.76Z",
    "triangle-up": "M0-.9 .95.8H-.95Z",
    "triangle-down": "M0 .9 .95-.8H-.95Z",
    "triangle-right": "M.9 0-.8.95V-.95Z",
    "triangle-left": "M-.9 0 .8.95V-.95Z",
    "diamond": "M0-1 1 0 0 1-1 0Z",
    "cross": "M-1-.33H-.33V-1H.33V-.33H1V.33H.33V1H-.33V.33H-1Z",
}


@dataclass(frozen=True)
class Series:
    """How one variant looks in every chart and table of a report."""

    name: str
    colour: str
    shape: str
    dash: tuple[int, ...]

    @property
    def variable(self) -> str:
        """The colour as a CSS value that follows light and dark."""
        return f"var({VARIABLES[self.colour]})"

    @property
    def outline(self) -> str:
        """The symbol as an SVG path between −1 and 1, for what is no chart."""
        return _OUTLINES.get(self.shape, self.shape)


def series(variants: Sequence[str], baseline: str) -> tuple[Series, ...]:
    """A look for each variant: the baseline a grey circle and unbroken, then all three change.

    Up to ten variants have a colour and a symbol each of their own; later ones repeat them in other
    pairs, all different up to 82.
    """
    looks = []
    position = 0
    for name in variants:
        if name == baseline:
            looks.append(Series(name, BASELINE, BASELINE_SHAPE, DASHES[0]))
            continue
        turn, colour = divmod(position, len(SERIES))
        shape = SHAPES[(position + turn) % len(SHAPES)]
        looks.append(Series(name, SERIES[colour], shape, DASHES[(position + turn) % len(DASHES)]))
        position += 1
    return tuple(looks)


def css_variables() -> tuple[str, str]:
    """Declarations of the variables for a light and for a dark page."""
    light = "".join(f"{name}:{colour};" for colour, name in VARIABLES.items())
    dark = "".join(f"{VARIABLES[colour]}:{value};" for colour, value in DARK.items())
    return light, dark


def themed(spec: Any) -> Any:
    """A chart specification with our colours replaced by their CSS variables, data untouched."""
    if isinstance(spec, dict):
        return {
            key: value if key in ("data", "datasets", "domain") else themed(value)
            for key, value in spec.items()
        }
    if isinstance(spec, list):
        return [themed(item) for item in spec]
    return f"var({VARIABLES[spec]})" if isinstance(spec, str) and spec in VARIABLES else spec
