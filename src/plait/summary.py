"""What the command line prints of a configuration and of held-out losses, as rich tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from plait.config import ModelConfig
from plait.counts import count, kv_cache_bytes_per_token

if TYPE_CHECKING:
    from plait.interop.surgery import Tied

GIB = 2**30


def plan_summary(name: str, config: ModelConfig) -> Group:
    """Return sizes, cost, memory and sharing of a model, from arithmetic alone."""
    counts = count(config)
    sizes = Table("", "", title=f"{name}: depth {config.depth}, width {config.width}", box=None)
    sizes.columns[1].justify = "right"
    sizes.show_header = False
    for label, value in (
        ("total parameters, as if nothing were shared", _quantity(counts.total)),
        ("stored parameters", _quantity(counts.stored)),
        ("active parameters per token", _quantity(counts.active)),
        ("FLOPs per token, forward", _quantity(counts.flops_forward)),
        ("FLOPs per token, training", _quantity(counts.flops_training)),
        ("weights in fp32", f"{4 * counts.stored / GIB:.2f} GiB"),
        ("weights, gradients and AdamW state in fp32", f"{16 * counts.stored / GIB:.2f} GiB"),
        ("key/value cache per token in bf16", f"{kv_cache_bytes_per_token(config):,} bytes"),
    ):
        sizes.add_row(label, value)
    parts = Table("part", "stored parameters", "share", title="stored", box=None)
    parts.columns[1].justify = parts.columns[2].justify = "right"
    for part, stored in sorted(counts.stored_by_part.items(), key=lambda item: -item[1]):
        parts.add_row(part, _quantity(stored), f"{stored / counts.stored:.1%}")
    plans = Table("part", "plan", "banks", title="sharing over depth", box=None)
    plans.columns[2].justify = "right"
    for part in ("experts", "router", "decision", "attention", "norms", "collaboration"):
        if part == "collaboration" and config.collaboration is None:
            continue
        plan = getattr(config.plans, part)
        plans.add_row(part, Text(str(plan)), str(plan.count))
    return Group(sizes, Text(), parts, Text(), plans)


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


def surgery_summary(tied: "Tied") -> Table:
    """Return what tying or untying did to size and held-out loss."""
    table = Table("", "before", "after", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    table.add_row("stored parameters", f"{tied.parameters_before:,}", f"{tied.parameters_after:,}")
    if tied.loss_before is not None and tied.loss_after is not None:
        before, after = f"{tied.loss_before:.4f}", f"{tied.loss_after:.4f}"
        table.add_row("held-out loss (nats/token)", before, after)
    return table


def _quantity(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:.0f}"
