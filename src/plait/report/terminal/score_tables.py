"""What a model scores: held-out loss, downstream tasks, and what surgery did to it."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from plait.surgery.tying import Tied


def evaluation_summary(title: str, domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return held-out loss by domain."""
    table = Table("domain", title=title, box=None)
    for column in ("loss (nats/token)", "perplexity", "bits per byte", "tokens", "bytes"):
        table.add_column(column, justify="right")
    for domain, score in domains.items():
        table.add_row(
            Text(domain),
            f"{score['loss']:.4f}",
            f"{score['perplexity']:.2f}",
            f"{score['bits_per_byte']:.4f}",
            f"{score['tokens']:,}",
            f"{score['bytes']:,}",
        )
    return table


def tasks_summary(title: str, result: Mapping[str, Any]) -> Table:
    """Return downstream scores with their 95 % intervals."""
    table = Table("task", title=f"{title}, lm-eval {result['lm_eval']}", box=None)
    for column in ("shots", "documents", "acc", "95 % interval", "acc_norm"):
        table.add_column(column, justify="right")
    for task, scores in result["tasks"].items():
        normed = scores.get("acc_norm")
        table.add_row(
            task,
            str(scores["fewshot"]),
            f"{scores['documents']:,}",
            *_score(scores["acc"]),
            f"{normed['value']:.4f}" if normed else "",
        )
    macro = result.get("macro_average")
    if macro:
        table.add_row("macro-average", "", "", *_score(macro), "")
    return table


def _score(score: Mapping[str, Any]) -> tuple[str, str]:
    low_high = score["interval"]
    interval = f"{low_high[0]:.4f} … {low_high[1]:.4f}" if low_high else "unknown"
    return f"{score['value']:.4f}", interval


def surgery_summary(tied: Tied) -> Table:
    """Return what tying or untying did to size and held-out loss."""
    table = Table("", "before", "after", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    table.add_row("stored parameters", f"{tied.parameters_before:,}", f"{tied.parameters_after:,}")
    if tied.loss_before is not None and tied.loss_after is not None:
        before, after = f"{tied.loss_before:.4f}", f"{tied.loss_after:.4f}"
        table.add_row("held-out loss (nats/token)", before, after)
    return table
