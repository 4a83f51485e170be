"""Token text in figures: hostile input (control characters, right-to-left marks, markup)."""

from collections.abc import Callable
from typing import Any

import altair as alt
from markupsafe import Markup

from plait.report.figure import Figure, chart_data
from plait.report.token_text import pieces
from plait.routing.analysis import Analysis

TOKENS_SHOWN = 7


def shown(text: str) -> str:
    """A token as text that can hide nothing: marks for control characters, spaces as ␣."""
    parts = []
    for place, part in enumerate(pieces(text)):
        if place % 2 == 0:
            parts.append(part.replace(" ", "·"))
        else:
            parts.append(part if set(part) == {"·"} else _mark(part))
    return "".join(parts)[:24]


def label(text: str) -> str:
    """A domain's name as it may be drawn."""
    return shown(text).replace("·", " ")


def tokens_figure(found: Analysis, decode: Callable[[int], str], number: int) -> Figure | None:
    """The most frequent paths with their share and most distinctive tokens."""
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    total = sum(found.tokens_by_domain.values())
    for rank, path in enumerate(found.paths):
        name = f"{rank + 1} · " + "→".join(str(expert) for expert in path.experts)
        name = name if len(name) <= 44 else name[:43] + "…"
        names.append(name)
        tokens = zip(path.distinctive.token_ids, path.distinctive.z_scores, strict=True)
        for place, (token, z) in enumerate(tokens):
            if place < TOKENS_SHOWN:
                rows.append(
                    {
                        "path": name,
                        "place": place + 1,
                        "token": shown(decode(token)),
                        "z": z,
                        "share": path.distinctive.tokens / total,
                    }
                )
    if not rows:
        return None
    base = alt.Chart(chart_data(rows)).encode(
        y=alt.Y(
            "path:N",
            sort=names,
            title="path (top-1 experts over depth)",
            axis=alt.Axis(labelLimit=300, labelFont="monospace", ticks=False, domain=False),
        ),
        x=alt.X(
            "place:O",
            title="most distinctive tokens, the most telling first",
            axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
        ),
    )
    boxes = base.mark_rect(stroke="white", strokeWidth=2, cornerRadius=3).encode(
        color=alt.Color(
            "z:Q",
            title="log-odds, z-score",
            scale=alt.Scale(range=["#f1f3f4", "#8fbfe0"], interpolate="rgb"),
            legend=alt.Legend(gradientLength=90, gradientThickness=8, tickCount=3),
        ),
        tooltip=["token:N", alt.Tooltip("z:Q", format=".1f"), alt.Tooltip("share:Q", format=".2%")],
    )
    text = base.mark_text(font="monospace", fontSize=11, color="#1d2126", limit=78).encode(
        text="token:N"
    )
    covered = sum(path.distinctive.tokens for path in found.paths) / total
    return Figure(
        f"path-tokens-{number}",
        f"What the most frequent paths carry: {found.info.model}",
        (boxes + text).properties(height=26 * len(names)),
        f"The {len(names)} most frequent paths ({covered:.1%} of the tokens) and the tokens with "
        "the highest log-odds of being on them (Dirichlet prior). · is a space; control characters "
        "are shown by name.",
        span="full",
    )


def tokens_table(found: Analysis, decode: Callable[[int], str]) -> Markup:
    """The same as HTML, which fits any width; everything in it is escaped."""
    total = sum(found.tokens_by_domain.values())
    rows = Markup("")
    for path in found.paths:
        tokens = Markup("\u2002 ").join(
            Markup("<code>{}</code>").format(shown(decode(token)))
            for token in path.distinctive.token_ids
        )
        rows += Markup('<tr><th scope="row" class="name">{}</th><td>{}</td>{}</tr>').format(
            "→".join(str(expert) for expert in path.experts),
            f"{path.distinctive.tokens / total:.1%}",
            Markup('<td class="words">{}</td>').format(tokens),
        )
    return Markup(
        '<h3>{}</h3><div class="scroll" tabindex="0" role="region" aria-label="Paths and tokens">'
        '<table class="plain"><thead><tr><th scope="col" class="name">Path</th>'
        '<th scope="col">Share</th><th scope="col" class="words">Most distinctive tokens, the most '
        "telling first</th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(found.info.model, rows)


def _mark(name: str) -> str:
    return name if len(name) == 1 else f"‹{name}›"
