"""What there is by name: models with the way they train, and studies."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plait.config import ModelConfig, TrainConfig
from plait.config.counts import count
from plait.report.numbers import quantity
from plait.sharing import KINDS
from plait.studies.study import Study


def recipes_table(runs: Mapping[str, TrainConfig]) -> Table:
    """Return a row for each recipe: sizes of its model, tokens; below a name what it shares."""
    table = Table(title="plait train RECIPE", box=None, header_style="dim")
    table.add_column("recipe", no_wrap=True)
    for column in ("depth × width", "experts", "stored", "active", "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, run in runs.items():
        model = run.model
        sizes = count(model)
        experts = max(map(model.experts_at, range(model.depth)))
        shared = _shared(model)
        table.add_row(
            Text(f"{name}\n  shared: {shared}" if shared else name),
            f"{model.depth} × {model.width}",
            f"{model.experts.top_k} of {experts}" if experts > 1 else "dense",
            quantity(sizes.stored),
            quantity(sizes.active),
            quantity(run.tokens),
        )
    return table


def studies_list(studies: Mapping[str, Study]) -> Group:
    """Return for each study variants, seeds and tokens of a run; below it what it is about."""
    lines: list[RenderableType] = [Text("plait study run STUDY", style="italic")]
    for name, study in studies.items():
        tokens = quantity(study.variants[study.baseline].tokens)
        counts = f"{len(study.variants)} variants × {len(study.seeds)} seeds × {tokens} tokens"
        lines.append(Text.assemble((f"{name:<26}", "bold"), "  ", counts))
        about = study.description or ", ".join(study.variants)
        lines.append(Padding(Text(about, style="dim"), (0, 0, 0, 2)))
    return Group(*lines)


def _shared(model: ModelConfig) -> str:
    plans = {kind: getattr(model.sharing, kind) for kind in KINDS}
    return ", ".join(f"{kind} {plan}" for kind, plan in plans.items() if plan != "own")
