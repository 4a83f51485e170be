"""What a model costs and shares, before anything is built."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from plait.config import ModelConfig
from plait.config.counts import count, kv_cache_bytes_per_token
from plait.parallel.footprint import Footprint
from plait.report.numbers import memory, quantity
from plait.sharing import KINDS


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
        ("weights in fp32", memory(4 * counts.stored)),
        ("weights, gradients and AdamW state in fp32", memory(16 * counts.stored)),
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


def footprint_table(title: str, bytes_of: Footprint) -> Table:
    """Return what one process of a mesh holds, and what reaches it in a micro-batch."""
    table = Table("of each process", "bytes", title=title, box=None, title_style="")
    table.columns[1].justify = "right"
    held = {
        "weights, fp32": bytes_of.weights,
        "gradients, fp32": bytes_of.gradients,
        "optimizer, fp32": bytes_of.optimizer,
        "gathered at once, and gradients not sent yet": bytes_of.gathered - bytes_of.staying,
        "tied banks that stay gathered between uses": bytes_of.staying,
        "kept for the backward pass": bytes_of.activations,
    }
    received = {
        "weights received": bytes_of.weights_received,
        "gradients received": bytes_of.gradients_received,
        "matrices and updates of Muon received": bytes_of.updates_received,
        "tokens received, under even load": bytes_of.tokens_received,
    }
    for label, size in held.items():
        table.add_row(label, memory(size))
    table.add_row("held at the worst moment", memory(bytes_of.memory), end_section=True)
    table.add_row("received in a micro-batch (gradients and updates in its last)")
    for label, size in received.items():
        if size:
            table.add_row(label, memory(size))
    return table
