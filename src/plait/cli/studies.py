"""Commands on studies: the main job."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plait import recipes
from plait.cli import INTERRUPTED
from plait.cli.output import console, say

if TYPE_CHECKING:
    from plait.studies.launchers import Cluster
    from plait.studies.study import Study

RUNS = Path("runs")


def study_list() -> None:
    """List the studies that have a name: their variants, seeds and tokens."""
    from plait.report.terminal.recipe_tables import studies_list

    with warnings.catch_warnings(action="ignore"):  # what a paper states is listed all the same
        studies = {name: recipes.study(name) for name in recipes.STUDIES}
    console.print(studies_list(studies))


def study_run(
    name: str,
    /,
    runs: Path = RUNS,
    jobs: int | None = None,
    device: str | None = None,
    launcher: Literal["slurm", "local"] | None = None,
    gpus_per_run: int = 1,
    nodes: int = 1,
    hours: float = 24.0,
    slurm: tuple[str, ...] = (),
    compile: bool = False,
    checkpoints: str | None = None,
    set: tuple[str, ...] = (),
    tokens: float | None = None,
    seeds: str | None = None,
    variants: tuple[str, ...] = (),
    until: Literal["decided"] | None = None,
    max_seeds: int | None = None,
    tune: bool = False,
    pilot: str | None = None,
    dry_run: bool = False,
    yes: bool = False,
) -> int:
    """Train every run of a study that is not finished yet.

    Before it begins it says how long that takes and, where a pilot is there, what it can resolve.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
        jobs: runs at a time; threads and GPUs are divided among them. None: one for each
            gpus_per_run GPUs; on a CPU a few steps tell what is fastest; slurm: all.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        launcher: slurm submits each run as a job, local starts them as jobs of this machine; both
            need the extra slurm. None: runs are processes of this command.
        gpus_per_run: a run's processes, one for each GPU; torchrun starts more than one.
        nodes: slurm: machines of a run, which share its GPUs alike.
        hours: time limit of a job; a run that takes longer is queued again and resumes.
        slurm: further options of sbatch, such as partition=long account=mine.
        compile: steps by torch.compile, as for plait train.
        checkpoints: address beneath which those of all runs are kept, as for plait train.
        set: options of the training configuration for all variants, such as data.batch=8.
        tokens: of every run; warm-up, decay and evaluations keep their share of it.
        seeds: 0..5 (both ends included) or 0,1,2; None: those it states.
        variants: that are kept, the baseline among them.
        until: decided: look at the seeds three times, and stop where every question is decided.
        max_seeds: with until: the most seeds.
        tune: first find each variant its own learning rate, at half, one and two times the
            baseline's.
        pilot: a study whose finished runs tell the deviation; None: this one's own.
        dry_run: say what would be done, and do nothing.
        yes: begin without asking, however long it takes.
    """
    from plait.studies.restating import restated

    study = restated(
        recipes.study(name),
        options=set,
        tokens=tokens,
        seeds=seeds,
        variants=[one for word in variants for one in word.split(",") if one],
        until_decided=until is not None,
        max_seeds=max_seeds,
        tune=tune,
    )
    cluster = _cluster(launcher, gpus_per_run, nodes, hours, jobs, device, slurm)
    code = begin(
        study,
        runs,
        jobs=jobs,
        device=device,
        pilot=pilot,
        dry_run=dry_run,
        yes=yes,
        gpus_per_run=gpus_per_run,
        compile=compile,
        checkpoints=checkpoints,
        cluster=cluster,
    )
    if code == 0 and not dry_run:
        where = study.name if runs == RUNS else f"{study.name} --runs {runs}"
        say(f"answers: plait study show {where}   report: plait study report {where}")
    return code


def begin(
    study: "Study",
    runs: Path,
    *,
    jobs: int | None,
    device: str | None,
    pilot: str | None,
    dry_run: bool,
    yes: bool,
    deviation: float | None = None,
    gpus_per_run: int = 1,
    compile: bool = False,
    checkpoints: str | None = None,
    cluster: "Cluster | None" = None,
) -> int:
    """Say what a study takes and can resolve, then train what is not finished: its exit code.

    `deviation` is σ of a paired difference where no finished runs tell it, in nats per token. With
    a `cluster` runs are jobs of it.
    """
    import torch

    from plait import kernels
    from plait.cli.data import ensure_corpus
    from plait.data import corpora
    from plait.parallel import default_device
    from plait.report.terminal.forecast import say_forecast
    from plait.studies.devices import visible_gpus
    from plait.studies.forecast import LONG, forecast, waiting_runs
    from plait.studies.launchers import launch, scripts
    from plait.studies.runner import run

    built = True
    for corpus in dict.fromkeys(c.data.corpus for c in study.variants.values()):
        if not dry_run:
            ensure_corpus(corpus)
        elif corpora.is_missing(corpus):
            built = False
            say(f"the corpus {corpus} would be built first; how fast runs are is tried after it")
    cpu = built and cluster is None and default_device(device).type == "cpu"
    if cpu:  # a compiler's minute is seen here; in the log of a run it would not be
        kernels.backend_name("experts", torch.device("cpu"))
    expected = forecast(study, runs, cpu=cpu)
    jobs_here = jobs or max(expected.jobs, len(visible_gpus(device)) // gpus_per_run)
    say_forecast(study, expected, runs, pilot, jobs_here, console, assumed=deviation)
    if dry_run:
        if cluster is not None:
            say(scripts(study, waiting_runs(study, runs), runs, cluster))
        return 0
    if (expected.seconds or 0) > LONG and not yes and not _agreed("Begin?"):
        raise ValueError(
            "not begun: it would take over a day; say --yes, or make it smaller with --tokens, "
            "--seeds or --variants"
        )
    if cluster is not None:
        outcome = launch(study, runs, cluster, console, compile=compile, checkpoints=checkpoints)
    else:
        outcome = run(
            study,
            runs,
            jobs=jobs_here,
            device=device,
            gpus_per_run=gpus_per_run,
            compile=compile,
            checkpoints=checkpoints,
            console=console,
        )
    return INTERRUPTED if outcome.interrupted else outcome.exit_code


def _cluster(
    launcher: Literal["slurm", "local"] | None,
    gpus_per_run: int,
    nodes: int,
    hours: float,
    jobs: int | None,
    device: str | None,
    options: tuple[str, ...],
) -> "Cluster | None":
    from plait.studies.launchers import Cluster

    if launcher is None:
        if nodes > 1 or options:
            raise ValueError("--nodes and --slurm are of a cluster: say --launcher slurm")
        return None
    if unclear := [option for option in options if "=" not in option]:
        raise ValueError(f"--slurm {unclear[0]}: give options of sbatch as NAME=VALUE")
    named = dict(option.split("=", 1) for option in options)
    return Cluster(launcher, gpus_per_run, nodes, hours, jobs, device, named)


def _agreed(question: str) -> bool:
    return console.is_terminal and console.input(f"{question} [y/N] ").strip().lower() == "y"


def study_power(
    name: str,
    /,
    runs: Path = RUNS,
    pilot: str | None = None,
    seeds: int | None = None,
    effect: float | None = None,
) -> None:
    """Say what a study can resolve: deviation, smallest effect, seeds and minutes per question.

    Args:
        name: a study's name, FILE.py:FUNCTION, or the name of a study in the folder of runs.
        runs: folder of all runs.
        pilot: name of the study whose finished runs tell the deviation; None: this one's own.
        seeds: that the study will have; None: those it states.
        effect: difference in nats per token to be detected; None: each question's margin.
    """
    from plait.report.terminal.power_table import show
    from plait.studies.planning import resolutions
    from plait.studies.results import STUDY, read_study

    if name not in recipes.STUDIES and (runs / name / STUDY).is_file():
        there = read_study(runs / name)
        planned, questions, states = name, there.contrasts, len(there.seeds)
    else:
        study = recipes.study(name)
        planned, questions, states = study.name, study.questions, len(study.seeds)
    found = read_study(runs / (pilot or planned))
    asked = resolutions(found, questions, seeds or states, effect)
    show(asked, f"study {found.name}", console)


def study_show(name: str, /, runs: Path = RUNS) -> None:
    """Print the table of a study, as far as it has come.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
    """
    from plait.report.terminal.study_table import show

    show(runs / _name(name), console)


def study_report(
    name: str,
    /,
    runs: Path = RUNS,
    out: Path | None = None,
    figures: tuple[Literal["svg", "png", "pdf"], ...] = (),
    routing_tokens: int = 20_000,
    device: str | None = None,
) -> None:
    """Write the report of a study: one HTML file that needs no network.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        runs: folder of all runs.
        out: the HTML file; by default report.html in the study's folder.
        figures: also write every figure in these formats.
        routing_tokens: held-out tokens traced for the section on routing; 0: no such section.
        device: that the traced models run on, as torch names it; None: CUDA where there is one,
            else the CPU.
    """
    from plait.report.study.routing_section import study_section
    from plait.report.study.study_report import write_report

    folder = runs / _name(name)
    with console.status("routing"):
        section = study_section(folder, routing_tokens, device) if routing_tokens else None
    sections = [section] if section is not None else []
    path = write_report(folder, out, sections=sections, figure_formats=figures)
    say(f"report: {path}")


def study_publish(name: str, /, out: Path, runs: Path = RUNS) -> int:
    """Copy a study without its weights: plan, configurations, results, report.

    It is small enough to be kept under git, and `plait verify` holds its chain, which is tried at
    once: exits with 1 where runs have finished since the report was made. What was published of
    the study before is replaced.

    Args:
        name: a study's name, or FILE.py:FUNCTION.
        out: the folder of published studies.
        runs: folder of all runs.
    """
    from plait.studies.publishing import publish_study
    from plait.verification import verify

    published = publish_study(runs / _name(name), out)
    say(f"published: {published}")
    broken = [check for check in verify(published) if check.problem]
    for check in broken:
        say(f"BROKEN  {check.what}: {check.problem}")
    if broken:
        say("what is amiss with the report is mended by plait study report; then publish again")
    return 1 if broken else 0


def _name(name: str) -> str:
    return recipes.study(name).name if ".py:" in name else name
