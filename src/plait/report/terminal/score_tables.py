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
    """Return downstream scores with their 95 % intervals, and the averages of suites."""
    averages = result["macro_averages"]
    title = f"{title}, lm-eval {result['lm_eval']}"
    table = Table("task", title=title, box=None, padding=(0, 1, 0, 0))
    for column in ("shots", "n", "chance", "acc", "95 %", "acc\nnorm", "ln p\n/char", "95 %"):
        table.add_column(column, justify="right")
    for task, scores in result["tasks"].items():
        table.add_row(
            task,
            str(scores["shots"]),
            f"{scores['documents']:,}",
            f"{scores['chance']:.3f}",
            *_score(scores.get("acc") or scores.get("exact_match"), 3),
            _score(scores.get("acc_norm"), 3)[0],
            *_score(scores.get("log_p_per_character"), 2),
        )
    for suite, average in averages.items():
        table.add_row(suite, "", "", f"{average['chance']:.3f}", *_score(average, 3))
    table.caption = "\n".join(f"{suite}: {average['basis']}" for suite, average in averages.items())
    table.caption_justify = "left"
    return table


def _score(score: Mapping[str, Any] | None, digits: int) -> tuple[str, str]:
    if score is None:
        return "", ""
    low_high = score["interval"]
    interval = "…".join(f"{bound:.{digits}f}" for bound in low_high) if low_high else "unknown"
    return f"{score['value']:.{digits}f}", interval


def surgery_summary(tied: Tied) -> Table:
    """Return what tying or untying did to size and held-out loss."""
    table = Table("", "before", "after", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    table.add_row("stored parameters", f"{tied.parameters_before:,}", f"{tied.parameters_after:,}")
    if tied.loss_before is not None and tied.loss_after is not None:
        before, after = f"{tied.loss_before:.4f}", f"{tied.loss_after:.4f}"
        table.add_row(Text(f"loss on {tied.text} (nats/token)"), before, after)
    return table
