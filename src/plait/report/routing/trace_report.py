"""`plait trace`: traces, metrics, perturbations and figures of models, into a folder."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.text import Text

from plait.atomic import new_folder, write_json, write_text
from plait.data.tokenizer import require_vocabulary
from plait.evaluation.heldout import LONGEST_WINDOW
from plait.opening import Opened, open_models
from plait.parallel import World
from plait.report.figure import Format, write_figures
from plait.report.routing.routing_page import page
from plait.report.routing.sections import sections
from plait.report.terminal.routing_table import routing_table
from plait.routing.analysis import Analysis, analyse, notes
from plait.routing.metrics.paths import most_frequent
from plait.routing.metrics.topology import topologies
from plait.routing.perturb import ALLOWED, NOISE, Robustness, forwards, robustness
from plait.routing.record import Passage, trace_to_file
from plait.routing.text import passages
from plait.routing.trace import Trace, read_trace
from plait.routing.watched_model import WatchedModel, vocabulary
from plait.routing.watching import watch


def run_trace(
    targets: Sequence[str | Path],
    text: Sequence[str] = (),
    out: str | Path = "routing",
    *,
    tokens: int = 100_000,
    split: str = "test",
    context: int | None = None,
    logits: bool = False,
    perturb_tokens: int = 10_000,
    draws: int = 3,
    noise: Sequence[float] = NOISE,
    formats: Sequence[Format] = ("svg", "png"),
    device: str | None = None,
    console: Console | None = None,
) -> list[Analysis]:
    """Trace models over text and write what their routing does.

    Writes into `out`: a `trace.parquet` (in a folder of its own for each of several models),
    `routing.json` ({"models": [one summary each]}), `routing.html` (one self-contained page) and
    `figures/`; prints the summary table. The folder appears as a whole or not at all; an earlier
    trace in it is replaced. Processes that torchrun started trace and perturb together; the main
    one alone analyses and writes, and has the analyses to return, the others none.

    Args:
        targets: folders of runs, or of Hugging Face MoE models; several are compared on the same
            tokens.
        text: see `plait.routing.text.passages`; empty takes the first run's own corpus.
        out: folder.
        tokens: number of tokens to trace, over all domains.
        split: of a corpus.
        context: window that documents are cut into, tokens; None takes the shortest of the models'.
        logits: also record the full router logits.
        perturb_tokens: held-out tokens for the perturbations (every second document); 0: none.
        draws: of each random perturbation.
        noise: σ values of the noise perturbation.
        formats: of the figure files; () writes none.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        console: where the table and progress are printed.

    Raises:
        ValueError, FileNotFoundError: in one line, with the fix.
    """
    world = World.of_copies(device)
    printed = console or Console(quiet=not world.is_main)
    opened = open_models([Path(target) for target in targets], str(world.device))
    _require_one_tokenizer(opened)
    first = opened[0]
    text_tokens = list(
        passages(text or _own_corpus(first), first.tokenizer, first.first, tokens, split)
    )
    for target in opened:
        largest = (max(passage.token_ids, default=0) for passage in text_tokens)
        require_vocabulary(largest, vocabulary(target.model), target.name)
    watched = [watch(t.model, t.name, t.tokenizer.encoding_fingerprint) for t in opened]
    window = min([context or LONGEST_WINDOW, *[subject.info.context for subject in watched]])
    traced = sum(len(passage.token_ids) for passage in text_tokens)
    names = [_slug(target.name) for target in opened] if len(opened) > 1 else []
    made = ("trace.parquet", "routing.json", "routing.html", "figures", *names)
    with world.on_main(new_folder(Path(out), replaces=made)) as folder:
        analyses = []
        for target, subject in zip(opened, watched, strict=True):
            place = folder / _slug(target.name) if len(opened) > 1 else folder
            with printed.status(Text(f"{target.name}: tracing")) as status:

                def progress(stage: str, name: str = target.name) -> None:
                    status.update(Text(f"{name}: {stage}"))

                began = time.monotonic()
                path = trace_to_file(
                    subject,
                    _counted(text_tokens, progress),
                    place / "trace.parquet",
                    context=window,
                    logits=logits,
                    world=world,
                )
                took = time.monotonic() - began
                trace = read_trace(path, columns=("entropy",)) if world.is_main else None
                changed: list[Robustness] = []
                if perturb_tokens:
                    changed = perturbed(
                        subject,
                        trace,
                        text_tokens,
                        perturb_tokens,
                        context=window,
                        noise=noise,
                        draws=draws,
                        progress=progress,
                        planned=partial(_say_planned, printed, target.name, took / traced),
                        world=world,
                    )
                if trace is None:
                    continue
                found = topologies(target.model, trace)
                analyses.append(
                    analyse(
                        trace,
                        decode=first.tokenizer.token,
                        topologies=found,
                        robustness=changed,
                        progress=progress,
                    )
                )
            printed.print(f"{target.name}: {traced:,} tokens traced", markup=False)
        if world.is_main:
            _write(analyses, first, folder, formats, printed)
    printed.print(f"page: {Path(out) / 'routing.html'}", markup=False)
    return analyses


def _require_one_tokenizer(opened: Sequence[Opened]) -> None:
    first = opened[0]
    for other in opened[1:]:
        if other.tokenizer.encoding_fingerprint != first.tokenizer.encoding_fingerprint:
            raise ValueError(
                f"{other.name} and {first.name} have different tokenizers, so there are no same "
                "tokens to compare them on: trace them apart"
            )


def _own_corpus(opened: Opened) -> list[str]:
    if opened.corpus is None:
        raise ValueError(f"{opened.name} names no corpus of its own: give text with --text SOURCE")
    return [opened.corpus]


def _counted(text_tokens: Sequence[Passage], progress: Callable[[str], None]) -> Iterator[Passage]:
    """Say how far the text was read."""
    read, total = 0, sum(len(passage.token_ids) for passage in text_tokens)
    for passage in text_tokens:
        read += len(passage.token_ids)
        progress(f"tracing {read:,} of {total:,} tokens")
        yield passage


def _say_planned(
    printed: Console, name: str, seconds_per_token: float, runs: float, tokens: int
) -> None:
    printed.print(
        f"{name}: perturbations take {runs:.1f} forwards of {tokens:,} tokens, about "
        f"{seconds_per_token * runs * tokens:,.0f} s",
        markup=False,
    )


def perturbed(
    subject: WatchedModel,
    trace: Trace | None,
    text_tokens: Sequence[Passage],
    limit: int,
    *,
    context: int | None = None,
    noise: Sequence[float] = NOISE,
    draws: int = 3,
    progress: Callable[[str], None] = lambda _: None,
    planned: Callable[[float, int], None] = lambda runs, tokens: None,
    world: World | None = None,
) -> list[Robustness]:
    """Perturb the routing on every second document; the others count the frequent paths.

    Args:
        subject: the model.
        trace: of it on this text; None on processes other than the main one.
        text_tokens: the documents.
        limit: tokens to perturb at the most.
        context: window that documents are cut into, tokens; None: the model's.
        noise: σ values of the noise on logits, for routers whose rule is known.
        draws: of each random perturbation.
        progress: called with what comes next.
        planned: called before the first one with how many forwards there will be, of how many
            tokens.
        world: the processes that call it together; None: this one alone.
    """
    world = world or World(torch.device("cpu"))
    held_out = _every_second(text_tokens, limit)

    def frequent_paths() -> npt.NDArray[np.integer] | None:
        if trace is None or len(text_tokens) == 1:
            return None
        return most_frequent(trace.select(trace.document_N % 2 == 0), max(ALLOWED))[0]

    paths, *_ = world.together(frequent_paths)
    sigmas = noise if subject.can_reroute else ()
    planned(
        forwards(subject.info, frequent_paths=paths, noise=sigmas, draws=draws),
        sum(len(passage.token_ids) for passage in held_out),
    )
    return robustness(
        subject,
        held_out,
        context=context,
        frequent_paths=paths,
        noise=sigmas,
        draws=draws,
        progress=progress,
        world=world,
    )


def _every_second(text_tokens: Sequence[Passage], limit: int) -> list[Passage]:
    """Keep the documents to perturb, at most `limit` tokens of every domain together.

    The others count the frequent paths. Domains take turns, so that a limit leaves out none.
    """
    held_out: list[Passage] = []
    by_domain: dict[str, list[Passage]] = {}
    for passage in text_tokens[1::2] or text_tokens[:1]:
        by_domain.setdefault(passage.domain, []).append(passage)
    for passages_of_domain in by_domain.values():
        left = limit // len(by_domain)
        for passage in passages_of_domain:
            if left > 0:
                held_out.append(Passage(passage.token_ids[:left], passage.domain))
                left -= len(passage.token_ids)
    return held_out


def _write(
    analyses: list[Analysis],
    target: Opened,
    folder: Path,
    formats: Sequence[Format],
    printed: Console,
) -> None:
    printed.print(routing_table(analyses))
    for names, note in notes(analyses):
        printed.print(f"{names}: {note}", markup=False, highlight=False)
    decode = target.tokenizer.token
    summary = {"models": [analysed.to_dict(decode) for analysed in analyses]}
    write_json(folder / "routing.json", summary)
    write_text(folder / "routing.html", page(analyses, decode))
    if formats:
        figures = [f for section in sections(analyses, decode) for f in section.figures]
        with printed.status(f"{len(figures)} figures"):
            write_figures(figures, folder / "figures", formats)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "model"
