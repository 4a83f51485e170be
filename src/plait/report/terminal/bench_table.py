"""What `plait bench` measured, as a table of ratios."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def bench_table(result: Mapping[str, Any]) -> Table:
    """Return the result as a table of ratios."""
    machine = result["machine"]
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    out = Table(title="A whole training step against transformers", caption=about)
    columns = (
        "shape",
        "precision",
        "× transformers",
        "× at our settings",
        "× in pure bf16",
        "× compiled",
        "share of ceiling",
        "memory ×",
        "decoding ×",
        "tokens/s",
        "its experts by plait ×",
    )
    for column in columns:
        out.add_column(column, justify="left" if column in columns[:2] else "right")
    for name, entry in result["shapes"].items():
        for precision in (known for known in ("fp32", "bf16") if known in entry):
            _add(out, name, precision, entry[precision], entry.get("decoding_ratio"))
            if "muon" in entry[precision]:
                _add(out, name, f"{precision}, Muon", entry[precision]["muon"], None)
        for variant, speed in entry.get("shared", {}).items():
            out.add_row(name, variant.replace("_", " "), f"{speed:.2f} × plain", *[""] * 8)
    return out


def _add(
    out: Table, shape: str, how: str, row: Mapping[str, Any], decoding_ratio: float | None
) -> None:
    numbers = (
        row["ratio"],
        row.get("ratio_our_settings"),
        row.get("ratio_pure_bf16"),
        row.get("ratio_compiled"),
        row["ceiling_share"],
        row.get("memory_ratio"),
        decoding_ratio,
    )
    shown = ["–" if number is None else f"{number:.2f}" for number in numbers]
    speed = f"{row['tokens_per_second']:.0f}"
    kernel = f"{row['ratio_experts_in_transformers']:.2f}"
    out.add_row(shape, how, *shown, speed, kernel)
