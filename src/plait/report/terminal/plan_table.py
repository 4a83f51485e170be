"""What a model costs and shares, before anything is built."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from plait.config import ModelConfig
from plait.config.counts import count, kv_cache_bytes_per_token
from plait.report.numbers import quantity
from plait.sharing import KINDS

GIB = 2**30


def plan_summary(name: str, config: ModelConfig) -> Group:
    """Return sizes, cost, memory and sharing of a model, from arithmetic alone."""
    counts = count(config)
    sizes = Table("", "", title=f"{name}: depth {config.depth}, width {config.width}", box=None)
    sizes.columns[1].justify = "right"
    sizes.show_header = False
    for label, value in (
        ("total parameters, as if nothing were shared", quantity(counts.total)),
        ("stored parameters", quantity(counts.stored)),
        ("active parameters per token", quantity(counts.active)),
        ("FLOPs per token, forward", quantity(counts.flops_forward)),
        ("FLOPs per token, training", quantity(counts.flops_training)),
        ("weights in fp32", f"{4 * counts.stored / GIB:.2f} GiB"),
        ("weights, gradients and AdamW state in fp32", f"{16 * counts.stored / GIB:.2f} GiB"),
        ("key/value cache per token in bf16", f"{kv_cache_bytes_per_token(config):,} bytes"),
    ):
        sizes.add_row(label, value)
    parts = Table("part", "stored parameters", "share", title="stored", box=None)
    parts.columns[1].justify = parts.columns[2].justify = "right"
    for part, stored in sorted(counts.stored_by_part.items(), key=lambda item: -item[1]):
        parts.add_row(part, quantity(stored), f"{stored / counts.stored:.1%}")
    plans = Table("part", "plan", "banks", title="sharing over depth", box=None)
    plans.columns[2].justify = "right"
    for part in KINDS:
        if part == "collaboration" and config.collaboration is None:
            continue
        plan = getattr(config.plans, part)
        plans.add_row(part, Text(str(plan)), str(plan.count))
    return Group(sizes, Text(), parts, Text(), plans)
