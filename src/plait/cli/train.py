"""Commands on a configuration: count what it costs, match it with another, train it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from plait import recipes
from plait.cli.options import Base
from plait.cli.output import console, say
from plait.config import ModelConfig, TrainConfig
from plait.config.limits import MOST_TOKENS
from plait.config.matching import TOLERANCE
from plait.config.matching import match as find_match
from plait.studies.changes import kept_shares


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and on what a run trains; none of it changes the experiment."""

    name: str | None = None
    """of the variant, in the run folder's name; None: the recipe's"""
    study: str = "single"
    """folder under `runs` that the run belongs to"""
    runs: Path = Path("runs")
    """folder of all runs"""
    device: str | None = None
    """as torch names it; None: CUDA where there is one, else the CPU"""
    threads: int | None = None
    """threads of torch; None: its own choice"""
    mesh: str | None = None
    """several processes: "replicate=2 shard=4 expert=2 resident=1" (docs/scale.md); None: shard
    over all"""
    compile: bool = False
    """steps by torch.compile, a graph for each depth; for GPUs, minutes to begin (docs/scale.md)"""
    checkpoints: str | None = None
    """address beneath which they are kept, such as s3://bucket/runs; None: in the run's folder"""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """further sinks for the metrics, such as tensorboard wandb"""


def plan(
    config: str,
    /,
    model: Annotated[ModelConfig, Base(recipes.model_config, recipes.RECIPES)],
    mesh: str | None = None,
    sequences: int = 1,
    precision: Literal["fp32", "bf16"] = "bf16",
    optimizer: Literal["adamw", "muon"] = "adamw",
    recompute: bool = False,
) -> None:
    """Count parameters, FLOPs and memory of a model without allocating any weights.

    Options of the model follow: `plait plan olmoe --sharing.experts "groups(4, skip=2)"`.

    Args:
        config: a recipe, or a YAML file of a model or of a run.
        model: what the options change.
        mesh: also say what each process of "replicate=2 shard=8 expert=8" holds and receives;
            resident=2 lets it hold two tied banks more, which then stay gathered between uses.
        sequences: with mesh: of the model's context, that a process takes at once.
        precision: with mesh: of the products.
        optimizer: with mesh: whose moments are held.
        recompute: with mesh: as activation_checkpointing does.
    """
    from plait.parallel import ParallelConfig
    from plait.parallel.footprint import footprint
    from plait.report.terminal.plan_table import footprint_table, plan_summary

    layout = None if mesh is None else ParallelConfig.parse(mesh)
    if sequences < 1:
        raise ValueError(f"sequences is {sequences}: at least 1")
    found = None
    if layout is not None:
        found = footprint(
            model,
            layout,
            sequences * model.context,
            precision=precision,
            optimizer=optimizer,
            checkpointing=recompute,
        )
    console.print(plan_summary(config, model))
    if found is not None:
        title = f"{layout}; {precision}, {optimizer}, {sequences} × {model.context:,} tokens"
        console.print("", footprint_table(title, found))


def match(
    config: str,
    /,
    model: Annotated[ModelConfig, Base(recipes.model_config, recipes.RECIPES)],
    to: str,
    equal: str = "stored",
    vary: str | None = None,
    tolerance: float = TOLERANCE,
    multiple: int = 8,
    out: Path | None = None,
) -> None:
    """Change a model until it costs what another one does: the control of a fair comparison.

    The fields are tried in their order, each alone, then two together, and so on; the first that
    meet the tolerance are taken, at the numbers that come nearest. Where none do, it says how near
    they came and writes nothing. Options of the model come first: `plait match nano
    --sharing.experts "groups(4, skip=2)" --to nano`.

    Args:
        config: the model that changes: a recipe, or a YAML file of a model or of a run.
        model: what the options change.
        to: the model whose budgets are wanted, named likewise.
        equal: the budgets, of stored,active,flops,kv: parameters, FLOPs of a forward per token,
            bytes of the key/value cache per token.
        vary: fields that may change, of experts,expert-width,top-k,width,depth; None: the first two
            for stored, expert-width and top-k for active and flops, depth and width for a kv that
            differs.
        tolerance: the largest difference that counts as equal, as a share.
        multiple: new widths are multiples of this.
        out: YAML file to write: the run with its new model, or the model where CONFIG is one.
    """
    from plait.config.files import save_yaml
    from plait.report.terminal.match_table import match_summary

    if out is not None and out.exists():
        raise ValueError(f"{out} is there already: choose another file, or remove it")
    other = recipes.model_config(to)
    found = find_match(model, other, equal, vary, tolerance=tolerance, multiple=multiple)
    console.print(match_summary(config, to, found))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_yaml(recipes.with_model(config, found.config), out)
        say(f"configuration: {out}")


def _as_tokens(run: TrainConfig, given: dict[str, Any]) -> dict[str, Any]:
    """What keeps its share of a run, where its tokens are given."""
    tokens = given.get("tokens", 0)
    return kept_shares(run, tokens) if 0 < tokens <= MOST_TOKENS else {}


def train(
    config: str,
    /,
    experiment: Annotated[TrainConfig, Base(recipes.train_config, recipes.RECIPES, _as_tokens)],
    launch: Launch = Launch(),
) -> None:
    """Train one run; the same command again resumes it, or shows its result when it is finished.

    Options of the run follow: `plait train nano --model.sharing.router "blocks(4)"`. With --tokens,
    warm-up, decay, evaluations and checkpoints keep their share of the run, unless given too.

    Args:
        config: a recipe, or a YAML file of a run.
        experiment: what the options change.
        launch: where and on what it trains.
    """
    from plait.cli.data import ensure_corpus
    from plait.parallel import ParallelConfig
    from plait.report.terminal.score_tables import evaluation_summary
    from plait.storage.run_folder import run_folder
    from plait.training.loop import train as train_run
    from plait.training.progress import TrainingBar

    parallel = ParallelConfig.parse(launch.mesh or "")
    ensure_corpus(experiment.data.corpus)
    name = launch.name or Path(config).name.removesuffix(".yaml")
    folder = run_folder(experiment, launch.runs, launch.study, name)
    say(f"run folder: {folder}")
    with TrainingBar(experiment, console) as bar:
        result = train_run(
            experiment,
            folder,
            progress=bar,
            device=launch.device,
            threads=launch.threads,
            parallel=parallel,
            compile=launch.compile,
            track=launch.track,
            checkpoints=launch.checkpoints,
        )
    console.print(evaluation_summary("held-out test split", result.domains))
