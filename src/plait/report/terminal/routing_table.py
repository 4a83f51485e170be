"""The metrics of traced models as a table: a row for each metric, a column for each model."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from plait.report.numbers import signed
from plait.routing.analysis import Analysis
from plait.routing.metrics.paths import mean_of
from plait.routing.trace import TraceInfo
from plait.statistics import Estimate


def routing_table(analyses: Sequence[Analysis]) -> Table:
    """One row per metric, one column per model: value, its 95 % interval, and chance."""
    first = analyses[0]
    result = Table(
        title=f"Routing of {first.tokens:,} tokens in {first.documents:,} documents",
        caption="value [95 % interval over documents] · chance = independent uniform choice",
        caption_justify="left",
    )
    result.add_column("metric")
    for analysed in analyses:
        result.add_column(Text(analysed.info.model), justify="right")
    joints = {1: (" ", " · "), 2: (" ", "\n")}.get(len(analyses), ("\n", "\n"))
    for name, values in readings(analyses):
        result.add_row(name, *[Text(_shown(value, *joints)) for value in values])
    return result


Reading = Estimate | str | None
"""what a cell holds: a figure with interval and chance, or text; None: the model has none"""


def readings(analyses: Sequence[Analysis]) -> list[tuple[str, list[Reading]]]:
    """Each metric that any of the models has, with its reading of every model."""
    columns = [dict(_rows(analysed)) for analysed in analyses]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [column.get(name) for column in columns]) for name in names]
    return [row for row in rows if any(value is not None for value in row[1])]


def reading_number(value: float) -> str:
    """A figure with three digits and a real minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def _rows(analysed: Analysis) -> list[tuple[str, Reading]]:
    """Rows of one model in the order of the table, None where it has no such figure."""
    info, found = analysed.info, analysed
    same = found.consistency.within_shared is not None
    rows: list[tuple[str, Reading]] = [
        ("experts · top-k · routed depths", _structure(info)),
        ("different paths", f"{found.entropy.distinct:,.0f}"),
        ("path entropy, nats", found.entropy.plug_in),
        ("path entropy, Miller–Madow, nats", found.entropy.miller_madow),
    ]
    for width, window in found.windows.items():
        rows.append((f"path entropy, windows of {width} depths, nats", window.miller_madow))
    for n in (10, 100):
        if n in found.coverage.shares:
            rows.append((f"tokens on the {n} most frequent paths", found.coverage.shares[n]))
    rows += [
        ("consistency (Jaccard), neighbouring depths", found.consistency.adjacent),
        ("consistency where labels are shared", found.consistency.within_shared),
        ("mutual information / entropy, label-free", found.information.adjacent),
        ("longest run of one expert, depths", found.engagement.longest if same else None),
        ("tokens with a run ≥ 4 depths", found.engagement.four if same else None),
        ("agreement in tied groups", _mean(list(found.agreement.values()))),
        ("load, max / mean (MaxVio)", _mean(found.load.max_over_mean)),
        ("dead experts per depth", _mean(found.load.dead)),
        ("load entropy, nats", _mean(found.load.entropy)),
        ("router entropy, nats", _mean(found.router_entropy or ())),
        ("entropy of expert pairs, nats", _mean([c.pair_entropy for c in found.coactivation])),
        ("token tells expert, I / H", _mean(found.token_information)),
    ]
    if found.domains is not None:
        rows += [
            ("specialisation by domain, mean |s|", _mean(found.domains.mean_index or ())),
            ("expert tells domain, chance-corrected", _mean(found.domains.corrected)),
            ("path tells domain, I / H", found.path_domains),
        ]
    if (about := found.classes) is not None:
        by_depth = _mean([part.share for part in about.kind.by_depth])
        rows.append(("expert tells class of token, beyond chance", by_depth))
        for width, of_width in about.kind.windows.items():
            rows.append((f"windows of {width} depths tell it, beyond chance", of_width.share))
        rows.append(("path tells class of token, beyond chance", about.kind.path.share))
        if about.place is not None:
            rows.append(("path tells where a word begins, beyond chance", about.place.path.share))
    topology_entropy = None
    if found.topologies:
        trained = np.mean([t.row_entropy for t in found.topologies])
        untrained = np.mean([t.untrained_row_entropy for t in found.topologies])
        topology_entropy = f"{trained:.3f} ({untrained:.3f})"
    rows.append(("row entropy of S (untrained), nats", topology_entropy))
    ablated = [p for p in found.robustness if p.kind == "random depth"]
    if ablated:
        worst = max(ablated, key=lambda p: p.rise)
        mean = float(np.mean([p.rise for p in ablated]))
        each = f"worst {signed(worst.rise)} (depth {worst.setting:g}), mean {signed(mean)}"
        rows.append(("rise of loss: one depth random, nats", each))
    for perturbed in found.robustness:
        if perturbed.kind == "random depth":
            continue
        setting = "" if perturbed.setting is None else f" {perturbed.setting:g}"
        spread = "" if perturbed.spread is None else f" ± {perturbed.spread:.3f}"
        percent = 100 * (perturbed.perplexity_ratio - 1)
        rise = f"{signed(perturbed.rise)}{spread} ({signed(percent, 0)} % PPL)"
        rows.append((f"rise of loss: {perturbed.kind}{setting}, nats", rise))
    return rows


def _structure(info: TraceInfo) -> str:
    counts = sorted(set(info.experts))
    experts = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"{experts} · {info.top_k} · {len(info.routed)} of {info.depth}"


def _mean(parts: Sequence[Estimate | None]) -> Estimate | None:
    known = [part for part in parts if part is not None]
    return mean_of(known) if known else None


def _shown(value: Reading, before_interval: str, before_chance: str) -> str:
    """A cell; columns of several models are narrow, so each part has a line of its own there."""
    if not isinstance(value, Estimate):
        return "–" if value is None else value
    interval = ""
    if value.low is not None and value.high is not None:
        low, high = reading_number(value.low), reading_number(value.high)
        interval = f"{before_interval}[{low}, {high}]"
    by_chance = ""
    if value.chance is not None:
        by_chance = f"{before_chance}chance {reading_number(value.chance)}"
    return f"{reading_number(value.value)}{interval}{by_chance}"
