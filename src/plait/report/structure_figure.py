"""A model's structure as a picture: which depths share which bank, a row for each kind of part."""

from plait.config import ModelConfig
from plait.notebook.plan_picture import Paper, Row, plan_picture
from plait.report.palette import INK
from plait.sharing import KINDS

PER_LINE = 16
"""depths side by side; deeper models go on below"""
LONGEST = 26
"""characters of a plan that are shown"""
ORDER = ("norms", "attention", "router", "decision", "collaboration", "experts")


def structure_figure(config: ModelConfig) -> str:
    """Return the picture as SVG that stands alone; see `plan_picture`.

    It has the kinds that every model has, and others where they are shared. A kind of part that a
    depth has none of leaves its place empty: a dense depth has no router, and no more has one that
    takes over the decision of an earlier one.
    """
    always = {"attention", "experts"}
    always |= {"router"} if config.routed_depths else set()
    always |= {"collaboration"} if config.collaboration is not None else set()
    rows = [_row(config, kind) for kind in ORDER if kind in always or _is_shared(config, kind)]
    return plan_picture(rows, PER_LINE, Paper(INK, "#fff")) + "\n"


def _is_shared(config: ModelConfig, kind: str) -> bool:
    plan = getattr(config.plans, kind)
    return bool(plan.count < plan.depth)


def _row(config: ModelConfig, kind: str) -> Row:
    row: Row = getattr(config.plans, kind).row(kind)
    where = {
        "every": range(config.depth),
        "routed": config.routed_depths,
        "deciding": config.deciding_depths,
    }[KINDS[kind].where]
    banks = [bank if depth in where else None for depth, bank in enumerate(row.banks)]
    dense = [bank for depth, bank in enumerate(banks) if config.experts_at(depth) == 1]
    words = {bank: "dense" for bank in dense if bank is not None and kind == "experts"}
    text = row.text if len(row.text) <= LONGEST else f"{row.text[: LONGEST - 1]}…"
    return Row(kind, banks, text, words)
