"""Commands on a configuration: count what it costs, train it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from plait import recipes
from plait.cli.options import Base
from plait.cli.output import console, say
from plait.config import ModelConfig, TrainConfig


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
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """further sinks for the metrics, such as tensorboard wandb"""


def plan(
    config: str, /, model: Annotated[ModelConfig, Base(recipes.model_config, recipes.RECIPES)]
) -> None:
    """Count parameters, FLOPs and memory of a model without allocating any weights.

    Options of the model follow: `plait plan olmoe --sharing.experts "groups(4, skip=2)"`.

    Args:
        config: a recipe, or a YAML file of a model or of a run.
        model: what the options change.
    """
    from plait.report.terminal.plan_table import plan_summary

    console.print(plan_summary(config, model))


def train(
    config: str,
    /,
    experiment: Annotated[TrainConfig, Base(recipes.train_config, recipes.RECIPES)],
    launch: Launch = Launch(),
) -> None:
    """Train one run; the same command again resumes it, or shows its result when it is finished.

    Options of the run follow: `plait train nano --model.sharing.router "blocks(4)"`.

    Args:
        config: a recipe, or a YAML file of a run.
        experiment: what the options change.
        launch: where and on what it trains.
    """
    from plait.cli.data import ensure_corpus
    from plait.report.terminal.score_tables import evaluation_summary
    from plait.storage.run_folder import run_folder
    from plait.training.loop import train as train_run
    from plait.training.progress import TrainingBar

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
            track=launch.track,
        )
    console.print(evaluation_summary("held-out test split", result.domains))
