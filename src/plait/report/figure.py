"""A figure: an altair chart with its words, for the page and as a file of its own."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import altair as alt
from markupsafe import Markup

from plait.report.palette import INK, MUTED, RULE

Format = Literal["svg", "png", "pdf", "json"]
FILE_FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
"""of a figure by itself, which is laid out where it is made: its widths are the same everywhere"""
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """One chart. `name` becomes the file's stem; `span` is its share of the page's width.

    `chart` has no width of its own (the page's column gives it one), and its colours come from
    `plait.report.palette`, so that it follows light and dark.
    """

    name: str
    title: str
    chart: alt.TopLevelMixin
    caption: str = ""
    span: Literal["quarter", "third", "half", "full"] = "half"
    key: bool = False
    """its variants are named by the page's key, so it needs no legend of its own there"""

    @property
    def width(self) -> int:
        """Pixels across when it is a file of its own."""
        return {"quarter": 260, "third": 340, "half": 520, "full": 680}[self.span]

    @property
    def whole(self) -> Any:
        """The chart as it stands by itself: on white, with its title."""
        return styled(self.chart, FILE_FONT).properties(
            width=self.width, title=self.title, background="white"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show it in a notebook as SVG, which needs no network."""
        svg = io.StringIO()
        self.whole.save(svg, format="svg")
        said = f"{self.title}. {self.caption}".rstrip()
        return {"image/svg+xml": svg.getvalue(), "text/plain": said}


@dataclass(frozen=True)
class Section:
    """A part of a report: plain text paragraphs (escaped), figures, then trusted markup.

    `gist` says in a line beside the title what is inside; a page on a screen shows no more of a
    `folded` section until it is opened. On paper all are open.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    html: Markup = field(default_factory=Markup)
    folded: bool = False
    gist: str = ""


def chart_data(rows: Iterable[dict[str, Any]]) -> alt.Data:
    """Rows as the chart's inline data."""
    return alt.Data(values=list(rows))  # type: ignore[no-untyped-call]


def styled(chart: Any, font: str = FONT) -> Any:
    """The chart with this project's calm axes and type."""
    return (
        chart.configure(font=font, background="transparent", padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            titleColor=INK,
            gridColor=RULE,
            domainColor=RULE,
            tickColor=RULE,
            labelFontSize=11.5,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=190,
            labelOverlap=True,
            titlePadding=8,
        )
        .configure_legend(
            orient="bottom",
            columns=3,
            symbolOpacity=1,
            labelColor=INK,
            titleColor=INK,
            labelFontSize=11.5,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=240,
        )
        .configure_title(color=INK, fontSize=13, fontWeight=600, anchor="start")
    )


def write_figures(
    figures: Iterable[Figure], folder: Path, formats: Sequence[Format] = ("svg", "png")
) -> list[Path]:
    """Write each figure as files of its own, on white, with its title: for papers and slides."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure in figures:
        for kind in formats:
            path = folder / f"{figure.name}.{kind}"
            figure.whole.save(str(path), **({"scale_factor": 2} if kind == "png" else {}))
            paths.append(path)
    return paths
