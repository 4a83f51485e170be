"""Token text in figures: hostile input (control characters, right-to-left marks, markup)."""

from collections.abc import Callable
from typing import Any

import altair as alt
from markupsafe import Markup

from plait.report.figure import Figure, chart_data
from plait.report.palette import INK
from plait.report.token_text import pieces
from plait.routing.analysis import Analysis
from plait.routing.metrics.classes import PathProfile
from plait.routing.token_classes import CLASSES

TOKENS_SHOWN = 7
STRONG = 6.0
"""log-odds of the largest letters"""


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
        told = path.distinctive
        tokens = zip(told.token_ids, told.log_odds, told.z_scores, strict=True)
        for place, (token, log_odds, z) in enumerate(tokens):
            if place < TOKENS_SHOWN:
                rows.append(
                    {
                        "path": name,
                        "place": place + 1,
                        "token": shown(decode(token)),
                        "log_odds": log_odds,
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
            title="most distinctive tokens, the surest first",
            axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
        ),
    )
    words = base.mark_text(font="monospace", color=INK, limit=95).encode(
        text="token:N",
        size=alt.Size(
            "log_odds:Q",
            title="log-odds",
            scale=alt.Scale(domain=[0, STRONG], range=[9, 17], clamp=True),
            legend=None,
        ),
        tooltip=[
            "token:N",
            alt.Tooltip("log_odds:Q", format=".2f"),
            alt.Tooltip("z:Q", format=".1f"),
            alt.Tooltip("share:Q", format=".2%"),
        ],
    )
    covered = sum(path.distinctive.tokens for path in found.paths) / total
    return Figure(
        f"path-tokens-{number}",
        f"What the most frequent paths carry: {found.info.model}",
        words.properties(height=26 * len(names)),
        f"The {len(names)} most frequent paths ({covered:.1%} of the tokens) and the tokens with "
        "the surest log-odds of being on them (Dirichlet prior); the higher these are, the larger "
        "the letters. · is a space; control characters are shown by name.",
        span="full",
    )


def tokens_table(found: Analysis, decode: Callable[[int], str]) -> Markup:
    """The same as HTML, which fits any width, with each path's main class; all in it is escaped."""
    total = sum(found.tokens_by_domain.values())
    profiles = found.classes.profiles if found.classes else [None] * len(found.paths)
    rows = Markup("")
    for rank, (path, profile) in enumerate(zip(found.paths, profiles, strict=True)):
        told = path.distinctive
        rows += Markup('<tr><th scope="row" class="name">{}</th><td>{}</td>{}{}</tr>').format(
            f"{rank + 1} · " + "→".join(str(expert) for expert in path.experts),
            f"{told.tokens / total:.1%}",
            Markup("") if profile is None else _main_class(profile),
            Markup('<td class="words sized">{}</td>').format(
                Markup(" ").join(
                    Markup('<code style="font-size:{:.2f}em">{}</code>').format(
                        0.85 + 0.75 * min(log_odds / STRONG, 1.0), shown(decode(token))
                    )
                    for token, log_odds in zip(told.token_ids, told.log_odds, strict=True)
                )
            ),
        )
    mostly = Markup('<th scope="col" class="words">Mostly</th>') if found.classes else Markup("")
    return Markup(
        '<h3>{}</h3><div class="scroll" tabindex="0" role="region" aria-label="Paths and tokens">'
        '<table class="plain carried"><thead><tr><th scope="col" class="name">Path</th>'
        '<th scope="col">Share</th>{}<th scope="col" class="words">Most distinctive tokens, the '
        "surest first</th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(found.info.model, mostly, rows)


def _main_class(profile: PathProfile) -> Markup:
    share = profile.share
    return Markup('<td class="words">{} {}<small>[{}, {}]</small></td>').format(
        CLASSES[profile.main], *[f"{value:.0%}" for value in (share.value, share.low, share.high)]
    )


def _mark(name: str) -> str:
    return name if len(name) == 1 else f"‹{name}›"
