"""What there is by name: models with the way they train, and studies."""

from collections.abc import Mapping

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


def studies_table(studies: Mapping[str, Study]) -> Table:
    """Return a row for each study: variants, seeds, tokens of a run, what it is about."""
    table = Table(title="plait study run STUDY", box=None, header_style="dim")
    table.add_column("study", no_wrap=True)
    for column in ("variants", "seeds", "tokens/run"):
        table.add_column(column, justify="right")
    table.add_column("about")
    for name, study in studies.items():
        run = study.variants[study.baseline]
        variants = str(len(study.variants))
        about = Text(study.description or ", ".join(study.variants))
        table.add_row(name, variants, str(len(study.seeds)), quantity(run.tokens), about)
    return table


def _shared(model: ModelConfig) -> str:
    plans = {kind: getattr(model.sharing, kind) for kind in KINDS}
    return ", ".join(f"{kind} {plan}" for kind, plan in plans.items() if plan != "own")
